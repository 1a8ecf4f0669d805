"""What a definition asks on chosen trajectories, and what must hold between outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.estimates.readings import (
    SHAPES,
    Reading,
    after_an_end,
    consistent,
    starts,
)
from actorcritic.audit.truths import (
    Numbers,
    Trajectory,
)

if TYPE_CHECKING:
    from actorcritic.audit.estimates.audit import Audit


def checks_of(audit: Audit, reading: Reading) -> dict[str, list[Trajectory]]:
    """Trajectories on which to compare it with the definition, by what they can tell."""
    form, scope = reading.form, audit.scope(reading.form)
    shape = SHAPES[0]

    def some(count: int = 2, chance: float = 0.3, **options: Any) -> list[Trajectory]:
        return [audit.trajectory(100 + i, shape, scope, chance, **options) for i in range(count)]

    def changed(
        xs: list[Trajectory], change: Callable[[Trajectory], dict[str, Numbers]]
    ) -> list[Trajectory]:
        return [consistent(x.but(**change(x)), scope) for x in xs]

    plain = some(chance=0.0)
    checks = {"definition": audit._random(form)}
    if scope.ends != "none":
        checks["termination-drops-bootstrap"] = changed(
            some(), lambda x: {"next_values": np.where(x.terminated, 1e6, x.next_values)}
        )
        later = [x for x in some(4) if x.ended[:-1].any()]
        ends_cut = (
            "returns-stop-at-episode-end" if audit.kind == "returns" else "trace-cut-at-episode-end"
        )
        # Only the rows up to the first end are told from the poison by their size; the rest
        # are judged against a larger scale, which is why the plain cases come first.
        checks[ends_cut] = later + changed(
            later, lambda x: {"rewards": np.where(after_an_end(x), 1e6, x.rewards)}
        )
        single = []
        for i in range(shape[0]):
            rows = (np.arange(shape[0])[:, None] + np.arange(shape[1])) % shape[0] == i
            single += changed(plain[:1], lambda x, rows=rows: {"terminated": rows})  # type: ignore[misc]
        checks["done-flag-aligned"] = single
    if scope.ends == "both" and not reading.terminal:
        checks["truncation-bootstraps"] = changed(
            some(), lambda x: {"truncated": x.ended, "terminated": x.ended & False}
        )
    if scope.ends == "both":
        checks["bootstrap-from-true-successor"] = changed(
            some(), lambda x: {"values": np.where(starts(x), 1e6, x.values)}
        )
    if not scope.whole:
        checks["last-bootstrap-used"] = changed(plain, lambda x: {"following": 1e3 + x.following})
        checks["last-bootstrap-once"] = changed(
            plain, lambda x: {"following": 1e3 + x.following, "rewards": 0 * x.rewards}
        )
        checks["bootstrap-discounted"] = some(chance=0.0, gamma=0.3)
    if audit.sees("lam"):
        checks["lambda-applied-once"] = [
            x for lam in (0.0, 0.4, 1.0) for x in some(1, 0.0, lam=lam)
        ]
    if audit.sees("gamma", "discounts"):
        checks["gamma-used"] = [x for g in (0.5, 0.99, 1.0) for x in some(1, 0.0, gamma=g)]
        checks["gamma-in-the-trace"] = some(1, 0.0, gamma=0.2, lam=0.9)
    if audit.kind == "advantages":
        checks["baseline-subtracted"] = changed(
            plain, lambda x: {"values": x.values + 100.0, "following": x.following + 100.0}
        )
    if audit.kind == "vtrace":
        high, low = np.full(shape, 4.0), np.full(shape, 0.3)
        checks["rho-and-c-clips"] = changed(plain, lambda x: {"ratio": high})
        checks["clips-applied"] = changed(plain, lambda x: {"ratio": high * 5})
        checks["ratio-of-target-to-behaviour"] = changed(plain, lambda x: {"ratio": low})
    return checks


def relations_of(audit: Audit, reading: Reading) -> dict[str, Callable[[], bool]]:
    """What must hold between its outputs on trajectories that are made from one another."""
    form, scope = reading.form, audit.scope(reading.form)
    x = audit.trajectory(200, SHAPES[0], scope)

    def got(y: Trajectory) -> Numbers:
        return audit.outputs(y, form)[reading.output][1]

    def mapped(change: Callable[[Numbers], Numbers], y: Trajectory) -> Trajectory:
        new = {k: change(v) for k, v in y._asdict().items() if np.ndim(v) == 2}
        return y.but(**new)

    def permuted() -> bool:
        order = np.array([2, 0, 1])
        y = mapped(lambda v: v[:, order], x)._replace(before=np.asarray(x.before)[order])
        return audit.close(x, got(y), got(x)[:, order])

    def scaled() -> bool:
        names = ("rewards", "values", "next_values", "following")
        y = x.but(**{name: 4 * getattr(x, name) for name in names})
        return audit.close(y, got(y), 4 * got(x))

    def exact() -> bool:
        # A chain whose rewards are what the values say: r_t = V(s_t) − γ V(s_{t+1}).
        view = reading.view(x)
        y = x._replace(rewards=x.values - view.gamma * view.bootstrap)
        zero = np.zeros(x.rewards.shape)
        return audit.close(y, got(y), zero if audit.kind == "advantages" else y.values)

    def shaped() -> bool:
        view, rng = reading.view(x), np.random.default_rng(3)
        phi = rng.uniform(-3, 3, x.rewards.shape)
        after = np.concatenate([phi[1:], rng.uniform(-3, 3, phi[:1].shape)])
        following = after
        after = np.where(x.ended, rng.uniform(-3, 3, phi.shape), after)
        kept = np.where(view.terminated, 0.0, after)  # a terminal state has no potential
        y = x._replace(
            rewards=x.rewards + view.gamma * kept - phi,
            values=x.values - phi,
            next_values=x.next_values - after,
            following=x.following - following,
        )
        return audit.close(y, got(y), got(x))

    def joined() -> bool:
        # Two trajectories, the first of which ends, one after the other.
        first = mapped(lambda v: v[:3], x)
        second = mapped(lambda v: v[:2], audit.trajectory(201, SHAPES[0], scope))
        ended = first.terminated.copy()
        ended[-1] = True
        first = consistent(first._replace(terminated=ended), scope._replace(open=False))
        second = consistent(
            second._replace(gamma=x.gamma, lam=x.lam, n=x.n, rho_clip=x.rho_clip, c_clip=x.c_clip),
            scope,
        )
        both = {
            k: np.concatenate([v, getattr(second, k)])
            for k, v in first._asdict().items()
            if np.ndim(v) == 2
        }
        apart = np.concatenate([got(first), got(second._replace(before=first.ended[-1]))])
        return audit.close(x, got(consistent(first.but(**both), scope)), apart)

    relations = {"environments-independent": permuted}
    if not reading.normalised.name:
        relations["scaling"] = scaled
        vtrace_values = audit.kind == "vtrace" and reading.quantity == "V-trace targets"
        if audit.sees("values") and (audit.kind == "advantages" or vtrace_values):
            relations["exact-values-give-zero"] = exact
        if scope.ends != "none" and not scope.open:
            relations["episodes-apart-or-joined"] = joined
    if audit.kind == "advantages" and audit.sees("values"):
        relations["potential-shaping"] = shaped
    return relations


def run_checks(audit: Audit, reading: Reading) -> tuple[list[str], list[str]]:
    """Names of the checks that hold, and of those that do not."""
    held: list[str] = []
    failed: list[str] = []
    for name, xs in checks_of(audit, reading).items():
        (failed if audit.mismatch(reading, xs) else held).append(name)
    for name, holds in relations_of(audit, reading).items():
        try:
            (held if holds() else failed).append(name)
        except (Exception, SystemExit) as error:
            audit.not_checked.append(f"{name}: the function raised {calling.one_line(error)}")
    return held, failed
