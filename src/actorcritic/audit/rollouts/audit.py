"""Is what a function collects really what happened?

It is run in environments whose observation says which step of which episode of which environment
it belongs to, with rewards, actions, log-probabilities and values that say so too, and which keep
a diary of what was done to them. Every row of the batch is then compared with the diary. Nothing
here collects a batch, so that no error can be made twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall, Ledger, Report
from actorcritic.audit.rollouts import batches, faults, fields, steps, worlds
from actorcritic.audit.rollouts.facts import Facts
from actorcritic.audit.rollouts.flags import check_flags
from actorcritic.audit.rollouts.worlds import MODES, NUM_ENVS, SEED


def judged(judge: Facts) -> Ledger:
    """Every check, up to the first that leaves nothing to compare."""
    steps.check_seeds(judge)
    steps.check_resets(judge)
    if not steps.check_observations(judge):
        return judge.verdict
    steps.check_drop(judge)
    if not judge.keys:
        raise CannotCall("The batch has no row with an observation of the environment.")
    steps.check_axes(judge)
    steps.check_lost(judge)
    if steps.check_same_rows(judge):
        fields.check_field(judge, fields.REWARDS)
        fields.check_actions(judge)
        check_flags(judge)
        fields.check_field(judge, fields.LOG_PROBS)
        fields.check_field(judge, fields.VALUES)
        fields.check_following(judge)
        fields.check_after_last(judge)
    return judge.verdict


# ------------------------------------------------------------------------------- runs


STEPPED_AFTER_END = (
    "environment 1: episode 1 ends with its first step (terminated)\n"
    "expected: reset; actual: another step"
)


class Setup(NamedTuple):
    """A way to call the function."""

    place: str  # an autoreset mode, or single, or factory
    continuous: bool
    returns: str  # what the policy returns

    def __str__(self) -> str:
        kind = "continuous" if self.continuous else "discrete"
        place = {
            "single": "one gymnasium.Env",
            "factory": "a function that makes an environment",
        }.get(self.place, f"a SyncVectorEnv of {NUM_ENVS} in mode {self.place.upper()}")
        return f"{place}, {kind} actions, a policy that returns {self.returns}"


class Outcome(NamedTuple):
    """What came of it: with several kinds of actions, of the first, but the verdict is of all."""

    setup: Setup
    verdict: Ledger
    world: worlds.World
    fields: set[str]
    layout: str

    @property
    def clean(self) -> bool:
        return not self.verdict.failures


@dataclass
class Trial:
    """A function, and how it failed where it could not be called."""

    function: Callable[..., Any]
    matched: calling.Matched
    also: Mapping[str, str]  # their names of fields of the batch → ours
    errors: list[tuple[Setup, BaseException]] = field(default_factory=list)

    def run(self, setup: Setup, reusing: bool = False) -> Outcome:
        """Call it, several times if it collects little at a time, and judge what it collected."""
        world = worlds.World(setup.continuous, reusing)
        policy, several = worlds.Policy(world, setup.returns), setup.place in MODES
        environment: Any = None
        if setup.place != "factory":
            environment = worlds.Side(world, MODES[setup.place]) if several else world.make_first()
        values: dict[str, Any] = {
            "make_env": world.make, "env_fns": [world.make] * NUM_ENVS, "policy": policy,
            "value_function": policy.value, "num_steps": worlds.NUM_STEPS, "num_episodes": 6,
            "num_envs": 1 if setup.place == "single" else NUM_ENVS, "max_steps": 200,
            "seed": SEED, "gamma": worlds.GAMMA, "params": {}, "device": "cpu",
            "rng": np.random.default_rng(SEED),
        }  # fmt: skip
        if environment is not None:
            values["envs"] = environment
        if self.matched.takes("key"):
            import jax

            values["key"] = jax.random.PRNGKey(SEED)
        continues = "observation" in self.matched.parameters and environment is not None
        if continues:
            values["observation"] = environment.reset(seed=SEED)[0]
            values["done"] = np.zeros(NUM_ENVS, bool) if several else False
        names = batches.returned_names(self.function)
        collected: list[batches.Rows] = []
        has: set[str] = set()
        for call in range(worlds.CALLS):
            world.call, values["seed"] = call, SEED + 100 * call
            result = calling.call(self.function, self.matched, values, convert=False).result
            found = batches.fields_of(result, names, self.also)
            has |= set(found)
            if np.size(found.get("observations", 1)):
                collected.append(batches.rows_of(found))
            keys = [key for rows in collected for key in rows.keys]
            ended = {worlds.terminates(key) for key in keys if worlds.ends(key)}
            if continues or several or (len(ended) == 2 and len(keys) >= 8):
                break
        if not collected:
            raise CannotCall(f"{calling.name_of(self.function)} returned empty batches.")
        verdict = judged(Facts(world, collected, has))
        return Outcome(setup, verdict, world, has, collected[0].layout)

    def at(self, place: str) -> Outcome | None:
        """With each kind of action, and the first policy with which the function runs."""
        found: list[Outcome] = []
        for continuous in (False, True):
            for returns in worlds.RETURNS:
                setup = Setup(place, continuous, returns)
                try:
                    found.append(self.run(setup))
                    break
                except (Exception, SystemExit) as error:
                    self.errors.append((setup, error))
        return found[0]._replace(verdict=_merged([o.verdict for o in found])) if found else None

    def why(self) -> str:
        """What was tried, and how it failed, each failure once."""
        told: dict[str, Setup] = {}
        for setup, error in self.errors:
            told.setdefault(calling.one_line(error), setup)
        tried = "\n".join(f"  with {setup}: {error}" for error, setup in list(told.items())[:4])
        return (
            f"{calling.name_of(self.function)} failed with every environment and policy that was "
            f"tried; called with {self.matched.describe()}.\n{tried}"
        )


def _merged(found: list[Ledger]) -> Ledger:
    """Discrete and continuous actions: what holds holds in both, what fails fails in either."""
    verdict = Ledger()
    for one in found:
        for check, finding in one.found.items():
            verdict.found.setdefault(check, finding)
        verdict.hold(*one.passed)
        verdict.choices += one.choices
    known = {*verdict.passed, *verdict.found}
    not_checked = [text for one in found for text in one.not_checked]
    verdict.not_checked = [text for text in not_checked if text.partition(":")[0] not in known]
    return verdict


def rollout(
    function: Callable[..., Any],
    *,
    mapping: Mapping[str, str] | None = None,
    autoreset: str | None = None,
    reused_buffers: bool = False,
    **options: Any,
) -> Report:
    """Audit a function that collects a batch from an environment and a policy.

    It is given a `gymnasium.vector.VectorEnv` in each autoreset mode, a `gymnasium.Env` or a
    function that makes one, whichever it takes, and `policy(observations)`, which returns actions
    alone or with log-probabilities and values. `autoreset` declares the mode that it is written
    for ("next_step", "same_step", "disabled"); otherwise it has to be right in Gymnasium's
    default NEXT_STEP, or else in the mode that it visibly handles. `reused_buffers` declares that
    its environments write every observation into the same array, so that it has to copy them;
    otherwise, whether it copies is a convention. `mapping` is of parameters (theirs → ours) and of
    fields of the batch.
    """
    if options:
        raise CannotCall(f"An audit of a rollout has no option {', '.join(options)}.")
    if autoreset is not None and autoreset not in MODES:
        raise CannotCall(f"autoreset is {autoreset!r}; expected one of {', '.join(MODES)}.")
    name, mapping = calling.name_of(function), mapping or {}
    taken = inspect.signature(function).parameters
    ours = {
        theirs: calling.match_name(role, batches.FIELD_NAMES) for theirs, role in mapping.items()
    }
    also = {theirs: role for theirs, role in ours.items() if theirs not in taken and role}
    parameters = {theirs: role for theirs, role in mapping.items() if theirs not in also}
    matched = calling.recognise(function, batches.ROLES, parameters)
    if not any(map(matched.takes, ("envs", "make_env", "env_fns"))):
        raise CannotCall(
            f"{name} takes neither an environment nor a function that makes "
            f"one. Taken: {matched.describe()}. Map one of its parameters: NAME=envs."
        )
    trial = Trial(function, matched, also)
    modes = [autoreset] if autoreset else list(MODES)
    places = [*modes, "single"] if matched.takes("envs") else ["factory"]
    outcomes = {place: found for place in places if (found := trial.at(place)) is not None}
    after_end = [setup for setup, e in trial.errors if isinstance(e, worlds.SteppedAfterEnd)]
    stepped = {setup.place for setup in after_end}
    if not outcomes or (autoreset in stepped and autoreset not in outcomes):
        if stepped:
            finding = faults.AFTER_END.on(STEPPED_AFTER_END)
            return Report(name, "rollout", (), (finding,), called=str(after_end[0]))
        for _, error in trial.errors:
            if isinstance(error, CannotCall):  # it ran, and returned something unknown
                raise error
        raise CannotCall(trial.why())
    place = _choose(outcomes, autoreset)
    chosen, verdict = outcomes[place], outcomes[place].verdict
    if place in ("single", "disabled", "factory"):
        verdict.hold(faults.AFTER_END.check)
    if place in MODES:
        said = [f"{mode.upper()} {_handled(outcomes.get(mode), mode in stepped)}" for mode in modes]
        judged_in = f"judged in {place.upper()}"
        verdict.choices.append(f"autoreset modes handled: {'; '.join(said)} ({judged_in})")
    if chosen.clean:
        _judge_reuse(trial, chosen, reused_buffers)
    for wanted in ("next_observations", "log_probs"):
        if wanted not in chosen.fields:
            verdict.not_checked.append(f"{wanted}: the batch has none")
    if chosen.layout.startswith("["):
        verdict.choices.append(f"arrays are {chosen.layout}")
    called = "; ".join(
        filter(None, (str(chosen.setup), matched.describe(), calling.note(function)))
    )
    return verdict.report(name, "rollout", called)


def _choose(outcomes: Mapping[str, Outcome], autoreset: str | None) -> str:
    """The place whose verdict counts."""
    clean = [place for place, found in outcomes.items() if found.clean]
    intent = "next_step"  # the mode that it is written for, as far as its behaviour tells
    disabled = outcomes.get("disabled")
    if disabled is not None and any(len(diary.resets) > 1 for diary in disabled.world.diaries):
        intent = "disabled"
    if any(found.world.sought_final for found in outcomes.values()):
        intent = "same_step"
    ranked = [
        ("factory", outcomes),
        (autoreset, outcomes),
        ("next_step", clean),
        ("single", clean),  # taken for vectors, the ends of one environment cannot be right
        (intent, outcomes),
        # A function that refuses the default mode is right if it is right in what it accepts.
        *((mode, clean) for mode in MODES),
    ]
    return next((str(place) for place, among in ranked if place in among), next(iter(outcomes)))


def _handled(outcome: Outcome | None, stepped: bool) -> str:
    if outcome is None:
        return f"no ({'never resets' if stepped else 'raises'})"
    return "yes" if outcome.clean else f"no ({', '.join(outcome.verdict.found)})"


def _judge_reuse(trial: Trial, chosen: Outcome, declared: bool) -> None:
    """The same with environments that write their observations into the same two arrays."""
    verdict, example = chosen.verdict, "rows of other steps"
    try:
        again = trial.run(chosen.setup, reusing=True).verdict
        if again.passed and not again.failures:
            return
        example = again.failures[0].example if again.failures else example
    except CannotCall:
        pass  # its rows are of no step
    except Exception as error:
        verdict.not_checked.append(f"{faults.REUSED.check}: {calling.one_line(error)}")
        return
    if declared:
        verdict.fail(
            faults.REUSED,
            f"an environment that writes its observations into two arrays in turn; {example}",
        )
    else:  # Gymnasium's own vector environments copy, unless they are told not to
        verdict.choices.append(
            "observations are kept without a copy: right where the environments return new arrays "
            "at every step, and wrong with SyncVectorEnv(copy=False); reused_buffers checks that"
        )
