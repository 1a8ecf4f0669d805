"""The smallest case on which a function is wrong, as a table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from actorcritic.audit.estimates.readings import Reading
from actorcritic.audit.estimates.trajectories import consistent
from actorcritic.audit.truths import Numbers, Trajectory


def small_cases(reading: Reading) -> Iterator[Trajectory]:
    """Trajectories of a few steps and whole numbers, the smallest first."""
    kinds = {"none": (0,), "terminations": (0, 1), "both": (0, 1, 2)}[reading.scope.ends]
    for shape in ((1, 1), (2, 1), (3, 1), (4, 1), (2, 2), (3, 2), (4, 2)):
        steps, environments = shape
        patterns = itertools.product(kinds, repeat=steps)
        grid = np.arange(steps * environments).reshape(shape)
        for pattern in sorted(patterns, key=lambda p: sum(k > 0 for k in p)):
            if environments == 2 and np.count_nonzero(pattern) > 1:
                continue
            ends = np.zeros(shape, int)
            ends[:, 0] = pattern
            x = Trajectory(
                rewards=1.0 + grid,
                values=np.array([2.0, 4, 1, 3, 5, 2, 6, 1])[grid],
                next_values=np.full(shape, 8.0),
                following=np.full(shape, 6.0),
                terminated=ends == 1,
                truncated=ends == 2,
                cut=ends > 0,
                gamma=0.5,
                lam=0.5,
                ratio=np.array([2.0, 0.5, 4, 1, 0.5, 2, 1, 4])[grid],
                n=min(2, steps),
                before=np.zeros(environments, bool),
            )
            yield consistent(x, reading.scope)


def table_of(reading: Reading, x: Trajectory, expected: Numbers, got: Numbers) -> str:
    """Its steps, with what was expected and what came."""
    view, subject = reading.view(x), reading.subject
    vtrace = subject.kind == "vtrace"
    head = [f"gamma = {view.gamma:g}"]
    if subject.sees("lam") or reading.has_lambda:
        head.append(f"lambda = {view.lam:g}")
    if vtrace:
        head.append(f"clip of rho = {view.rho_clip:g}, of c = {view.c_clip:g}")
    if subject.sees("n"):
        head.append(f"n = {x.n}")
    steps, environments = np.indices(x.rewards.shape)
    end = np.where(x.terminated, "terminated", np.where(x.truncated, "truncated", "-"))
    columns: dict[str, tuple[bool, Any]] = {
        "t": (True, steps),
        "env": (x.rewards.shape[1] > 1, environments),
        "reward": (True, x.rewards),
        "value": (subject.sees("values"), x.values),
        "next value": (not reading.scope.whole, x.next_values),
        "ratio": (vtrace, x.ratio),
        "end": (bool(x.ended.any()), end),
        "expected": (True, expected),
        "actual": (True, got),
    }
    shown = [
        [name, *(_cell(cell) for cell in values.T.ravel())]
        for name, (wanted, values) in columns.items()
        if wanted
    ]
    widths = [max(map(len, column)) for column in shown]
    rows = zip(*shown, strict=True)
    lines = ["  ".join(c.rjust(w) for c, w in zip(r, widths, strict=True)) for r in rows]
    return "\n".join([", ".join(head), *lines])


def _cell(x: Any) -> str:
    return str(x) if isinstance(x, str) else f"{x:.4g}"
