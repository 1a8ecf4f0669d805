"""Arguments of the wrong kind, one a row: each is answered by an error that names the argument.

The mistakes of tests/test_mistakes.py are those that users make; these are what is left: every
argument given as something else, negative, empty, not a number, or out of all proportion.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac

NAN, INF = float("nan"), float("inf")
CART = "CartPole-v1"
QUICK: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> ac.Run:
    out = tmp_path_factory.mktemp("arguments") / "run"
    return ac.train(ac.A2C(num_envs=2, num_steps=8, hidden_sizes=(4,)), CART, out=out, **QUICK)


# What `train` is given, and what the answer names.
SETTINGS: list[tuple[dict[str, Any], str]] = [
    *[({"total_steps": x}, "total_steps") for x in (-5, 0, True, "many", NAN, 1e3, 10**16, [1])],
    *[({"seeds": x}, "[Ss]eeds") for x in (-1, None, 2.5, "all", [], [1, 1], [-1], ["a"], 10**5)],
    *[({"seed": x}, "seed") for x in (-1, "x", 2**40, 1.5, None)],
    *[({"evaluation_episodes": x}, "evaluation_episodes") for x in (-1, "x", 1.5, 10**9)],
    *[({"checkpoint_seconds": x}, "checkpoint_seconds") for x in (-1, NAN, INF, "x", None)],
    *[({"quiet": x}, "quiet") for x in ("yes", 1)],
    *[({"evaluate_every": x}, "evaluate_every") for x in (0, "x", 2.5)],
    *[({"keep_best": x}, "keep_best") for x in (True, "y")],
    *[({"stop_at": x}, "stop_at") for x in ("high", NAN, [1])],
    *[
        ({"callbacks": x}, "callback")
        for x in (print, [3], None, 3, [lambda: 1], [lambda m: 1 / 0])
    ],
    *[({"sinks": x}, "sink") for x in (object(), [3], None)],
    *[({"data": x}, "data") for x in ("nowhere", 3)],
    *[({"workers": x}, "workers") for x in (0, 2, "x")],
    *[({"out": x}, "out") for x in (["a"], "a\0b", b"x", 3)],
    ({"out": __file__}, Path(__file__).name),
    *[({"env_options": x}, "env_options") for x in ([1], {1: 2}, "gravity=1")],
    ({"env_options": {"zzz": 2}}, "zzz"),
    *[({"vectorization": x, "host": True}, "vectorization") for x in ("threads", None, 3)],
    *[({"autoreset": x, "host": True}, "autoreset") for x in ("sometimes", None)],
    *[({"host": x}, "host") for x in ("yes", 2)],
    *[({"start_from": x}, "start_from|folder") for x in (3, "nowhere")],
    *[({"gamma": x}, "gamma") for x in (NAN, 2.0, None, "x", [0.9], np.array([0.9]), True, 1j)],
    *[({"learning_rate": x}, "learning_rate") for x in (-1.0, INF, "x")],
    *[({"num_envs": x}, "num_envs") for x in (0, -3, 2.0, "x", 10**9)],
    *[({"num_steps": x}, "num_steps") for x in (0, "x", None, 10**9)],
    *[
        ({"hidden_sizes": x}, "hidden_sizes")
        for x in ((0,), (-3,), "64,64", (64.0,), ((64,),), 64, None, (10**9,), (8,) * 5000)
    ],
    *[({"activation": x}, "activation") for x in (None, "tahn", 3)],
    ({"optimizer": "adamm"}, "optimizer"),
    *[
        ({"learning_rate_schedule": x}, "learning_rate_schedule")
        for x in ("cosine", lambda: 1, lambda p: "x", lambda p: jnp.ones(3), None)
    ],
    *[
        ({"network": x}, "network")
        for x in (3, lambda: 1, "cnn", ac.Network(1, 2), ac.MLP((8,), "nope"))  # type: ignore[arg-type]
    ],
]


@pytest.mark.parametrize(("options", "named"), SETTINGS, ids=range(len(SETTINGS)))
def test_a_setting_of_the_wrong_kind_is_named(options, named) -> None:
    with pytest.raises(ac.UserError, match=named):
        ac.train("a2c", CART, **QUICK | options)


WORLDS: list[tuple[Callable[[], Any], str]] = [
    (lambda: ac.train(None, CART), "algorithm"),
    (lambda: ac.train(b"a2c", CART), "algorithm"),
    (lambda: ac.train("", CART), "algorithm"),
    (lambda: ac.train(":x", CART), ":x"),
    (lambda: ac.train("a2c", None), "environment"),
    (lambda: ac.train("a2c", ""), "environment"),
    (lambda: ac.train("a2c", ":"), ":"),
    (lambda: ac.train("a2c", {}), "environment"),
    (lambda: ac.train("a2c", int, **QUICK), "int"),
    (lambda: ac.train("a2c", lambda: None, **QUICK), "lambda"),
    (lambda: ac.train("a2c", lambda x: None, **QUICK), "lambda"),
    (lambda: ac.train("sac", CART, **QUICK), "sac"),
    (lambda: ac.train("bc", CART, **QUICK), "data"),
    (lambda: ac.train(ac.PPO(num_envs=2, num_steps=8, num_minibatches=7), CART, **QUICK), "minib"),
    (lambda: ac.train(ac.PPO(num_epochs=0), CART, **QUICK), "num_epochs"),
    (lambda: ac.open_run(None), "folder"),  # type: ignore[arg-type]
    (lambda: ac.open_run(3), "folder"),  # type: ignore[arg-type]
    (lambda: ac.open_run(__file__), "folder"),
    (lambda: ac.load(None), "folder"),  # type: ignore[arg-type]
    (lambda: ac.resume(None), "folder"),  # type: ignore[arg-type]
    (lambda: ac.collect("nowhere", 3), "nowhere"),
    (lambda: ac.dataset(None), "data"),  # type: ignore[arg-type]
    (lambda: ac.dataset("nowhere"), "nowhere"),
    (lambda: ac.evaluate_off_policy(3, 3), "policy"),  # type: ignore[arg-type]
    (lambda: ac.compare(None, CART, **QUICK), "variants"),  # type: ignore[arg-type]
    (lambda: ac.compare(["a2c"], None, **QUICK), "environment"),
    (lambda: ac.ablate("a2c", CART, vary=None, **QUICK), "vary"),  # type: ignore[arg-type]
    (lambda: ac.ablate("a2c", CART, vary={}, **QUICK), "vary"),
    (lambda: ac.ablate("a2c", CART, vary={"zzz": [1]}, **QUICK), "zzz"),
    (lambda: ac.ablate("a2c", CART, vary={"gamma": ["x"]}, **QUICK), "gamma"),
    (lambda: ac.sweep("a2c", CART, space=None, **QUICK), "space"),  # type: ignore[arg-type]
    (lambda: ac.sweep("a2c", CART, space={}, **QUICK), "space"),
    (lambda: ac.sweep("a2c", CART, space={"gamma": "uniform:0.9:1"}, trials=0), "trials"),
    (lambda: ac.sweep("a2c", CART, space={"gamma": "uniform:0.9:1"}, trials="x"), "trials"),
    (lambda: ac.Range(2, 1), "range"),
    (lambda: ac.Range(0, 1, log=True), "range"),
    (lambda: ac.Range(NAN, 1), "Range"),
    (lambda: ac.Choice(()), "choice"),
    (lambda: ac.Choice(3), "choice"),  # type: ignore[arg-type]
    (lambda: ac.report(None), "report"),  # type: ignore[arg-type]
    (lambda: ac.report("nowhere"), "nowhere"),
    (lambda: ac.Comparison.of(3), "comparison"),  # type: ignore[arg-type]
    (lambda: ac.Comparison.of([]), "compare"),
    (lambda: ac.Comparison.of(["x"]), "x"),  # type: ignore[list-item]
    (lambda: ac.study(None), "study"),  # type: ignore[arg-type]
    (lambda: ac.study("S99"), "S99"),
    (lambda: ac.hyperparameter(3, "x", 5), "within"),  # type: ignore[arg-type]
    (lambda: ac.hyperparameters(print), "class"),
    (lambda: ac.Decider("nowhere.db", actions=3), "actions"),  # type: ignore[arg-type]
    (lambda: ac.Decider("nowhere.db"), "actions"),
    (lambda: ac.Decider(3, actions=["a"]), "log"),  # type: ignore[arg-type]
    (lambda: ac.Decider("nowhere.db", actions=["a", "a"]), "actions"),
    (lambda: ac.Decider("nowhere.db", actions=["a"], exploration=0), "exploration"),
]


@pytest.mark.parametrize(("make", "named"), WORLDS, ids=range(len(WORLDS)))
def test_a_call_with_the_wrong_thing_is_answered(make, named, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ac.UserError, match=named):
        make()


OF_A_RUN: list[tuple[Callable[[ac.Run], Any], str]] = [
    *[(lambda run, x=x: run.evaluate(x), "episode") for x in (0, -1, 1.5, "x", None, NAN, 10**9)],
    *[(lambda run, x=x: run.evaluate(2, seed=x), "seed") for x in (-5, 2**70, "x", 1.5, None)],
    (lambda run: run.evaluate(2, which="x"), "which"),
    (lambda run: run.evaluate(2, deterministic="x"), "deterministic"),
    *[(lambda run, x=x: run.policy(x), "seed") for x in (7, "a", -1)],
    (lambda run: run.policy(which=3), "which"),
    *[(lambda run, x=x: run.plot(x), "picture") for x in (None, 3, "x.txt", "a\0.png")],
    (lambda run: run.plot("nowhere/x.png"), "nowhere"),
    (lambda run: run.to_pandas("x"), "table|pandas|metrics"),
    *[(lambda run, x=x: run.policy().export(x), "policy") for x in (None, "x.pt", "a\0.onnx")],
    *[
        (lambda run, x=x: run.policy()(x), "observation")
        for x in (np.zeros(3), "x", None, {"a": 1}, [[1, 2]])
    ],
    (lambda run: ac.load(run.out, seed=9), "seed"),
    (lambda run: ac.load(run.out, which="best"), "best"),
    (lambda run: ac.load(run.out, algorithm="nope"), "nope"),
    (lambda run: ac.open_run(run.out, algorithm=3), "algorithm"),
    (lambda run: ac.open_run(run.out, environment=3), "environment"),
    (lambda run: ac.resume(run.out, total_steps=3), "total|steps"),
    (lambda run: ac.resume(run.out, total_steps="x"), "total_steps"),
    (lambda run: ac.resume(run.out, gamma=0.3), "gamma"),
    (lambda run: ac.collect(run.out, 0), "steps"),
    (lambda run: ac.collect(run.out, -4), "steps"),
    (lambda run: ac.collect(run.out, "x"), "steps"),
    (lambda run: ac.evaluate_off_policy(run.policy(), 3), "data"),
    (lambda run: run.save("again"), "already"),
    (lambda run: ac.train("a2c", CART, start_from=run, **QUICK), "start_from"),
]


@pytest.mark.parametrize(("make", "named"), OF_A_RUN, ids=range(len(OF_A_RUN)))
def test_a_call_of_a_run_with_the_wrong_thing_is_answered(make, named, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ac.UserError, match=named):
        make(run)
