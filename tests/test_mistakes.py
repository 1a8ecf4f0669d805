"""A user's mistakes in Python: each is answered by one UserError that says what to write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import actorcritic as ac
from actorcritic.envs.compiled import check_compiled

QUICK: dict[str, Any] = {"total_steps": 64, "evaluation_episodes": 0, "quiet": True}
TINY: dict[str, Any] = {"num_envs": 2, "num_steps": 8, "num_minibatches": 2}
CART = "CartPole-v1"


def init(key: Any, x: Any) -> Any:
    return jnp.zeros((x.shape[-1], 4))


def apply(params: Any, x: Any) -> Any:
    return x @ params


class Bare(ac.PPO):
    """Its decorator was forgotten."""

    name: ClassVar[str] = "bare"
    penalty: float = ac.hyperparameter(0.1, "a weight")


@ac.hyperparameters
class RawAction(ac.PPO):
    name: ClassVar[str] = "raw-action"

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> Any:
        return super().act(actor, observation, key, explore=explore).action


@ac.hyperparameters
class OneAction(ac.PPO):
    name: ClassVar[str] = "one-action"

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> Any:
        return ac.Decision(jnp.zeros((), jnp.int32))


@ac.hyperparameters
class FailsInAct(ac.PPO):
    name: ClassVar[str] = "fails-in-act"

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> Any:
        return observation["position"]


@ac.hyperparameters
class OnlyLearner(ac.PPO):
    name: ClassVar[str] = "only-learner"

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        return super().update(learner, batch, key, progress)[0]


@ac.hyperparameters
class OtherLearner(ac.PPO):
    name: ClassVar[str] = "other-learner"

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        learner, metrics = super().update(learner, batch, key, progress)
        return {"params": learner.params}, metrics


@ac.hyperparameters
class Counting(ac.Algorithm):
    """Its learner is one number, which becomes another kind of number."""

    name: ClassVar[str] = "counting"

    @property
    def collects(self) -> ac.Collects:
        return ac.Collects(2, 8)

    def init(self, key: Any, spec: Any) -> Any:
        return {"count": jnp.zeros((), jnp.int32)}

    def actor(self, learner: Any) -> Any:
        return learner

    def act(self, actor: Any, observation: Any, key: Any, *, explore: bool = True) -> Any:
        return ac.Decision(jnp.zeros(observation.shape[0], jnp.int32))

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        return {"count": learner["count"].astype(jnp.float32)}, {}


@ac.hyperparameters
class WideMetric(ac.PPO):
    name: ClassVar[str] = "wide-metric"

    def update(self, learner: Any, batch: Any, key: Any, progress: Any) -> Any:
        learner, metrics = super().update(learner, batch, key, progress)
        return learner, metrics | {"own": jnp.zeros(3)}


@ac.hyperparameters
class FailsInLoss(ac.PPO):
    name: ClassVar[str] = "fails-in-loss"

    def policy_loss(self, log_prob: Any, rows: Any, progress: Any) -> Any:
        return rows.missing


def train(algorithm: Any = "ppo", environment: Any = CART, **options: Any) -> Callable[[], Any]:
    return lambda: ac.train(algorithm, environment, **QUICK | options)


def compare(variants: Any, **options: Any) -> Callable[[], Any]:
    return lambda: ac.compare(variants, CART, **QUICK | {"seeds": 2} | options)


def ablate(algorithm: Any, vary: Any) -> Callable[[], Any]:
    return lambda: ac.ablate(algorithm, CART, vary=vary, **QUICK)


def sweep(algorithm: Any, space: Any) -> Callable[[], Any]:
    return lambda: ac.sweep(algorithm, CART, space=space, **QUICK)


IN_MEMORY = ac.train(ac.A2C(num_envs=2, num_steps=8), CART, **QUICK)

MISTAKES: dict[str, tuple[Callable[[], Any], str]] = {
    # a class where an object belongs
    "class": (train(ac.PPO), r"PPO is a class; write PPO\(\)\."),
    "class-options": (train(ac.PPO, gamma=0.9), r"PPO is a class; write PPO\(\)\."),
    "class-network": (train(ac.PPO(network=ac.MLP)), r"network is the class MLP; write MLP\(\)\."),
    "class-variant": (compare([ac.PPO, "a2c"]), r"PPO is a class; write PPO\(\)\."),
    "class-ablated": (ablate(ac.PPO, {"gamma": [1]}), r"PPO is a class; write PPO\(\)\."),
    "class-swept": (sweep(ac.PPO, {"gamma": "uniform:0.9:1"}), r"PPO is a class; write PPO\(\)"),
    "class-settings": (
        lambda: ac.train("ppo", CART, ac.TrainSettings),
        r"settings must be TrainSettings\(…\) or None; got <class",
    ),
    "dict-settings": (
        lambda: ac.train("ppo", CART, {"seeds": 3}),
        r"settings must be TrainSettings\(…\) or None; got {'seeds': 3}",
    ),
    # one thing where another belongs
    "swapped": (train(CART, "ppo"), "'ppo' is an algorithm.*first the algorithm, then the envir"),
    "number-algorithm": (train(3, gamma=1), r"Expected an algorithm, as PPO\(\) or 'ppo'; got 3"),
    "list-algorithm": (train(["ppo"]), "list is not an algorithm: it lacks name"),
    "number-environment": (train(environment=3), "The environment is 3; expected a Gymnasium id"),
    "made-environment": (
        train(environment=gymnasium.make(CART)),
        "One that is made cannot be copied: write lambda: …",
    ),
    "variant-text": (train("ppo:gamma=1"), "name the algorithm alone, and each setting by itself"),
    "run-as-path": (
        lambda: ac.load(IN_MEMORY),
        r"Expected the folder of a run; got a Run\..*run\.",
    ),
    "run-to-open": (lambda: ac.open_run(IN_MEMORY), "Expected the folder of a run; got a Run"),
    "class-to-resume": (lambda: ac.resume(ac.Run), "Expected the folder of a run; got a type"),
    "number-to-save": (lambda: IN_MEMORY.save(3), "Expected the folder of a run; got a int"),  # type: ignore[arg-type]
    "run-to-report": (lambda: ac.report(IN_MEMORY), "Expected the folder of a run; got a Run"),
    # networks
    "tuple-network": (
        train(ac.PPO(network=(init, apply))),
        r"by name, ac\.Network\(init, apply\); got a plain tuple",
    ),
    "tuple-network-sac": (
        train(ac.SAC(network=(init, apply)), "Pendulum-v1"),
        r"by name, ac\.Network\(init, apply\); got a plain tuple",
    ),
    "name-network": (train(ac.PPO(network="cnn")), "network must be a pair of functions"),
    "wrong-network": (
        train(ac.PPO(network=ac.Network(init, lambda params, x: x @ jnp.zeros((5, 2))))),
        r"The network does not take inputs of shape \(1, 4\).*test_mistakes.py",
    ),
    # hyperparameters
    "unknown": (lambda: ac.PPO(lerning_rate=1e-3), "Did you mean 'learning_rate'?"),
    "undecorated": (train(Bare()), "put @hyperparameters"),
    "undecorated-own": (lambda: Bare(penalty=1.0), "Put @hyperparameters above the class"),
    "text-number": (train(ac.PPO(gamma="0.9")), "PPO.gamma must be a number; got '0.9'"),
    "list-sizes": (train(ac.PPO(hidden_sizes=[64])), r"as \(64, 64\); got \[64\]"),
    "one-size": (train(ac.PPO(hidden_sizes=64)), r"as \(64, 64\); got 64"),
    "function-rate": (train(ac.PPO(learning_rate=abs)), "must be a number; got <built-in"),
    "function-activation": (train(ac.PPO(activation=jnp.tanh)), "must be one of 'tanh', 'relu'"),
    "interval": (
        lambda: ac.hyperparameter(0.1, "x", "0..1"),
        r"must be an interval, as '\(0, 1\]'",
    ),
    # settings
    "no-seeds": (train(seeds=0), r"seeds must lie in \[1, 10000\]; got 0"),
    "text-seeds": (train(seeds="3"), "seeds must be a whole number; got '3'"),
    "float-steps": (train(total_steps=1e3), "total_steps must be a whole number; got 1000.0"),
    "number-out": (train(out=5), "out must be a path; got 5"),
    "text-options": (train(env_options="gravity=0"), "env_options must be a dict of names and val"),
    "other-word": (train(timesteps=1000), "Did you mean 'num_steps'?"),
    "text-episodes": (
        lambda: IN_MEMORY.evaluate("10"),
        "episodes must be a whole number; got '10'",
    ),
    # experiments
    "one-variant": (compare("ppo"), r"a list of variants, as \['ppo', 'a2c'\].*got 'ppo'"),
    "one-object": (compare(ac.PPO()), r"a list of variants, as \['ppo', 'a2c'\].*got PPO\("),
    "nested": (compare([["ppo", "a2c"]]), r"Expected one algorithm.*got \['ppo', 'a2c'\]"),
    "nothing": (compare([]), "There is nothing to compare"),
    "typo-settings": (compare(["pop:gamma=1"]), "no algorithm 'pop'. Did you mean 'ppo'?"),
    "no-value": (compare(["ppo:gamma"]), "NAME:SETTING=VALUE,.*'gamma' has no value"),
    "ablate-list": (ablate(["ppo", "a2c"], {"gamma": [1]}), "Expected one algorithm"),
    "ablate-one": (ablate("ppo", {"gamma": 0.9}), r"a list of values for gamma.*\[0.9\]"),
    "ablate-text": (ablate("ppo", {"gamma": "0,1"}), "a list of values for gamma"),
    "ablate-texts": (ablate("ppo", "gamma=0,1"), "`vary` must be a dict of settings"),
    "sweep-list": (sweep(["ppo", "a2c"], {"gamma": "uniform:0:1"}), "Expected one algorithm"),
    "sweep-texts": (sweep("ppo", ["gamma=uniform:0.9:1"]), "`space` must be a dict of hyperparam"),
    "sweep-values": (
        sweep("ppo", {"gamma": [0.9, 1.0]}),
        r"look for gamma: Range\(low, high\), Cho",
    ),
    "sweep-kind": (sweep("ppo", {"gamma": "normal:0:1"}), "A space is NAME=KIND with KIND one of"),
    "sweep-unknown": (sweep("ppo", {"gama": "uniform:0.9:1"}), "Did you mean 'gamma'?"),
    "range-texts": (lambda: ac.Range("1e-4", "1e-2"), "lower end of a Range must be a number"),
    "choice-text": (lambda: ac.Choice("ab"), "A choice needs its values in a tuple; got 'ab'"),
    # an algorithm that does not act as the protocol says
    "raw-action": (
        train(RawAction(**TINY)),
        r"RawAction.act returned a .*expected Decision\(action",
    ),
    "one-action": (train(OneAction(**TINY)), r"of shape \(\) for 2 observations; expected \(2,\)"),
    "fails-in-act": (
        train(FailsInAct(**TINY)),
        "FailsInAct failed in act: .*test_mistakes.py, line",
    ),
    "only-learner": (
        train(OnlyLearner(**TINY)),
        r"a Learner; expected \(learner, metrics",
    ),
    "other-learner": (train(OtherLearner(**TINY)), "a learner of other parts than `init` made"),
    "other-dtype": (train(Counting()), r"learner\['count'\] from int32\[\] to float32"),
    "wide-metric": (
        train(WideMetric(**TINY)),
        r"metric 'own' of shape \(3,\); expected one",
    ),
    "fails-in-loss": (train(FailsInLoss(**TINY)), "FailsInLoss failed in update: Attrib.*missing"),
    "text-seed": (lambda: IN_MEMORY.evaluate(seed="a"), "seed must be a whole number; got 'a'"),
    "number-study": (lambda: ac.study(3), "Expected the name of a study: S1, .*; got 3"),
    "one-threshold": (compare(["ppo"], thresholds=475), r"a list, as \[475\]; got 475"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_answered(name: str) -> None:
    make, message = MISTAKES[name]
    with pytest.raises(ac.UserError, match=message) as found:
        make()
    assert "\n" not in str(found.value)


# ---------------------------------------------------------------------------- compiled environments


@dataclass(frozen=True)
class Right:
    """Counts to three."""

    @property
    def spec(self) -> ac.EnvSpec:
        box = gymnasium.spaces.Box(0, 3, (1,), np.float32)
        return ac.EnvSpec("Right-v0", box, gymnasium.spaces.Discrete(2), 10)

    def reset(self, key: Any) -> Any:
        return jnp.zeros(()), jnp.zeros(1)

    def step(self, key: Any, state: Any, action: Any) -> Any:
        state = state + action.astype(jnp.float32)
        end = state >= 3
        return state, ac.Step(state.reshape(1), jnp.where(end, 1.0, 0.0), end, jnp.zeros((), bool))


class Unhashable(Right):
    __hash__ = None  # type: ignore[assignment]


class NoSpec(Right):
    spec = "NoSpec-v0"  # type: ignore[assignment]


class IntSpaces(Right):
    @property
    def spec(self) -> ac.EnvSpec:
        return ac.EnvSpec("IntSpaces-v0", 1, 2)


class OneReset(Right):
    def reset(self, key: Any) -> Any:
        return jnp.zeros(1)


class WideObservation(Right):
    def reset(self, key: Any) -> Any:
        return jnp.zeros(()), jnp.zeros(2)


class FourValues(Right):
    def step(self, key: Any, state: Any, action: Any) -> Any:
        return jnp.zeros(1), 1.0, True, {}


class OtherState(Right):
    def step(self, key: Any, state: Any, action: Any) -> Any:
        _, step = super().step(key, state, action)
        return jnp.zeros(2, jnp.int32), step


class VectorReward(Right):
    def step(self, key: Any, state: Any, action: Any) -> Any:
        state, step = super().step(key, state, action)
        return state, step._replace(reward=jnp.zeros(1))


class NumberEnd(Right):
    def step(self, key: Any, state: Any, action: Any) -> Any:
        state, step = super().step(key, state, action)
        return state, step._replace(terminated=step.terminated.astype(jnp.float32))


class AsksTheValue(Right):
    def step(self, key: Any, state: Any, action: Any) -> Any:
        if state >= 3:
            state = state - 3
        return super().step(key, state, action)


@pytest.mark.parametrize(
    ("world", "message"),
    [
        (Unhashable(), r"cannot be hashed.*put @dataclass\(frozen=True\)"),
        (NoSpec(), r"NoSpec.spec is a str; expected EnvSpec\(id"),
        (IntSpaces(), "has the action space 2; expected Discrete"),
        (OneReset(), r"reset returned float32\[1\]; expected \(state, observation\)"),
        (WideObservation(), r"reset returned the observation float32\[2\]; expected one of Box"),
        (FourValues(), r"expected \(state, Step\(observation, reward"),
        (OtherState(), r"another kind than reset: int32\[2\], not float32\[\]"),
        (VectorReward(), r"reward as float32\[1\]; expected one float"),
        (NumberEnd(), r"terminated as float32\[\]; expected one truth value"),
        (AsksTheValue(), "AsksTheValue failed in step: TracerBool.*line"),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, Right) else "",
)
def test_a_compiled_environment_is_held_against_the_protocol(world: Any, message: str) -> None:
    with pytest.raises(ac.UserError, match=message):
        check_compiled(world)
    with pytest.raises(ac.UserError, match=message):
        ac.train(ac.PPO(**TINY), world, **QUICK)


def test_right_ones_pass() -> None:
    check_compiled(Right())
    made = ac.train(ac.PPO(**TINY), Right, **QUICK)  # the class is enough
    assert made.environment == Right()
    assert jax.tree.leaves(made.learners)


def test_spaces_of_a_sweep_are_read_as_on_the_command_line() -> None:
    from actorcritic.experiments.search import as_space

    space = as_space(
        ac.PPO,
        {
            "learning_rate": "log:1e-4:1e-2",
            "num_epochs": "choice:2,4",
            "gamma": ac.Range(0.9, 1.0),
        },
    )
    assert space == {
        "learning_rate": ac.Range(1e-4, 1e-2, log=True),
        "num_epochs": ac.Choice((2, 4)),
        "gamma": ac.Range(0.9, 1.0),
    }
