"""Learning from data: `python benchmarks/offline.py [--only PART ...] [--work DIR] [--seeds 10]`.

Parts: figures (what IQL, CQL and BC reach), cheetah (on 200,000 steps of a half-trained SAC), lab
(against the best policy that the data support, by exact value), online (SAC with and without the
data), estimates (off-policy evaluation against exact values), speed (beside d3rlpy: --d3rlpy PYTHON
is an interpreter that has it; both take turns).

Presets were chosen on seeds 100 and 101; the seeds here are 0, 1, 2, …. Data are collected anew
into --work, if they are not there. Written to benchmarks/results/offline.json.
"""

import argparse
import json
import statistics as plain_statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

import actorcritic as ac
from actorcritic import lab
from actorcritic.data import folder
from actorcritic.figures import statistics
from actorcritic.runners.dataset import DatasetSession
from actorcritic.runners.evaluate import Policy

HERE = Path(__file__).resolve().parent
UPDATES = 3_000  # of fitted Q evaluation, where there are 13 states
MIX = {"random": 0.3, "checkpoint-early": 0.3}


def mixed(work, algorithm, environment, steps, mix=MIX, **options):
    """A data set of a run that is trained now: its own policy, and the mixture."""
    place = work / f"{algorithm}-{environment}-{steps}"
    if place.exists():
        return folder.load(place)
    run = ac.train(algorithm, environment, out=work / f"run-{place.name}", quiet=True, **options)
    data = ac.collect(run, steps, mix=mix)
    folder.save(data, place)
    return data


def told(scores):
    found = statistics.aggregate(np.asarray(scores), rng=np.random.default_rng(0))
    row = {"iqm": found.value, "low": found.low, "high": found.high}
    return {name: float(x) for name, x in row.items()} | {"scores": list(map(float, scores))}


ROWS = [
    ("Pendulum-v1", "iql"),
    ("Pendulum-v1", "bc"),
    ("CartPole-v1", "cql"),
    ("CartPole-v1", "iql"),
    ("CartPole-v1", "bc"),
    ("Pendulum-v1", "cql"),
]


def figures(work, seeds, rows):
    """What each reaches on mixed data of Pendulum-v1 (100,000) and CartPole-v1 (50,000)."""
    found = {}
    for environment, name in ROWS:
        if rows and f"{environment} {name}" not in rows:
            continue
        by, steps = ("sac", 100_000) if environment == "Pendulum-v1" else ("ppo", 50_000)
        data = mixed(work, by, environment, steps)
        began = time.time()
        run = ac.train(name, environment, data=data, seeds=seeds, quiet=True)
        row = told(run.final_evaluation.returns.mean(axis=1).tolist())
        row |= {"updates": run.total_steps, "seconds": time.time() - began}
        row |= {"mean return of the data": float(data.returns.mean())}
        found[f"{environment} {name}"] = row
        print(environment, name, {k: v for k, v in row.items() if k != "scores"}, flush=True)
        yield found


def cheetah(work, updates=20_000, steps=30_000, width=128):
    """IQL on 200,000 steps of a SAC that was trained for `steps` steps."""
    data = mixed(
        work,
        "sac",
        "HalfCheetah-v5",
        200_000,
        mix={},
        total_steps=steps,
        hidden_sizes=(width, width),
        buffer_size=steps,
        learning_starts=5_000,
        evaluation_episodes=10,
    )
    found = {"data": {"mean": float(data.returns.mean()), "steps": data.steps}}
    for name in ("bc", "iql"):
        run = ac.train(
            name,
            "HalfCheetah-v5",
            data=data,
            seeds=3,
            total_steps=updates,
            hidden_sizes=(width, width),
            evaluation_episodes=10,
            evaluate_every=updates,
            quiet=True,
        )
        found[name] = told(run.final_evaluation.returns.mean(axis=1).tolist())
        print("HalfCheetah-v5", name, found[name], "data", found["data"], flush=True)
    return found


def exact_gap(mdp, algorithm, data, seeds, updates):
    """How far the learned policy's exact value is below the best that the data support."""
    session = DatasetSession(algorithm, data, data.spec, seeds, updates)
    while not session.finished:
        session.advance(1.0)
    support = lab.seen(mdp, data.observation[data.place], data.action)
    best = float(mdp.start @ lab.supported_values(mdp, support))
    gaps = []
    for s in range(len(seeds)):
        actor = jax.tree.map(lambda x, s=s: x[s], session.actors)
        states = jnp.arange(mdp.states)
        action = algorithm.act(actor, states, jax.random.key(0), explore=False).action
        gaps.append(best - lab.objective(mdp, np.eye(mdp.actions)[np.asarray(action)]))
    return best, gaps


def processes():
    rng = np.random.default_rng(0)
    return {
        "layers": (lab.layers(4, 3, 3, rng, gamma=0.95), 4_000, 8),
        "random": (lab.random_mdp(8, 3, 3, 0.05, rng, gamma=0.9), 400, 100),
    }


TABULAR = {"hidden_sizes": (), "learning_rate": 1e-2, "learning_rate_schedule": "linear"}


def tabular(gamma):
    return {
        "cql": ac.CQL(**TABULAR, gamma=gamma, conservative_weight=0.05, tau=0.05),
        "iql": ac.IQL(**TABULAR, gamma=gamma, expectile=0.98, inverse_temperature=20.0, tau=0.05),
    }


def lab_part():
    """CQL and IQL with tabular features, from data of the uniformly random policy."""
    found = {}
    for name, (mdp, episodes, steps) in processes().items():
        rng = np.random.default_rng(1)
        uniform = np.full((mdp.states, mdp.actions), 1 / mdp.actions)
        data = lab.record(mdp, uniform, episodes, steps, rng)
        for label, algorithm in tabular(mdp.gamma).items():
            best, gaps = exact_gap(mdp, algorithm, data, range(10), 8_000)
            uniform_gap = best - lab.objective(mdp, uniform)
            row = {"best": best, "largest gap": max(gaps), "gap of the data": uniform_gap}
            found[f"{name} {label}"] = row
            print(name, label, row, flush=True)
    return found


class Fixed:
    """A table of probabilities as an algorithm that only acts."""

    name = "fixed"

    def __init__(self, mdp, table):
        self.gamma, self._logits = mdp.gamma, jnp.log(jnp.asarray(table, jnp.float32))

    def policy(self, actor, observation):
        from actorcritic.maths.distributions import Categorical

        return Categorical(self._logits[observation])


def estimates():
    """Off-policy evaluation of random policies: how often the intervals hold the exact value."""
    inside, rows = {"fitted_q": 0, "weighted": 0, "per_decision": 0}, []
    for trial in range(20):
        rng = np.random.default_rng(trial)
        mdp = lab.layers(4, 3, 2, rng, gamma=0.95)
        table = lab.softmax(rng.normal(size=(mdp.states, mdp.actions)))
        uniform = np.full_like(table, 0.5)
        data = lab.record(mdp, uniform, 1_000, 10, rng)
        policy = Policy(Fixed(mdp, table), (), data.spec)
        found = ac.evaluate_off_policy(
            policy, data, deterministic=False, updates=UPDATES, seed=trial
        )
        exact = lab.objective(mdp, table)
        rows.append({"exact": exact, **{name: getattr(found, name).value for name in inside}})
        for name in inside:
            one = getattr(found, name)
            inside[name] += one.low <= exact <= one.high
    errors = {
        name: float(np.sqrt(np.mean([(row[name] - row["exact"]) ** 2 for row in rows])))
        for name in inside
    }
    print({"inside of 20": inside, "root mean square error": errors}, flush=True)
    return {"inside of 20": inside, "root mean square error": errors}


def online(work, seeds, steps=3_000):
    """SAC on Pendulum-v1 from nothing, and with the mixed data in its buffer."""
    data, found = mixed(work, "sac", "Pendulum-v1", 100_000), {}
    for label, given in (("from nothing", None), ("with the data", data)):
        run = ac.train(
            "sac",
            "Pendulum-v1",
            data=given,
            seeds=seeds,
            total_steps=steps,
            buffer_size=110_000,
            evaluate_every=steps // 6,
            quiet=True,
        )
        table = run.evaluations
        found[label] = {}
        for step in np.unique(table.step).tolist():
            now = table.step == step
            means = [table.returns[now & (table.seed == s)].mean() for s in run.seeds]
            found[label][step] = told(means)
            print(label, step, {k: v for k, v in told(means).items() if k != "scores"}, flush=True)
    return found


def speed(work, d3rlpy, width, rounds=3, updates=1_000):
    """Updates a second of IQL and CQL beside d3rlpy: same networks, batch and data; in turns."""
    data, found = mixed(work, "sac", "Pendulum-v1", 100_000), {}
    arrays = Path(tempfile.mkdtemp(dir=work)) / "pendulum.npz"
    np.savez(
        arrays,
        observation=data.observation[data.place],
        action=data.action,
        reward=data.reward,
        truncated=data.truncated,
    )
    shape = (width, width)
    ours = {
        "iql": ac.IQL(hidden_sizes=shape),
        "cql": ac.CQL(hidden_sizes=shape, conservative_weight=5.0),
    }
    for name, algorithm in ours.items():
        rates = {"one seed": [], "four seeds": [], "d3rlpy": []}
        sessions = {}
        for label, count in (("one seed", 1), ("four seeds", 4)):
            sessions[label] = DatasetSession(algorithm, data, data.spec, range(count), 10**8)
            sessions[label].advance(0.1)  # compiles
        for _ in range(rounds):
            for label, session in sessions.items():
                session.advance(1.0)
                before, began = int(session.steps.sum()), time.perf_counter()
                while time.perf_counter() - began < 5.0:
                    session.advance(1.0)
                made = int(session.steps.sum()) - before
                rates[label].append(made / (time.perf_counter() - began))
            script = HERE / "peers" / "d3rlpy_train.py"
            count = updates if name == "iql" else updates // 5
            command = [d3rlpy, script, arrays, name, str(width), str(count)]
            said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
            rates["d3rlpy"].append(float(said.split()[-1]))
        median = {label: plain_statistics.median(each) for label, each in rates.items()}
        median |= {
            "times, one seed": median["one seed"] / median["d3rlpy"],
            "times, four seeds": median["four seeds"] / median["d3rlpy"],
        }
        found[f"{name} {width}×{width}"] = median
        print(name, width, median, flush=True)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parts = ["figures", "cheetah", "lab", "online", "estimates", "speed"]
    parser.add_argument("--only", nargs="+", choices=parts, default=parts)
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--rows", nargs="+", help='of the figures, as "Pendulum-v1 iql"')
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--d3rlpy", default=sys.executable)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 256])
    asked = parser.parse_args()
    work = asked.work or Path(tempfile.mkdtemp())
    work.mkdir(parents=True, exist_ok=True)
    out = HERE / "results" / "offline.json"
    known = json.loads(out.read_text()) if out.exists() else {}
    for part in asked.only:
        match part:
            case "figures":
                for found in figures(work, asked.seeds, asked.rows):
                    known[part] = known.get(part, {}) | found
                    out.write_text(json.dumps(known, indent=1) + "\n")
            case "cheetah":
                known[part] = cheetah(work)
            case "lab":
                known[part] = lab_part()
            case "online":
                known[part] = online(work, asked.seeds)
            case "estimates":
                known[part] = estimates()
            case "speed":
                rows = known.setdefault(part, {})
                for width in asked.widths:
                    rows |= speed(work, asked.d3rlpy, width)
        out.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
