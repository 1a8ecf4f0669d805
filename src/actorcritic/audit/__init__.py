"""The audit: does a function compute what it claims? Its numbers against exact definitions.

report = audit.advantages(my_gae)
report = audit.advantages(lambda case: my_gae(case.rewards, case.values, case.dones, …))
print(report)  # report.ok, report.failures, report.html(path)
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from actorcritic.audit.findings import CannotCall, Finding, Report, Reports
from actorcritic.core.errors import UserError

# What each kind of audit is called on the command line, and where it is.
KINDS = {
    "advantages": "actorcritic.audit.estimates.audit:advantages",
    "returns": "actorcritic.audit.estimates.audit:returns",
    "vtrace": "actorcritic.audit.estimates.audit:vtrace",
    "actor-loss": "actorcritic.audit.losses.audit:actor_loss",
    "critic-loss": "actorcritic.audit.losses.audit:critic_loss",
    "ppo-loss": "actorcritic.audit.losses.audit:ppo_loss",
    "dpo-loss": "actorcritic.audit.losses.preferences:dpo_loss",
    "token-rewards": "actorcritic.audit.losses.preferences:token_rewards",
    "distribution": "actorcritic.audit.densities.audit:distribution",
    "rollout": "actorcritic.audit.rollouts.audit:rollout",
    "agent": "actorcritic.audit.agents.classes:agent",
    "network": "actorcritic.audit.agents.classes:function",
}
_ENVIRONMENT = "actorcritic.audit.environments.audit:check"


def _found(place: str) -> Callable[..., Report]:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def _kind(name: str) -> Callable[..., Report]:
    def audit(
        function: Callable[..., Any], *, mapping: Mapping[str, str] | None = None, **options: Any
    ) -> Report:
        return _found(KINDS[name])(function, mapping=mapping, **options)

    audit.__name__ = audit.__qualname__ = name.replace("-", "_")
    audit.__doc__ = f"Audit a function of the kind {name}; `mapping`: their name → our name."
    return audit


advantages = _kind("advantages")
returns = _kind("returns")
vtrace = _kind("vtrace")
actor_loss = _kind("actor-loss")
critic_loss = _kind("critic-loss")
ppo_loss = _kind("ppo-loss")
dpo_loss = _kind("dpo-loss")
token_rewards = _kind("token-rewards")
distribution = _kind("distribution")
rollout = _kind("rollout")


def environment(env: Any, **options: Any) -> Report:
    """Audit an environment: a Gymnasium id, or a function that makes one."""
    return _found(_ENVIRONMENT)(env, **options)


def files(place: str | Path) -> Reports:
    """Audit all that is recognised in a file, or in the files of a folder."""
    from actorcritic.audit.agents import scripts

    return scripts.reports(Path(place))


def of(
    function: str | Callable[..., Any],
    kind: str | None = None,
    mapping: Mapping[str, str] | None = None,
    **options: Any,
) -> Report:
    """Audit a function, or the one that `FILE.py:NAME` names; `kind` is guessed if not given."""
    from actorcritic.audit import calling

    found = calling.load(function) if isinstance(function, str) else function
    guessed = kind is None
    kind = guess(found, mapping) if kind is None else kind
    if kind not in KINDS:
        raise UserError(f"There is no kind of audit '{kind}'. Known: {', '.join(KINDS)}.")
    takes = inspect.signature(_found(KINDS[kind])).parameters
    if options.get("strict") and "strict" not in takes:
        options = {k: v for k, v in options.items() if k != "strict"}  # risks are then wrong, too
    unknown = [name.replace("_", "-") for name in options if name not in takes]
    if unknown:
        raise UserError(f"An audit of {kind} has no option {', '.join(unknown)}.")
    report = _found(KINDS[kind])(found, mapping=mapping, **options)
    if guessed and not report.ok:
        return _as_named(found, kind, report, mapping)
    return report


def _as_named(
    found: Callable[..., Any], kind: str, report: Report, mapping: Mapping[str, str] | None
) -> Report:
    """What no name promises is not wrong: the report of another kind that it is right as."""
    from actorcritic.audit import calling

    named = " ".join((calling.name_of(found), *calling.names_taken(found))).lower()
    other = {
        # Many a function of the name compute_gae returns returns.
        "baseline-subtracted": ("returns", ("adv", "delta", "td_error")),
        # A surrogate that nothing bounds, as TRPO's.
        "clip-range": ("actor-loss", ("ppo", "clip")),
    }
    for check, (second, promised) in other.items():
        promises = any(word in named for word in promised)
        if [finding.check for finding in report.failures] == [check] and not promises:
            again = _found(KINDS[second])(found, mapping=mapping)
            if again.ok:
                return again
    return report


def guess(function: Callable[..., Any], mapping: Mapping[str, str] | None = None) -> str:
    """What kind of function it is: by its name, and by what it takes."""
    from actorcritic.audit import calling

    if inspect.isclass(function):
        from actorcritic.audit.agents import classes as agents

        if agents.is_agent(function):
            return "agent"
        raise CannotCall(f"{function.__name__} is a class without a method that learns.")
    whole = calling.name_of(function).lower()
    name = whole.rpartition(".")[2]
    text = " ".join((*calling.names_taken(function), *(mapping or {}).values())).lower()

    def named(words: str) -> bool:
        return any(word in name for word in words.split())

    def takes(words: str) -> bool:
        return any(word in text for word in words.split())

    logs = takes("log_prob logp log_pi logprob")
    policy = logs or (takes("logits probs mean mu_ std") and takes("action"))
    aims = takes("adv return target reward td_ delta")
    learns = policy and aims and not named("gae advantage")
    loss = named("loss objective") or "loss." in whole or learns
    clipped = loss and (named("ppo clip surrogate") or takes("old_log ratio clip"))
    rows: list[tuple[str, bool]] = [  # the likelier first
        ("network", calling.takes_network(function)),
        ("dpo-loss", takes("chosen") and takes("rejected")),
        ("token-rewards", takes("ref_log reference_log ref_logp") and takes("score")),
        ("vtrace", named("vtrace v_trace") or takes("rho c_bar")),
        ("critic-loss", clipped and named("value critic vf") and not logs),
        ("ppo-loss", clipped),
        ("critic-loss", loss and named("critic value vf_ td_") and not policy),
        ("actor-loss", loss),
        ("distribution", named("log_prob logprob density sample distribution entropy")),
        ("rollout", named("rollout collect gather run_episode")),
        ("advantages", named("gae advantage adv td_error delta")),
        ("returns", named("return target discount reward_to_go rewards_to_go n_step")),
        ("ppo-loss", takes("old_log ratio")),
        ("advantages", takes("reward rew") and takes("lam value")),
        ("returns", takes("reward rew")),
        ("distribution", takes("mean mu logits") and not aims),
        ("rollout", takes("env")),
    ]
    for kind, holds in rows:
        if holds:
            return kind
    raise CannotCall(
        f"What {calling.name_of(function)} computes cannot be told from its name and parameters. "
        f"Add --kind, one of: {', '.join(KINDS)}."
    )


__all__ = [
    "KINDS",
    "CannotCall",
    "Finding",
    "Report",
    "Reports",
    "actor_loss",
    "advantages",
    "critic_loss",
    "distribution",
    "dpo_loss",
    "environment",
    "files",
    "guess",
    "of",
    "ppo_loss",
    "returns",
    "rollout",
    "token_rewards",
    "vtrace",
]
