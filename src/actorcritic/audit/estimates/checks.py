"""What a definition asks on chosen trajectories, and what must hold between results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from actorcritic.audit import calling
from actorcritic.audit.estimates.readings import Reading
from actorcritic.audit.estimates.trajectories import SHAPES, close, consistent
from actorcritic.audit.findings import Ledger
from actorcritic.audit.mistakes import CUT, STOPS, shifted
from actorcritic.audit.truths import Numbers, Trajectory

# What can be said where no known mistake gives its numbers.
PROPERTIES = {
    "termination-drops-bootstrap": "Its result depends on values after a terminal state.",
    "truncation-bootstraps": "It is wrong where a time limit cut an episode.",
    "bootstrap-from-true-successor": "Its result depends on the first value of the next episode.",
    "trace-cut-at-episode-end": "Its result depends on rewards of a later episode.",
    "returns-stop-at-episode-end": "Its result depends on rewards of a later episode.",
    "done-flag-aligned": "It is wrong on trajectories with one end.",
    "last-bootstrap-used": "It is wrong about the value after the last step.",
    "environments-independent": "Environments are not kept apart: their order matters.",
    "lambda-applied-once": "Without any end, it is wrong for some lambda of 0, 0.4 and 1.",
    "gamma-used": "Without any end, it is wrong for some gamma.",
    "definition": "Its numbers are not those of the definition.",
    "scaling": "Rewards and values four times as large do not give results four times as large.",
    "exact-values-give-zero": "With exact values its result is not what they say.",
    "potential-shaping": "Shifting rewards and values by a potential changes the advantages.",
    "episodes-apart-or-joined": "Two episodes in one batch give other results than apart.",
}


def checks_of(reading: Reading) -> dict[str, list[Trajectory]]:
    """Trajectories on which to compare it with the definition, by what they can tell."""
    scope, kind, sees = reading.scope, reading.subject.kind, reading.subject.sees
    steps, environments = shape = SHAPES[0]

    def some(count: int = 2, chance: float = 0.3, **numbers: float) -> list[Trajectory]:
        return [reading.drawn(100 + i, shape, chance, **numbers) for i in range(count)]

    def changed(
        xs: list[Trajectory], **changes: Callable[[Trajectory], Numbers]
    ) -> list[Trajectory]:
        made = [x.but(**{name: change(x) for name, change in changes.items()}) for x in xs]
        return [consistent(x, scope) for x in made]

    plain = some(chance=0.0)
    checks = {"definition": reading.random()}
    if scope.ends != "none":
        checks["termination-drops-bootstrap"] = changed(
            some(), next_values=lambda x: np.where(x.terminated, 1e6, x.next_values)
        )
        later = [x for x in some(4) if x.ended[:-1].any()]
        # Only the rows up to the first end are told from the poison by their size; the rest
        # are judged against a larger scale, which is why the plain cases come first.
        checks[STOPS.get(kind, CUT)] = later + changed(
            later, rewards=lambda x: np.where(_after_an_end(x), 1e6, x.rewards)
        )
        diagonal = (np.arange(steps)[:, None] + np.arange(environments)) % steps
        one_end = [consistent(plain[0].but(terminated=diagonal == i), scope) for i in range(steps)]
        checks["done-flag-aligned"] = one_end
    if scope.ends == "both":
        if not reading.terminal:
            checks["truncation-bootstraps"] = changed(
                some(), truncated=lambda x: x.ended, terminated=lambda x: x.ended & False
            )
        checks["bootstrap-from-true-successor"] = changed(
            some(), values=lambda x: np.where(shifted(x.truncated, 1, False), 1e6, x.values)
        )
    if not scope.whole:
        checks["last-bootstrap-used"] = changed(plain, following=lambda x: 1e3 + x.following)
        checks["last-bootstrap-once"] = changed(
            plain, following=lambda x: 1e3 + x.following, rewards=lambda x: 0 * x.rewards
        )
        checks["bootstrap-discounted"] = some(chance=0.0, gamma=0.3)
    if sees("lam"):
        checks["lambda-applied-once"] = [x for v in (0.0, 0.4, 1.0) for x in some(1, 0.0, lam=v)]
    if sees("gamma", "discounts"):
        checks["gamma-used"] = [x for v in (0.5, 0.99, 1.0) for x in some(1, 0.0, gamma=v)]
        checks["gamma-in-the-trace"] = some(1, 0.0, gamma=0.2, lam=0.9)
    if kind == "advantages":
        checks["baseline-subtracted"] = changed(
            plain, values=lambda x: x.values + 100.0, following=lambda x: x.following + 100.0
        )
    if kind == "vtrace":
        for name, ratio in (
            ("rho-and-c-clips", 4.0),
            ("clips-applied", 20.0),
            ("ratio-of-target-to-behaviour", 0.3),
        ):
            checks[name] = [x.but(ratio=np.full(shape, ratio)) for x in plain]
    return checks


def _after_an_end(x: Trajectory) -> Numbers:
    return np.cumsum(shifted(x.ended, 1, False), 0) > 0


def relations_of(reading: Reading) -> dict[str, Callable[[], bool]]:
    """What must hold between its results on trajectories that are made from one another."""
    scope, kind, got = reading.scope, reading.subject.kind, reading.got
    x = reading.drawn(200)
    view = reading.view(x)

    def arrays(y: Trajectory, change: Callable[[Numbers], Numbers]) -> dict[str, Any]:
        return {k: change(v) for k, v in y._asdict().items() if np.ndim(v) == 2}

    def permuted() -> bool:
        order = np.array([2, 0, 1])
        y = x.but(**arrays(x, lambda v: v[:, order]), before=np.asarray(x.before)[order])
        return close(x, got(y), got(x)[:, order])

    def scaled() -> bool:
        names = ("rewards", "values", "next_values", "following")
        y = x.but(**{name: 4 * getattr(x, name) for name in names})
        return close(y, got(y), 4 * got(x))

    def exact() -> bool:
        # A chain whose rewards are what the values say: r_t = V(s_t) − γ V(s_{t+1}).
        y = x.but(rewards=x.values - view.gamma * view.bootstrap)
        return close(y, got(y), 0 * x.rewards if kind == "advantages" else y.values)

    def shaped() -> bool:
        rng = np.random.default_rng(3)
        phi = rng.uniform(-3, 3, x.rewards.shape)
        following = np.concatenate([phi[1:], rng.uniform(-3, 3, phi[:1].shape)])
        after = np.where(x.ended, rng.uniform(-3, 3, phi.shape), following)
        kept = np.where(view.terminated, 0.0, after)  # a terminal state has no potential
        y = x.but(
            rewards=x.rewards + view.gamma * kept - phi,
            values=x.values - phi,
            next_values=x.next_values - after,
            following=x.following - following,
        )
        return close(y, got(y), got(x))

    def joined() -> bool:
        # Two trajectories, the first of which ends, one after the other.
        ended = x.terminated.copy()
        ended[2] = True
        first = x.but(**arrays(x.but(terminated=ended), lambda v: v[:3]))
        first = consistent(first, scope._replace(open=False))
        second = consistent(x.but(**arrays(reading.drawn(201), lambda v: v[:2])), scope)
        apart = np.concatenate([got(first), got(second.but(before=first.ended[-1]))])
        parts = arrays(first, lambda v: v), arrays(second, lambda v: v)
        both = x.but(**{k: np.concatenate([v, parts[1][k]]) for k, v in parts[0].items()})
        return close(x, got(consistent(both, scope)), apart)

    relations = {"environments-independent": permuted}
    sees_values = reading.subject.sees("values")
    if not reading.normalised.name:
        relations["scaling"] = scaled
        if sees_values and (kind == "advantages" or reading.quantity == "V-trace targets"):
            relations["exact-values-give-zero"] = exact
        if scope.ends != "none" and not scope.open:
            relations["episodes-apart-or-joined"] = joined
    if kind == "advantages" and sees_values:
        relations["potential-shaping"] = shaped
    return relations


def run_checks(reading: Reading, ledger: Ledger) -> list[str]:
    """Names of the checks that do not hold; the ledger has those that do."""
    failed = []
    for name, xs in checks_of(reading).items():
        if reading.mismatch(xs):
            failed.append(name)
        else:
            ledger.hold(name)
    for name, holds in relations_of(reading).items():
        try:
            if holds():
                ledger.hold(name)
            else:
                failed.append(name)
        except (Exception, SystemExit) as error:
            raised = calling.one_line(error)
            ledger.not_checked.append(f"{name}: the function raised {raised}")
    return failed
