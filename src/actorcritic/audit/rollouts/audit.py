"""Is what a function collects really what happened?

It is run in environments whose observation says which step of which episode of which environment
it belongs to, with rewards, actions, log-probabilities and values that say so too, and which keep
a diary of what was done to them. Every row of the batch is then compared with the diary. Nothing
here collects a batch, so that no error can be made twice.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.findings import CannotCall, Finding, Ledger, Report
from actorcritic.audit.rollouts.batches import (
    FIELD_NAMES,
    ROLES,
    Rows,
    fields_of,
    returned_names,
    rows_of,
)
from actorcritic.audit.rollouts.facts import Facts
from actorcritic.audit.rollouts.fields import (
    check_actions,
    check_after_last,
    check_flags,
    check_log_probs,
    check_next_observations,
    check_rewards,
    check_values,
)
from actorcritic.audit.rollouts.steps import (
    check_axes_of_fields,
    check_drop,
    check_lost,
    check_observations,
    check_resets,
    check_same_rows,
    check_seeds,
)
from actorcritic.audit.rollouts.worlds import (
    CALLS,
    GAMMA,
    MODES,
    NUM_ENVS,
    NUM_STEPS,
    RETURNS,
    SEED,
    Policy,
    Side,
    SteppedAfterEnd,
    World,
    length,
    terminates,
)


def judged(judge: Facts) -> Ledger:
    check_seeds(judge)
    check_resets(judge)
    if not check_observations(judge):
        return judge.verdict
    judge.keys = [key for rows in judge.batches for key in rows.keys]
    check_drop(judge)
    if not judge.keys:
        raise CannotCall("The batch has no row with an observation of the environment.")
    check_axes_of_fields(judge)
    check_lost(judge)
    if not check_same_rows(judge):
        return judge.verdict
    check_rewards(judge)
    check_actions(judge)
    check_flags(judge)
    check_next_observations(judge)
    check_log_probs(judge)
    check_values(judge)
    check_after_last(judge)
    return judge.verdict


# ------------------------------------------------------------------------------- runs


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
    setup: Setup
    verdict: Ledger
    world: World
    fields: set[str]
    layout: str


def _run(
    function: Callable[..., Any],
    matched: calling.Matched,
    setup: Setup,
    also: Mapping[str, str],
    reusing: bool = False,
) -> Outcome:
    """Call it, several times if it collects little at a time, and judge what it collected."""
    world = World(setup.continuous, reusing)
    policy = Policy(world, setup.returns)
    single, factory = setup.place == "single", setup.place == "factory"
    environment: Any = None
    if single:
        environment = world.make_first()
    elif not factory:
        environment = Side(world, MODES[setup.place])
    values: dict[str, Any] = {
        "envs": environment, "env": environment, "make_env": world.make,
        "env_fns": [world.make] * NUM_ENVS, "policy": policy, "value_function": policy.value,
        "num_steps": NUM_STEPS, "num_envs": 1 if single else NUM_ENVS, "num_episodes": 6,
        "max_steps": 200, "seed": SEED, "gamma": GAMMA, "params": {}, "device": "cpu",
        "rng": np.random.default_rng(SEED),
    }  # fmt: skip
    if factory:
        del values["envs"], values["env"]
    if matched.takes("key"):
        import jax

        values["key"] = jax.random.PRNGKey(SEED)
    continues = "observation" in matched.parameters and environment is not None
    if continues:
        values["observation"] = environment.reset(seed=SEED)[0]
        values["done"] = False if single else np.zeros(NUM_ENVS, bool)
    names = returned_names(function)
    batches: list[Rows] = []
    has: set[str] = set()
    for call in range(CALLS):
        world.call, values["seed"] = call, SEED + 100 * call
        result = calling.call(function, matched, values, convert=False).result
        fields = fields_of(result, names, also)
        has |= set(fields)
        if np.size(fields.get("observations", 1)):
            batches.append(rows_of(fields, call))
        keys = [key for rows in batches for key in rows.keys]
        ended = {terminates(k[0], k[1]) for k in keys if k[2] + 1 == length(k[0], k[1])}
        if continues or not (single or factory) or (len(ended) == 2 and len(keys) >= 8):
            break
    if not batches:
        raise CannotCall(f"{calling.name_of(function)} returned empty batches.")
    verdict = judged(Facts(world, batches, has))
    return Outcome(setup, verdict, world, has, batches[0].layout)


def _first_that_runs(
    function: Callable[..., Any],
    matched: calling.Matched,
    place: str,
    kinds: tuple[bool, ...],
    also: Mapping[str, str],
) -> tuple[list[Outcome], list[tuple[Setup, BaseException]]]:
    """For each kind of action the first policy with which the function runs."""
    outcomes: list[Outcome] = []
    errors: list[tuple[Setup, BaseException]] = []
    for continuous in kinds:
        for returns in RETURNS:
            setup = Setup(place, continuous, returns)
            try:
                outcomes.append(_run(function, matched, setup, also))
                break
            except (Exception, SystemExit) as error:
                errors.append((setup, error))
    return outcomes, errors


def _intent(outcomes: Mapping[str, list[Outcome]]) -> str:
    """The mode that the function is written for, as far as its behaviour tells."""
    worlds = {place: found[0].world for place, found in outcomes.items() if found}
    if any(world.sought_final for world in worlds.values()):
        return "same_step"
    world = worlds.get("disabled")
    if world is not None and any(len(diary.resets) > 1 for diary in world.diaries):
        return "disabled"
    return "next_step"


def _merged(found: list[Outcome]) -> Ledger:
    """Discrete and continuous actions: what holds holds in both, what fails fails in either."""
    verdict = Ledger()
    for outcome in found:
        for finding in outcome.verdict.failures:
            verdict.found.setdefault(finding.check, finding)
        verdict.hold(*outcome.verdict.passed)
        verdict.choices += outcome.verdict.choices
    for outcome in found:
        for text in outcome.verdict.not_checked:
            name = text.partition(":")[0]
            known = (*verdict.passed, *verdict.found)
            if name not in known and text not in verdict.not_checked:
                verdict.not_checked.append(text)
    return verdict


AFTER_END = Finding(
    "reset-after-end",
    "An environment is stepped after its episode has ended, without a reset.",
    "What such a step returns is undefined: some environments go on with a state that is over, "
    "others raise.",
    "environment 1: episode 1 ends with its first step (terminated)\n"
    "expected: reset; actual: another step",
    "Reset where terminated or truncated; a VectorEnv in mode DISABLED by "
    'envs.reset(options={"reset_mask": terminated | truncated}).',
)


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
    mapping = dict(mapping or {})
    ours = {theirs: calling.match_name(role, FIELD_NAMES) for theirs, role in mapping.items()}
    taken = inspect.signature(function).parameters
    also = {theirs: role for theirs, role in ours.items() if theirs not in taken and role}
    matched = calling.recognise(
        function, ROLES, {theirs: role for theirs, role in mapping.items() if theirs not in also}
    )
    modes = [autoreset] if autoreset else list(MODES)
    makes = matched.takes("make_env") or matched.takes("env_fns")
    takes_env = matched.takes("envs")
    if not takes_env and not makes:
        raise CannotCall(
            f"{calling.name_of(function)} takes neither an environment nor a function that makes "
            f"one. Taken: {matched.describe()}. Map one of its parameters: NAME=envs."
        )
    outcomes: dict[str, list[Outcome]] = {}
    errors: list[tuple[Setup, BaseException]] = []
    kinds: tuple[bool, ...] = (False, True)
    for tried in [*modes, "single"] if takes_env else ["factory"]:
        ran, failed = _first_that_runs(function, matched, tried, kinds, also)
        errors += failed
        if ran:
            outcomes[tried] = ran
    vector = {place: found for place, found in outcomes.items() if place in MODES}
    clean = {p for p, found in outcomes.items() if not _merged(found).failures}
    stepped = {s.place for s, error in errors if isinstance(error, SteppedAfterEnd)}

    chosen = _choose(outcomes, vector, clean, autoreset)
    if chosen is None or (autoreset and autoreset not in outcomes and autoreset in stepped):
        if stepped:
            called = str(next(s for s, e in errors if isinstance(e, SteppedAfterEnd)))
            return Report(calling.name_of(function), "rollout", (), (AFTER_END,), called=called)
        for _, error in errors:
            if isinstance(error, CannotCall):  # it ran, and returned something unknown
                raise error
        raise CannotCall(_why(function, matched, errors))
    place, found = chosen, outcomes[chosen]
    verdict = _merged(found)
    if place in ("single", "disabled", "factory"):
        verdict.hold(AFTER_END.check)
    if vector and place in MODES:
        verdict.choices.append(_modes(place, vector, stepped, modes))
    if not verdict.failures:
        _judge_reuse(function, matched, found[0].setup, also, reused_buffers, verdict)
    for wanted in ("next_observations", "log_probs"):
        if wanted not in found[0].fields:
            verdict.not_checked.append(f"{wanted}: the batch has none")
    layout = found[0].layout
    if layout.startswith("["):
        verdict.choices.append(f"arrays are {layout}")
    called = f"{found[0].setup}; {matched.describe()}"
    if note := calling.note(function):
        called += f"; {note}"
    return verdict.report(calling.name_of(function), "rollout", called)


def _choose(
    outcomes: Mapping[str, list[Outcome]],
    vector: Mapping[str, list[Outcome]],
    clean: set[str],
    autoreset: str | None,
) -> str | None:
    """The way of calling whose verdict counts."""
    if not outcomes:
        return None
    if "factory" in outcomes:
        return "factory"
    if autoreset in vector:
        return autoreset
    if "next_step" in clean:
        return "next_step"
    if "single" in clean:  # taken for vectors, the ends of one environment cannot be right
        return "single"
    intent = _intent(vector)
    if intent in vector:
        return intent
    # A function that refuses the default mode is right if it is right in what it accepts.
    return next((p for p in (*MODES, "single") if p in clean), next(iter(outcomes)))


def _modes(
    place: str, vector: Mapping[str, list[Outcome]], stepped: set[str], modes: list[str]
) -> str:
    said = []
    for mode in modes:
        if mode in vector:
            failed = _merged(vector[mode]).found
            said.append(f"{mode.upper()} " + (f"no ({', '.join(failed)})" if failed else "yes"))
        else:
            said.append(f"{mode.upper()} no ({'never resets' if mode in stepped else 'raises'})")
    return f"autoreset modes handled: {'; '.join(said)} (judged in {place.upper()})"


def _judge_reuse(
    function: Callable[..., Any],
    matched: calling.Matched,
    setup: Setup,
    also: Mapping[str, str],
    declared: bool,
    verdict: Ledger,
) -> None:
    """The same with environments that write their observations into the same two arrays."""
    name = "observations-copied"
    try:
        again = _run(function, matched, setup, also, reusing=True).verdict
    except Exception as error:
        again = Ledger()
        if not isinstance(error, CannotCall):
            verdict.not_checked.append(f"{name}: {calling.one_line(error)}")
            return
    if again.passed and not again.failures:
        return
    if not declared:  # Gymnasium's own vector environments copy, unless they are told not to
        verdict.choices.append(
            "observations are kept without a copy: right where the environments return new arrays "
            "at every step, and wrong with SyncVectorEnv(copy=False); reused_buffers checks that"
        )
        return
    example = again.failures[0].example if again.failures else "rows of other steps"
    verdict.say(
        name,
        "The arrays that the environment hands out are kept without a copy: where it reuses them, "
        "all rows show the last observations.",
        "With SyncVectorEnv(copy=False), or a simulator with a buffer of its own, actions and "
        "returns are attributed to the last observation, and nothing is raised.",
        f"an environment that writes its observations into two arrays in turn; {example}",
        "Store a copy: observations.append(np.array(obs)).",
    )


def _why(
    function: Callable[..., Any],
    matched: calling.Matched,
    errors: list[tuple[Setup, BaseException]],
) -> str:
    """What was tried, and how it failed, each failure once."""
    told: dict[str, str] = {}
    for setup, error in errors:
        told.setdefault(calling.one_line(error), str(setup))
    tried = "\n".join(f"  with {setup}: {error}" for error, setup in list(told.items())[:4])
    return (
        f"{calling.name_of(function)} failed with every environment and policy that was tried; "
        f"called with {matched.describe()}.\n{tried}"
    )
