"""Decisions in a live application: the log, features, the policy, what is learned, the agent."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import textwrap
import threading
from itertools import pairwise
from pathlib import Path

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import actorcritic as ac
from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, check_protocol
from actorcritic.decisions import features, online, records
from actorcritic.decisions.agent import Decider, Request
from actorcritic.decisions.learning import DecisionActorCritic, Decisions
from actorcritic.decisions.log import SCHEMA, Log
from actorcritic.decisions.policy import Arrays, Policy, Scale, draw, softmax

ACTIONS = ["search", "calculator", "calendar", "none"]
TASKS = {
    "search": "who won the match in Lisbon",
    "calculator": "what is 17 % of 2,340?",
    "calendar": "move my call with Ann to friday",
    "none": "thank you so much",
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tools.db"


def agent(path: Path, **options) -> Decider:
    options = {"actions": ACTIONS, "learning": "on call", "rng": np.random.default_rng(0)} | options
    return Decider(path, options.pop("actions"), **options)


def some_experience(decider: Decider, count: int, seed: int = 0) -> None:
    """Decisions on the four tasks, each with feedback: the right tool succeeds."""
    rng = np.random.default_rng(seed)
    for name in rng.choice(ACTIONS, count):
        choice = decider.choose(TASKS[name] + f" {rng.integers(50)}")
        decider.feedback(choice.id, success=choice.action == name)


# ------------------------------------------------------------------------------------ as a user


def test_it_learns_which_tool_to_call(path):
    with agent(path) as decider:
        for _ in range(4):
            some_experience(decider, 100, seed=decider.learned)
            decider.learn()
        chosen = {
            name: [decider.choose(text).action for _ in range(50)] for name, text in TASKS.items()
        }
        assert decider.learned == 400
    for name, actions in chosen.items():
        assert actions.count(name) >= 35, name


def test_what_is_chosen_is_logged_with_the_probability_it_was_drawn_with(path):
    with agent(path) as decider:
        some_experience(decider, 60)
        decider.learn()
        count, n = np.zeros(len(ACTIONS)), 2_000
        text = TASKS["search"]
        choices = decider.choose_many([Request(text)] * n)
        for choice in choices:
            count[ACTIONS.index(choice.action)] += 1
        pi = {choice.action: choice.probability for choice in choices}
    assert abs(sum(pi.values()) - 1) < 1e-9
    for i, name in enumerate(ACTIONS):
        p = pi.get(name, 0.0)
        assert abs(count[i] / n - p) < 5 * np.sqrt(p * (1 - p) / n) + 1e-9
    stored = sqlite3.connect(path).execute("SELECT action, probability FROM decisions").fetchall()
    assert len(stored) == 60 + n
    for number, probability in stored[60:]:
        assert probability == pytest.approx(pi[ACTIONS[number]], abs=1e-6)


def test_feedback_late_twice_contradicted_and_for_nobody(path):
    with agent(path) as decider:
        choice = decider.choose("a")
    with agent(path) as decider:  # another process, days later
        assert decider.feedback(choice.id, success=True).status == "recorded"
        assert decider.feedback(choice.id, success=True).status == "repeated"
        assert decider.feedback(choice.id, reward=1).status == "repeated"
        with pytest.raises(UserError, match=r"feedback already: the reward 1.*first one stands"):
            decider.feedback(choice.id, success=False)
        number, _, token = choice.id.partition("-")
        for id in (
            "",
            "x",
            "99-" + token,
            f"{number}-",
            f"{number}-{token}x",
            f"-{number}",
            "1-\ud800",
        ):
            with pytest.raises(UserError, match="There is no decision"):
                decider.feedback(id, success=True)
        assert decider.log.counts() == (1, 1)
        assert decider.learn() == 1
        # What was refused or repeated leaves no gap in the order in which is learned.
        other = decider.choose("b")
        decider.feedback(other.id, success=False)
        assert (
            decider.feedback_many([(other.id, -0.1), (choice.id, 7.0)])[1].status == "contradicted"
        )
        decider.feedback(decider.choose("c").id, success=True)
        assert decider.learn() == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "one of the two"),
        ({"success": True, "reward": 1}, "one of the two"),
        ({"success": 1}, "True or False"),
        ({"reward": "1"}, "finite number"),
        ({"reward": float("nan")}, "finite number"),
        ({"reward": float("inf")}, "finite number"),
        ({"reward": True}, "finite number"),
        ({"reward": 10**400}, "finite number"),
    ],
)
def test_feedback_that_says_nothing_is_refused(path, given, said):
    with agent(path) as decider:
        choice = decider.choose("a")
        with pytest.raises(UserError, match=said):
            decider.feedback(choice.id, **given)
        assert decider.log.counts() == (1, 0)


def test_masks_added_and_removed_actions(path):
    with agent(path) as decider:
        some_experience(decider, 40)
        decider.learn()
        for _ in range(30):
            assert decider.choose("a", allowed=["none", "search"]).action in ("none", "search")
        only = decider.choose("a", allowed=["none"])
        assert (only.action, only.probability) == ("none", 1.0)
        decider.add_actions(*(f"new {k}" for k in range(7)))  # more than a network has outputs
        assert len(decider.actions) == 11
        new = decider.choose("a", allowed=["new 6"])
        decider.feedback(new.id, reward=3.5)
        assert decider.learn() == 41
        decider.remove_actions("search")
        assert "search" not in {decider.choose("who won").action for _ in range(200)}
        for wrong in (["search"], ["zzz"], [], "none", [1], [[]]):
            with pytest.raises(UserError):
                decider.choose("a", allowed=wrong)
        decider.add_actions("search")
        assert decider.actions[0] == "search"
        with pytest.raises(UserError, match="has to stay"):
            decider.remove_actions(*decider.actions)


def test_a_removed_action_is_not_chosen_by_another_process_either(path):
    with agent(path) as one, agent(path, actions=None) as other:
        assert one.actions == other.actions == ACTIONS
        other.remove_actions("search", "none")
        assert {one.choose("a").action for _ in range(60)} == {"calculator", "calendar"}
        assert one.actions == ["calculator", "calendar"]


def test_the_fallback_answers_until_something_is_learned(path):
    with agent(path, fallback="calendar", exploration=0.1, fallback_until=30) as decider:
        choices = decider.choose_many([Request("a")] * 400)
        right = [c for c in choices if c.action == "calendar"]
        assert right[0].probability > 0.5
        assert {c.action for c in choices} == set(ACTIONS)
        assert all(c.predicted is None for c in choices)
        # Where it is not allowed, the others are drawn alike.
        other = decider.choose("a", allowed=["search", "none"])
        assert other.probability == pytest.approx(0.5)
        some_experience(decider, 30)
        decider.learn()
        assert decider.choose("a").predicted is not None
        with pytest.raises(UserError, match="is the fallback"):
            decider.remove_actions("calendar")


def test_an_encoder_makes_the_vector_that_is_learned_from(path):
    def encoder(text: str) -> np.ndarray:
        return np.array([len(text), text.count("e"), 1.0])

    with agent(path, encoder=encoder, features=3) as decider:
        choice = decider.choose("seven")
        decider.feedback(choice.id, success=True)
        decider.learn()
    with agent(path) as decider:  # the log needs no encoder
        row = next(iter(decider.log.export()))
        assert (row["context"], row["vector"]) == ("seven", [5.0, 2.0, 1.0])
        assert decider.learn() == 1


def test_vectors_dicts_and_texts(path):
    rng = np.random.default_rng(0)
    with agent(path, features=16) as decider:
        for context in (
            rng.normal(size=16),
            rng.normal(size=16).astype(np.float32).tolist(),
            {"plan": "gold", "amount": 1e12, "new": True, "note": None},
            "a text",
            "",
            "\0",
        ):
            decider.feedback(decider.choose(context).id, success=True)
        decider.learn()
        for wrong, said in (
            (np.zeros(15), "vector of 16 numbers"),
            (np.full(16, np.nan), "finite"),
            ([1e300] * 16, "finite"),
            (["a"] * 16, "vector of 16"),
            (None, "got NoneType"),
            ({}, "1 to 1,000 keys"),
            ({"a": [1]}, "as values"),
            ({"a": float("nan")}, "as values"),
            ({1: 1}, "as keys"),
            ("x" * 40_000, "at most 32,768"),
            ("\ud800", "surrogate"),
        ):
            with pytest.raises(UserError, match=said):
                decider.choose(wrong)
        assert decider.log.counts() == (6, 6)


def test_what_a_log_cannot_be_opened_with(path, tmp_path):
    for options, said in (
        ({"actions": None}, "a new log needs actions"),
        ({"actions": []}, "one name or more"),
        ({"actions": "search"}, "list of names"),
        ({"actions": ["a", "a"]}, "each of them once"),
        ({"actions": ["a\n"]}, "printable"),
        ({"exploration": 0.0}, "above 0"),
        ({"fallback": "serch"}, "Did you mean 'search'"),
        ({"features": 0}, "from 1 to"),
        ({"seed": -1}, "seed is"),
        ({"hyperparameters": {"learning_rat": 1}}, "Did you mean|nearest|no hyperparameter"),
        ({"learning": "never"}, "background"),
        ({"synchronous": "off"}, "'normal' or 'full'"),
    ):
        with pytest.raises(UserError, match=said):
            agent(tmp_path / "new.db", **options)
    agent(path).close()
    with pytest.raises(UserError, match="was made with features = 512"):
        agent(path, features=8)
    (tmp_path / "text.db").write_text("no database" * 200)
    with pytest.raises(UserError, match="could not be opened as a log"):
        agent(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE mine (x)")
    with pytest.raises(UserError, match="another program"):
        agent(tmp_path / "other.db")
    (tmp_path / "link.db").symlink_to(path)
    with pytest.raises(UserError, match="is a link"):
        agent(tmp_path / "link.db")
    with pytest.raises(UserError, match="no regular file"):
        agent(tmp_path)
    with pytest.raises(UserError, match="There is no folder"):
        agent(tmp_path / "none" / "a.db")
    with sqlite3.connect(path) as newer:
        newer.execute(f"PRAGMA user_version = {SCHEMA + 1}")
    with pytest.raises(UserError, match="newer version"):
        agent(path)


def test_what_is_closed_says_so(path):
    decider = agent(path)
    decider.close()
    decider.close()
    for call in (lambda: decider.choose("a"), lambda: decider.pending, decider.learn):
        with pytest.raises(UserError, match="closed"):
            call()


def test_learning_in_the_background(path):
    with Decider(path, ACTIONS) as decider:
        some_experience(decider, 30)
        for _ in range(600):
            if decider.learned == 30:
                break
            threading.Event().wait(0.1)
        assert decider.learned == 30
        assert decider.pending == 0
        assert decider.failure is None


# ------------------------------------------------------------------------------------ bit for bit


def test_the_learner_is_rebuilt_from_the_log_bit_for_bit(path, tmp_path, monkeypatch):
    monkeypatch.setattr(online, "MEMORY", 64)  # so that the ring goes around
    monkeypatch.setattr(online, "SNAPSHOT_EVERY", 50)
    rng = np.random.default_rng(1)
    with agent(path, features=8, hyperparameters={"hidden_size": 16}) as decider:
        for i in range(130):
            context = rng.normal(size=8) if i % 3 else f"word {i % 7}"
            decider.feedback(decider.choose(context).id, reward=float(rng.normal()))
            if i % 11 == 0:
                decider.learn()
            if i == 90:
                decider.add_actions(*map(str, range(6)))
        decider.learn()
        state = decider._learner.state()
        policy = decider.policy
    copy = tmp_path / "copy.db"
    with sqlite3.connect(path) as source, sqlite3.connect(copy) as target:
        source.backup(target)
        assert target.execute("SELECT count(*) FROM snapshots").fetchone()[0] == 2
        target.execute("DELETE FROM snapshots")
    with agent(copy, actions=None) as rebuilt:
        assert rebuilt.learned == 0
        assert rebuilt.learn() == 130
        assert rebuilt._learner.state() == state
    with agent(path, actions=None) as opened:  # from the snapshot, and nothing is learned
        assert opened.learned == 130
        assert opened._learner.state() == state
        for mine, theirs in zip(opened.policy.actor, policy.actor, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        # It goes on from there as if it had never stopped.
        opened.feedback(opened.choose("one more").id, reward=0.25)
        opened.learn()
        after = opened._learner.state()
    with sqlite3.connect(path) as log:
        log.execute("DELETE FROM snapshots")
    with agent(path, actions=None) as rebuilt:
        rebuilt.learn()
        assert rebuilt._learner.state() == after


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"\xff" * 100])
def test_a_damaged_snapshot_is_made_anew(path, damage):
    with agent(path) as decider:
        some_experience(decider, 10)
        decider.learn()
        state = decider._learner.state()
    with sqlite3.connect(path) as log:
        log.execute("UPDATE snapshots SET state = ?", (damage,))
    with agent(path) as decider:
        assert decider.learned == 0
        decider.learn()
        assert decider._learner.state() == state


def test_rows_that_were_removed_are_noticed(path):
    with agent(path) as decider:
        some_experience(decider, 10)
    with sqlite3.connect(path) as log:
        log.execute("DELETE FROM feedback WHERE number = 4")
    with agent(path) as decider, pytest.raises(UserError, match="lacks its outcome number 4"):
        decider.learn()


# ------------------------------------------------------------------------------------ processes


WRITER = """
    import sys
    from actorcritic.decisions.agent import Decider
    with Decider(sys.argv[1], ["a", "b"], learning="on call") as agent:
        for i in range(int(sys.argv[2])):
            choice = agent.choose(f"task {i}")
            print("d", choice.id, flush=True)
            agent.feedback(choice.id, success=True)
            print("f", choice.id, flush=True)
"""


def writer(path: Path, count: int) -> subprocess.Popen:
    code = textwrap.dedent(WRITER)
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path), str(count)], stdout=subprocess.PIPE, text=True
    )


def logged(path: Path) -> dict[str, set[str]]:
    log = Log(path)
    rows = list(log.export())
    log.close()
    return {"d": {r["id"] for r in rows}, "f": {r["id"] for r in rows if "reward" in r}}


def test_several_processes_write_at_once(path):
    agent(path, actions=["a", "b"]).close()
    processes = [writer(path, 60) for _ in range(3)]
    said = [line.split() for p in processes for line in p.communicate(timeout=120)[0].splitlines()]
    assert [p.returncode for p in processes] == [0, 0, 0]
    there = logged(path)
    for kind in "df":
        assert {id for k, id in said if k == kind} == there[kind]
        assert len(there[kind]) == 180


@pytest.mark.faults
def test_what_was_acknowledged_survives_a_kill(path):
    agent(path, actions=["a", "b"]).close()
    said: list[list[str]] = []
    for turn in range(8):
        process = writer(path, 100_000)
        lines = [process.stdout.readline() for _ in range(20 + 37 * turn)]
        process.send_signal(signal.SIGKILL)
        lines += process.communicate()[0].splitlines()
        said += [line.split() for line in lines if len(line.split()) == 2]
    there = logged(path)
    assert {id for k, id in said if k == "d"} <= there["d"]
    assert {id for k, id in said if k == "f"} <= there["f"]
    assert len(said) > 500
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_transaction_that_fails_leaves_nothing(path):
    with agent(path) as decider:
        with pytest.raises(UserError):
            decider.choose_many([Request("a"), Request("b", ["zzz"])])

        def half_done() -> None:
            with decider.log.transaction():
                decider.choose("a")
                raise RuntimeError

        with pytest.raises(RuntimeError):
            half_done()
        assert decider.log.counts() == (0, 0)
        decider.choose("a")
        assert decider.log.counts() == (1, 0)


# ------------------------------------------------------------------------------------ features


@given(st.text(max_size=200), st.integers(1, 64))
def test_a_text_has_length_one_whatever_it_is(text, size):
    if any("\ud800" <= c <= "\udfff" for c in text):
        return
    context, blob = features.check(text, size)
    assert blob is None
    x = features.numbers_of(context, None, size)
    assert x.shape == (size,)
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x, features.hashed(text, size))


def test_inner_products_are_kept_on_average():
    """Signed hashing is unbiased: over many texts, hashed products equal those of the counts."""
    rng = np.random.default_rng(0)
    words = [f"{chr(97 + a)}{chr(97 + b)}x" for a in range(26) for b in range(26)]
    errors = []
    for _ in range(300):
        one, two = (" ".join(rng.choice(words, 12)) for _ in range(2))
        exact = _exact_product(one, two)
        errors.append(float(features.hashed(one, 64) @ features.hashed(two, 64)) - exact)
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(len(errors))
    assert np.std(errors) < 2 / np.sqrt(64)


def _exact_product(one: str, two: str) -> float:
    def counts(text: str) -> dict[str, float]:
        words = ["^", *features.words_of(text)]
        names = words[1:] + [f"{a} {b}" for a, b in pairwise(words)]
        found = {name: np.sqrt(names.count(name)) for name in set(names)}
        length = np.sqrt(sum(x * x for x in found.values()))
        return {name: x / length for name, x in found.items()}

    a, b = counts(one), counts(two)
    return sum(x * b.get(name, 0.0) for name, x in a.items())


def test_vectors_are_standardised_by_what_was_learned_from():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(5_000, 6)) * [1, 10, 0.01, 1, 1, 1] + [0, 50, 3, 0, 0, 0]
    scale = Scale.start(6)
    for row in x:
        scale.add(row)
    z = scale.fixed()(x.astype(np.float32)) * np.sqrt(6)
    np.testing.assert_allclose(z.mean(0)[[0, 1, 3, 4, 5]], 0, atol=0.1)
    np.testing.assert_allclose(z.std(0)[[0, 1, 3, 4, 5]], 1, atol=0.1)
    assert np.isfinite(Scale.start(6).fixed()(x.astype(np.float32))).all()


# ------------------------------------------------------------------------------------ acting


def policy_of(actions: int, outcomes, learned: int = 100) -> Policy:
    rng = np.random.default_rng(0)
    arrays = Arrays(
        *(
            rng.normal(size=shape).astype(np.float32)
            for shape in ((4, 8), (8,), (8, actions), (actions,))
        )
    )
    return Policy(arrays, arrays, Scale.start(4).fixed(), np.array(outcomes), learned)


@given(st.integers(0, 2**16 - 1), st.floats(1e-6, 1), st.integers(0, 3000))
def test_no_allowed_action_falls_below_the_floor(bits, exploration, known):
    allowed = np.array([[bool(bits >> (4 * r + k) & 1) for k in range(4)] for r in range(4)])
    allowed[~allowed.any(1)] = True
    x = np.random.default_rng(bits).normal(size=(4, 4)).astype(np.float32) * 30
    pi = policy_of(4, [known] * 4).probabilities(x, allowed, exploration, 1, 50)
    np.testing.assert_allclose(pi.sum(1), 1, atol=1e-12)
    assert (pi[~allowed] == 0).all()
    floor = exploration / allowed.sum(1, keepdims=True)
    assert (pi + 1e-12 >= np.where(allowed, floor, 0)).all()


def test_the_numpy_policy_is_that_of_the_learner():
    algorithm = DecisionActorCritic(hidden_size=8)
    spec = EnvSpec("x", gymnasium.spaces.Box(-1, 1, (4,)), gymnasium.spaces.Discrete(5))
    learner = algorithm.init(jax.random.key(0), spec)
    head = learner.params.actor
    output = head.output._replace(weight=jax.random.normal(jax.random.key(1), (8, 5)))
    head = head._replace(output=output)
    arrays = Arrays(*(np.array(x) for x in (*head.hidden, *head.output)))
    x = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    np.testing.assert_allclose(arrays(x), head(jnp.asarray(x)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        softmax(arrays(x), np.ones((10, 5), bool)), jax.nn.softmax(head(jnp.asarray(x))), rtol=1e-5
    )


def test_draws_have_the_probabilities_that_are_stored():
    pi = np.tile([0.0, 0.2, 0.0, 0.5, 0.3, 0.0], (40_000, 1))
    drawn = draw(pi, np.random.default_rng(0))
    share = np.bincount(drawn, minlength=6) / len(drawn)
    assert (share[pi[0] == 0] == 0).all()
    np.testing.assert_allclose(share, pi[0], atol=5 * np.sqrt(0.25 / len(drawn)))


# ------------------------------------------------------------------------------------ learning


def batch_of(rng: np.random.Generator, rows: int, d: int, actions: int) -> Decisions:
    pi = rng.dirichlet(np.ones(actions), rows)
    action = np.array([rng.choice(actions, p=p) for p in pi])
    return Decisions(
        jnp.asarray(rng.normal(size=(rows, d)), jnp.float32),
        jnp.ones((rows, actions), bool),
        jnp.asarray(action, jnp.int32),
        jnp.asarray(np.log(pi[np.arange(rows), action]), jnp.float32),
        jnp.asarray(rng.normal(size=rows), jnp.float32),
    )


def learner_of(algorithm: DecisionActorCritic, d: int, actions: int):
    spec = EnvSpec("x", gymnasium.spaces.Box(-1, 1, (d,)), gymnasium.spaces.Discrete(actions))
    check_protocol(algorithm)
    algorithm.check(spec)
    learner = algorithm.init(jax.random.key(0), spec)
    shaken = jax.tree.map(
        lambda x: x + 0.3 * jax.random.normal(jax.random.key(x.size), x.shape), learner.params
    )
    return learner, shaken


def test_the_loss_is_the_doubly_robust_estimate_written_out():
    """Value and gradient with respect to the logits, from the definition, in float64."""
    algorithm = DecisionActorCritic(hidden_size=6, entropy_coefficient=0.3, ratio_clip=2.0)
    _, params = learner_of(algorithm, 5, 3)
    batch = batch_of(np.random.default_rng(0), 40, 5, 3)
    (loss, metrics), gradient = jax.value_and_grad(algorithm.loss, has_aux=True)(params, batch)
    z = np.asarray(params.actor(batch.features), np.float64)
    q = np.asarray(params.critic(batch.features), np.float64)
    pi = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    mu, r = np.exp(np.asarray(batch.log_prob, np.float64)), np.asarray(batch.reward, np.float64)
    every, a, n = np.arange(40), np.asarray(batch.action), 40
    ratio = pi[every, a] / mu
    clipped = np.minimum(ratio, 2.0)
    assert (ratio > 2).any()
    entropy = -(pi * np.log(pi)).sum(1)
    objective = (pi * q).sum(1) + clipped * (r - q[every, a])
    critic = 0.5 * (q[every, a] - r) ** 2
    np.testing.assert_allclose(loss, np.mean(-objective - 0.3 * entropy + critic), rtol=1e-5)
    # ∂/∂z: Σ_b π(b)(q(b) − V) 1_b of the first term; min(ρ, c)(r − q)(1_a − π) of the second.
    one = np.eye(3)[a]
    value = (pi * q).sum(1, keepdims=True)
    by_logits = pi * (q - value) + (clipped * (r - q[every, a]))[:, None] * (one - pi)
    by_logits += 0.3 * -pi * (np.log(pi) + entropy[:, None])
    np.testing.assert_allclose(gradient.actor.output.bias, -by_logits.mean(0), rtol=1e-4, atol=1e-6)
    by_values = ((q[every, a] - r)[:, None] * one).sum(0) / n
    np.testing.assert_allclose(gradient.critic.output.bias, by_values, rtol=1e-4, atol=1e-6)
    assert set(metrics) == {"policy_loss", "entropy", "value_loss"}


def test_the_gradient_is_unbiased_whatever_the_critic_and_the_behaviour():
    """Σ_a μ(a) ∇(…) is the gradient of the true objective, for any Q and any μ > 0."""
    algorithm = DecisionActorCritic(hidden_size=6, entropy_coefficient=0.0, ratio_clip=1e9)
    _, params = learner_of(algorithm, 5, 3)
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(3, 5)), jnp.float32)[:1].repeat(3, 0)
    mu, reward = np.array([0.7, 0.2, 0.1]), np.array([1.0, -0.5, 2.0])
    batch = Decisions(
        x,
        jnp.ones((3, 3), bool),
        jnp.arange(3, dtype=jnp.int32),
        jnp.asarray(np.log(mu), jnp.float32),
        jnp.asarray(reward, jnp.float32),
    )

    def weighted(actor):
        losses = [
            algorithm.loss(
                params._replace(actor=actor), jax.tree.map(lambda v, k=k: v[k : k + 1], batch)
            )
            for k in range(3)
        ]
        return sum(float(mu[k]) * losses[k][0] for k in range(3))

    def truth(actor):
        return -jnp.sum(jax.nn.softmax(actor(x[:1])[0]) * jnp.asarray(reward, jnp.float32))

    ours, exact = jax.grad(weighted)(params.actor), jax.grad(truth)(params.actor)
    for mine, theirs in zip(jax.tree.leaves(ours), jax.tree.leaves(exact), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-5)


def test_masked_actions_get_no_gradient_and_widening_changes_nothing():
    algorithm = DecisionActorCritic(hidden_size=6)
    learner, params = learner_of(algorithm, 5, 4)
    batch = batch_of(np.random.default_rng(0), 30, 5, 4)
    allowed = np.ones((30, 4), bool)
    allowed[:, 3] = False
    batch = batch._replace(
        allowed=jnp.asarray(allowed), action=jnp.minimum(batch.action, jnp.int32(2))
    )
    gradient = jax.grad(algorithm.loss, has_aux=True)(params, batch)[0]
    assert float(jnp.abs(gradient.actor.output.weight[:, 3]).max()) == 0
    assert float(jnp.abs(gradient.critic.output.weight[:, 3]).max()) == 0
    for _ in range(3):
        learner, _ = algorithm.update(learner, batch, jax.random.key(0), jnp.float32(0))
    wide = algorithm.widened(learner, 8)
    assert wide.actions == 8
    np.testing.assert_array_equal(
        wide.params.actor(batch.features)[:, :4], learner.params.actor(batch.features)
    )
    assert jax.tree.structure(wide) == jax.tree.structure(learner)


# ------------------------------------------------------------------------------------ pages


def test_what_is_exported_is_imported_as_the_same(path, tmp_path):
    with agent(path, features=4) as decider:
        some_experience(decider, 20)
        decider.choose(np.arange(4.0), allowed=["none", "search"])
        out = decider.export(tmp_path / "log.jsonl")
        exported = list(decider.log.export())
    rows = list(records.read(out))
    assert [json.loads(line) for line in out.read_text().splitlines()] == exported
    log = Log(tmp_path / "again.db")
    records.write(log, rows, 4)
    again = list(log.export())
    log.close()
    for one, two in zip(exported, again, strict=True):
        kept = ("time", "context", "vector", "action", "probability", "reward")
        assert {k: one.get(k) for k in kept} == {k: two.get(k) for k in kept}
        assert sorted(one["actions"]) == sorted(two["actions"])


def test_the_report_of_a_log(path, tmp_path):
    with agent(path) as decider:
        page = decider.report(tmp_path / "empty.html")
        assert "Nothing was decided yet" in page.read_text(encoding="utf-8")
        for _ in range(3):
            some_experience(decider, 100, seed=decider.learned)
            decider.learn()
        decider.choose("<script>alert(1)</script>")
        page = decider.report(tmp_path / "tools.html").read_text(encoding="utf-8")
    for text in ("300 with feedback", "By action", "By kind of task", "Calibration of the critic",
                 "Where the agent is unsure", "What each policy would have earned"):  # fmt: skip
        assert text in page
    assert "<script>alert" not in page


def test_nothing_of_jax_is_needed_to_open_an_agent_and_to_choose(path):
    with agent(path) as decider:
        some_experience(decider, 30)
        decider.learn()
    code = f"""
        import sys
        import actorcritic as ac
        with ac.Decider({str(path)!r}, learning="on call") as agent:
            assert agent.choose("a").predicted is not None
        assert agent.settings["features"] == 512
        assert "jax" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_the_root_offers_it():
    assert ac.Decider is Decider


def test_learning_that_fails_is_told_and_tried_again(path, monkeypatch):
    monkeypatch.setattr("actorcritic.decisions.agent.TRY_AGAIN", 0.1)
    works = online.OnlineLearner.learn

    def fails(*_, **__):
        raise UserError("the disk is full")

    monkeypatch.setattr(online.OnlineLearner, "learn", fails)
    with Decider(path, ACTIONS) as decider:
        decider.feedback(decider.choose("a").id, success=True)
        for _ in range(100):
            if decider.failure is not None:
                break
            threading.Event().wait(0.05)
        assert "the disk is full" in str(decider.failure)
        assert decider.choose("a").action in ACTIONS
        monkeypatch.setattr(online.OnlineLearner, "learn", works)
        for _ in range(600):
            if decider.learned:
                break
            threading.Event().wait(0.1)
        assert decider.learned == 1
        assert decider.failure is None


def test_a_probability_does_not_depend_on_what_shares_its_transaction():
    policy = policy_of(4, [50] * 4)
    x = np.random.default_rng(0).normal(size=(30, 4)).astype(np.float32)
    x[::2, 1:] = 0  # sparse rows as well
    allowed = np.ones((30, 4), bool)
    together = policy.probabilities(x, allowed, 0.02, None, 0)
    for i in range(30):
        alone = policy.probabilities(x[i : i + 1], allowed[i : i + 1], 0.02, None, 0)
        np.testing.assert_array_equal(alone[0], together[i])
    many = np.tile(x, (50, 1))
    np.testing.assert_allclose(policy.actor(many)[:30], policy.actor(x), rtol=1e-4, atol=1e-5)
