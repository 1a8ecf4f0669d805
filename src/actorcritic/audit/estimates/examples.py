"""The smallest case on which a function is wrong, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from actorcritic.audit.estimates.calls import (
    Form,
)
from actorcritic.audit.estimates.readings import (
    Reading,
    consistent,
)
from actorcritic.audit.truths import (
    Numbers,
    Trajectory,
)

if TYPE_CHECKING:
    from actorcritic.audit.estimates.audit import Audit

_COMPARED = ("expected", "actual")


def _number(x: float) -> str:
    return f"{x:.4g}" if np.isfinite(x) else str(x)


def small_cases(audit: Audit, form: Form) -> Iterator[Trajectory]:
    """Trajectories of a few steps and whole numbers, the smallest first."""
    scope = audit.scope(form)
    kinds = {"none": (0,), "terminations": (0, 1), "both": (0, 1, 2)}[scope.ends]
    for steps, environments in ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)):
        shape = (steps, environments)
        patterns = sorted(
            itertools.product(kinds, repeat=steps), key=lambda p: sum(k > 0 for k in p)
        )
        if environments == 2:
            patterns = [p for p in patterns if sum(k > 0 for k in p) <= 1]
        grid = np.arange(steps * environments, dtype=float).reshape(shape)
        for pattern in patterns:
            ends = np.zeros(shape, int)
            ends[:, 0] = pattern
            x = Trajectory(
                rewards=1 + grid,
                values=np.array([2.0, 4, 1, 3, 5, 2, 6, 1])[grid.astype(int)],
                next_values=8 + 0 * grid,
                following=6 + 0 * grid,
                terminated=ends == 1,
                truncated=ends == 2,
                cut=ends > 0,
                gamma=0.5,
                lam=0.5,
                ratio=np.array([2.0, 0.5, 4, 1, 0.5, 2, 1, 4])[grid.astype(int)],
                n=min(2, steps),
                before=np.zeros(environments, bool),
            )
            yield consistent(x, scope)


def table_of(audit: Audit, reading: Reading, x: Trajectory, expected: Numbers, got: Numbers) -> str:
    view = reading.view(x)
    head = [f"gamma = {view.gamma:g}"]
    if "lam" in audit.subject.seen or "λ" in reading.quantity or reading.quantity[0] == "g":
        head.append(f"lambda = {view.lam:g}")
    if audit.kind == "vtrace":
        head.append(f"clip of rho = {view.rho_clip:g}, of c = {view.c_clip:g}")
    if audit.sees("n"):
        head.append(f"n = {x.n}")
    columns: dict[str, list[str]] = {"t": []}
    shown: dict[str, Numbers] = {"reward": x.rewards}
    if x.rewards.shape[1] > 1:
        columns["env"] = []
    if audit.sees("values"):
        shown["value"] = x.values
    shown["next value"] = x.next_values
    if audit.kind == "vtrace":
        shown["ratio"] = x.ratio
    if audit.scope(reading.form).whole:
        shown.pop("next value")
    shown |= {"expected": expected, "actual": got}
    end = np.where(x.terminated, "terminated", np.where(x.truncated, "truncated", "-"))
    rows = [
        [
            str(t),
            *([str(b)] if "env" in columns else []),
            *(_number(a[t, b]) for name, a in shown.items() if name not in _COMPARED),
            *([end[t, b]] if end.size and (end != "-").any() else []),
            _number(expected[t, b]),
            _number(got[t, b]),
        ]
        for b in range(x.rewards.shape[1])
        for t in range(len(x.rewards))
    ]
    names = [*columns, *(n for n in shown if n not in _COMPARED)]
    names += [*(["end"] if (end != "-").any() else []), *_COMPARED]
    widths = [max(len(r[i]) for r in [names, *rows]) for i in range(len(names))]
    lines = ["  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in [names, *rows]]
    return "\n".join([", ".join(head), *lines])
