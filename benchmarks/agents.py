"""Several agents: what the presets reach beside what can be reached, and steps a second.

    python benchmarks/agents.py references
    python benchmarks/agents.py learning [--only ROW ...] [--seeds 10] [--seed 0] [--runs FOLDER]
    python benchmarks/agents.py speed [--jaxmarl PYTHON CHECKOUT] [--torchrl PYTHON] [--repeats 3]

`references` plays random actions, none, and the best assignment that is known, in the compiled
particle world. `learning` trains each preset on seeds that it was not tuned on, and evaluates it
with 100 deterministic episodes a seed; policies of simple-spread act in mpe2 itself, too. With
`--runs`, a training that was stopped goes on where it was. `speed` has each side in a process of
its own, in turns. Written to benchmarks/results/agents.json, a part at a time.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import actorcritic as ac
from actorcritic.algorithms.presets import PRESETS
from actorcritic.envs import SimpleSpeakerListener, SimpleSpread
from actorcritic.envs.host.environment import HostEnvironment
from actorcritic.envs.particles import DAMPING, MOVES, TIME_STEP, Particles
from actorcritic.figures import statistics
from actorcritic.runners.host import HostSession
from actorcritic.runners.seeds import CompiledSession
from actorcritic.runs.run import prepare_jax

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "agents.json"
MPE2 = "pettingzoo:mpe2.simple_spread_v3"
PUSH = 5.0  # acceleration of an agent of simple-spread, and of the listener
LOOKAHEAD = 4  # steps
ROWS = [
    (name, world)
    for world in ("simple-spread", "simple-speaker-listener")
    for name in ("mappo", "ippo")
]
# Of the timings: what JaxMARL's script has by itself.
TIMED = {
    "num_envs": 16,
    "num_steps": 128,
    "num_epochs": 4,
    "num_minibatches": 4,
    "learning_rate": 2.5e-4,
    "learning_rate_schedule": "linear",
    "entropy_coefficient": 0.01,
    "clip_value": True,
}


# ------------------------------------------------------------------------- what can be reached


def towards(position: Any, velocity: Any, goal: Any) -> Any:
    """The action that brings one agent nearest to a goal: the best of all plans of a few steps.

    Costs are squared distances in the steps to come, and where the agent would come to rest. Other
    bodies are left out. Arrays are [2].
    """
    plans = np.array(list(itertools.product(range(len(MOVES)), repeat=LOOKAHEAD)))
    pushes = jnp.asarray(MOVES)[plans] * PUSH  # [plans, steps, 2]
    place = jnp.broadcast_to(position, (len(plans), 2))
    speed = jnp.broadcast_to(velocity, (len(plans), 2))
    cost = jnp.zeros(len(plans))
    for t in range(LOOKAHEAD):
        place = place + speed * TIME_STEP
        speed = speed * (1 - DAMPING) + pushes[:, t] * TIME_STEP
        cost = cost + jnp.sum((place - goal) ** 2, axis=-1)
    for _ in range(3):  # without pushing on
        place = place + speed * TIME_STEP
        speed = speed * (1 - DAMPING)
        cost = cost + jnp.sum((place - goal) ** 2, axis=-1)
    return jnp.asarray(plans[:, 0])[jnp.argmin(cost)]


def assigned(world: SimpleSpread, state: Particles) -> Any:
    """The landmark of each agent, with the least sum of distances."""
    n = world.agents
    orders = np.array(list(itertools.permutations(range(n))))
    agents, marks = state.position[:n], state.position[n:]
    distance = jnp.sqrt(jnp.sum((agents[:, None] - marks) ** 2, axis=-1))
    total = jnp.sum(distance[np.arange(n), orders], axis=1)
    return jnp.asarray(orders)[jnp.argmin(total)]


def greedy(world: SimpleSpread, first: Particles, state: Particles, t: Any, key: Any) -> Any:
    marks = state.position[world.agents :][assigned(world, first)]
    return jax.vmap(towards)(state.position[: world.agents], state.velocity, marks)


def told(world: SimpleSpeakerListener, first: Particles, state: Particles, t: Any, key: Any) -> Any:
    """The speaker says which landmark it is; the listener knows from its second step on."""
    goal = state.position[2 + state.goal]
    move = towards(state.position[1], state.velocity[1], goal)
    centre = towards(state.position[1], state.velocity[1], jnp.mean(state.position[2:], axis=0))
    return jnp.stack([state.goal, jnp.where(t == 0, centre, move).astype(state.goal.dtype)])


def at_random(world: Any, first: Any, state: Any, t: Any, key: Any) -> Any:
    return jax.random.randint(key, (len(world.spec.agents),), 0, world.spec.action_space.n)


def still(world: Any, first: Any, state: Any, t: Any, key: Any) -> Any:
    return jnp.zeros(len(world.spec.agents), jnp.int32)


@partial(jax.jit, static_argnums=(0, 1, 2))
def played(world: Any, policy: Callable[..., Any], episodes: int, key: Any) -> Any:
    """Mean returns of an agent, [episodes]."""

    def one(key: Any) -> Any:
        reset_key, key = jax.random.split(key)
        first, _ = world.reset(reset_key)

        def step(state: Any, t: Any) -> Any:
            act_key = jax.random.fold_in(key, t)
            action = policy(world, first, state, t, act_key)
            state, found = world.step(act_key, state, action)
            return state, jnp.mean(found.reward)

        return jnp.sum(jax.lax.scan(step, first, jnp.arange(world.max_episode_steps))[1])

    return jax.lax.map(one, jax.random.split(key, episodes))


def references() -> dict[str, Any]:
    found = {}
    for world, policies in (
        (SimpleSpread(), {"random": at_random, "still": still, "greedy assignment": greedy}),
        (SimpleSpeakerListener(), {"random": at_random, "still": still, "best assignment": told}),
    ):
        for name, policy in policies.items():
            returns = np.asarray(played(world, policy, 2000, jax.random.key(7)))
            error = returns.std() / np.sqrt(len(returns))
            found[f"{world.spec.id}: {name}"] = {
                "mean": round(float(returns.mean()), 3),
                "standard_error": round(float(error), 3),
                "episodes": len(returns),
            }
            print(f"{world.spec.id}: {name} {returns.mean():.2f} ± {error:.2f}", flush=True)
    return found


# ------------------------------------------------------------------------- what is learned


def learned(name: str, world: str, seeds: list[int], runs: Path | None) -> dict[str, Any]:
    preset, start = PRESETS[name, world], time.perf_counter()
    out = None if runs is None else runs / f"{name}-{world}"
    begun = out is not None and (out / "run.json").exists()
    run = ac.resume(out) if begun else ac.train(name, world, seeds=seeds, out=out)
    if run.final_evaluation is None:
        raise SystemExit("Stopped. With --runs, the same command goes on from here.")
    returns = run.final_evaluation.returns
    summary = statistics.summary(returns)
    row = {
        "total_steps": preset.total_steps,
        "seeds": seeds,
        "episodes": returns.shape[1],
        "seed_means": [round(x, 3) for x in returns.mean(axis=1).tolist()],
        "mean": float(returns.mean()),
        "iqm": summary.iqm,
        "interval": [summary.low, summary.high],
        "seconds": round(time.perf_counter() - start, 1),
    }
    if world == "simple-spread":
        row["in_mpe2"] = [round(in_mpe2(run, seed), 3) for seed in seeds]
    print(f"{name} {world}: {summary}; seeds {row['seed_means']}", flush=True)
    return row


def in_mpe2(run: Any, seed: int, episodes: int = 100) -> float:
    """The mean return of an agent in mpe2's own environment, by the policy's dict of actions."""
    from mpe2 import simple_spread_v3

    policy, environment = run.policy(seed), simple_spread_v3.parallel_env()
    total = 0.0
    for episode in range(episodes):
        observations, _ = environment.reset(seed=10_000 + episode)
        while environment.agents:
            observations, rewards, *_ = environment.step(policy(observations))
            total += sum(rewards.values()) / len(rewards)
    return total / episodes


# ------------------------------------------------------------------------- steps a second


def ours_compiled(steps: int) -> float:
    prepare_jax()
    session = CompiledSession(ac.IPPO(**TIMED), SimpleSpread(), [0], steps)
    session.compile()
    session.advance(0.1)
    before, start = int(session.steps[0]), time.perf_counter()
    while not session.finished:
        session.advance(1.0)
    return (int(session.steps[0]) - before) / (time.perf_counter() - start)


def ours_host(steps: int) -> float:
    settings = TIMED | {"num_envs": 4, "num_steps": 100}
    session = HostSession(ac.MAPPO(**settings), HostEnvironment(MPE2), [0], steps)
    session.advance(0.0)
    before, start = int(session.steps[0]), time.perf_counter()
    while not session.finished:
        session.advance(1.0)
    return (int(session.steps[0]) - before) / (time.perf_counter() - start)


def in_a_process(*command: str) -> float:
    """The rate that a program prints, in a process of its own on the CPU."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return float(json.loads(done.stdout.strip().splitlines()[-1])["steps_per_second"])


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Our rate and a peer's in turns; the ratio is that of each pair."""
    here = [sys.executable, str(Path(__file__)), "rate"]
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    if options.jaxmarl:
        python, checkout = options.jaxmarl
        config = {
            "ENV_NAME": "MPE_simple_spread_v3",
            "ENV_KWARGS": {},
            "LR": 2.5e-4,
            "NUM_ENVS": 16,
            "NUM_STEPS": 128,
            "TOTAL_TIMESTEPS": options.steps,
            "UPDATE_EPOCHS": 4,
            "NUM_MINIBATCHES": 4,
            "GAMMA": 0.99,
            "GAE_LAMBDA": 0.95,
            "CLIP_EPS": 0.2,
            "ENT_COEF": 0.01,
            "VF_COEF": 0.5,
            "MAX_GRAD_NORM": 0.5,
            "ACTIVATION": "tanh",
            "ANNEAL_LR": True,
        }
        script = str(HERE / "peers" / "jaxmarl_train.py")
        peer = [python, script, checkout, json.dumps(config)]
        pairs["compiled, beside JaxMARL's IPPO"] = ([*here, "compiled"], peer)
    if options.torchrl:
        script = str(HERE / "peers" / "torchrl_train.py")
        peer = [options.torchrl, script, json.dumps({"steps": options.host_steps})]
        pairs["mpe2 on the host, beside TorchRL's MAPPO"] = ([*here, "host"], peer)
    found = {}
    for name, (ours, theirs) in pairs.items():
        rows = []
        for _ in range(options.repeats):
            sizes = ["--steps", str(options.steps), "--host-steps", str(options.host_steps)]
            rows.append([in_a_process(*ours, *sizes), in_a_process(*theirs)])
            print(f"{name}: {rows[-1][0]:,.0f} and {rows[-1][1]:,.0f} steps/s", flush=True)
        ratios = [mine / peer for mine, peer in rows]
        found[name] = {"ours": [r[0] for r in rows], "peer": [r[1] for r in rows]}
        found[name]["ratio"] = float(np.median(ratios))
        print(f"{name}: {np.median(ratios):.2f} times as fast (median of {len(rows)} pairs)")
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=["references", "learning", "speed", "rate"])
    parser.add_argument("which", nargs="?", choices=["compiled", "host"], help="of rate")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="'mappo simple-spread'")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0, help="the first one")
    parser.add_argument("--runs", type=Path, metavar="FOLDER", help="to keep the runs in")
    parser.add_argument("--jaxmarl", nargs=2, metavar=("PYTHON", "CHECKOUT"))
    parser.add_argument("--torchrl", metavar="PYTHON")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=204_800, help="of a compiled timing")
    parser.add_argument("--host-steps", type=int, default=4_000)
    options = parser.parse_args()
    if options.part == "rate":
        rate = (
            ours_host(options.host_steps)
            if options.which == "host"
            else ours_compiled(options.steps)
        )
        print(json.dumps({"steps_per_second": rate}))
        return
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    if options.part == "references":
        results["references"] = references()
    elif options.part == "speed":
        results.setdefault("speed", {}).update(speed(options))
    else:
        for name, world in ROWS:
            if options.only and f"{name} {world}" not in options.only:
                continue
            seeds = list(range(options.seed, options.seed + options.seeds))
            results.setdefault("learning", {})[f"{name} {world}"] = learned(
                name, world, seeds, options.runs
            )
            RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
