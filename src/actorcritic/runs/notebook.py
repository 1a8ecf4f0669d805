"""What a run says of itself as the last line of a cell: one line, or a card; and its tables."""

from __future__ import annotations

from typing import Any

from actorcritic.core.errors import UserError
from actorcritic.core.frames import data_frame
from actorcritic.figures import card, statistics


def facts_of(run: Any) -> dict[str, str]:
    """What can be said of a run in a line each."""
    seeds = f"{len(run.seeds):,} seed{'s' * (len(run.seeds) > 1)}"
    facts = {"seeds": seeds, "steps": f"{run.trained_steps:,} {run.step_unit}"}
    if run.failed:
        facts["seeds"] += f", {len(run.failed)} failed"
    if not run.finished:
        facts["steps"] += ", not finished"
    if run.final_evaluation is not None:
        facts["score"] = str(run.final_evaluation)
    if run.out is not None:
        facts["folder"] = str(run.out)
    return facts


def card_of(run: Any) -> str:
    """HTML: what can be said of a run, and its learning curve."""
    facts = facts_of(run)
    for k, text in enumerate(run.warnings):
        facts["warnings" if k == 0 else " " * k] = text
    try:
        curve = statistics.smoothed_curve(run.episodes)
    except UserError:  # nothing was written yet
        return card.card(run.label, "", facts)
    series = card.Series(run.label, curve.step, curve.iqm, curve.low, curve.high)
    return card.card(run.label, "", facts, card.curves([series]))


def card_of_evaluation(found: Any) -> str:
    """HTML: the result of an evaluation, and of each seed."""
    facts = {
        f"seed {seed}": f"mean return {returns.mean():.2f} ({returns.min():.2f} to "
        f"{returns.max():.2f}), mean length {lengths.mean():.1f}"
        for seed, returns, lengths in zip(found.seeds, found.returns, found.lengths, strict=True)
    }
    kind = "Deterministic" if found.deterministic else "Stochastic"
    return card.card(f"{kind} evaluation", str(found), facts)


def frame_of(run: Any, table: str) -> Any:
    """A table of a run as a `pandas.DataFrame`."""
    if table == "metrics":
        metrics = run.metrics
        named = dict(zip(metrics.names, metrics.values.T, strict=True))
        known = {"seed": metrics.seed, "update": metrics.update, "step": metrics.step}
        return data_frame(known | named)
    if table == "episodes":
        each = run.episodes
        columns = {"seed": each.seed, "step": each.step, "return": each.returns}
        return data_frame(columns | {"length": each.length})
    raise UserError(f"A run has the tables 'metrics' and 'episodes'; got {table!r}.")
