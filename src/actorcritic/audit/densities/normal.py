"""Log-probabilities and samples of continuous actions: normal, squashed, truncated."""

from __future__ import annotations

import contextlib
import math

import numpy as np
from scipy import stats

from actorcritic.audit import calling
from actorcritic.audit.densities import rows
from actorcritic.audit.densities.calls import Audit, one_row, without_rows
from actorcritic.audit.densities.rows import MANY, Each, Match, Point
from actorcritic.audit.findings import UNJUDGED, WRONG, CannotCall, Fault, as_numbers
from actorcritic.audit.losses.cases import NORMAL
from actorcritic.audit.truths import integrates

# ------------------------------------------------------------------------------ given actions


def densities(audit: Audit) -> None:
    """The function of an action: which density is it?"""
    rng = np.random.default_rng(3)
    points = [audit.point(rng, 6, d) for d in (2, 3, 1)]
    match = _identified(audit, points)
    if match is None:
        _unknown(audit, points[0])
        return
    reading = match.reading
    right = reading.each if reading.fault is None else audit.right
    for fault in (audit.reduction(match.how), reading.fault):
        if fault is not None:
            _fail(audit, fault, right, match.squashed)
    if reading.fault is not None:
        return
    audit.explained(match)
    if not audit.batched:
        audit.choices.append("one action at a time: a batch is summed up or refused")
    _integral(audit, match)
    _extremes(audit, match)


def _identified(audit: Audit, points: list[Point]) -> Match | None:
    for batched in (True, False):
        audit.batched = batched
        found: dict[bool, list[np.ndarray]] = {}
        for squashed in (False, True):
            with contextlib.suppress(SystemExit, Exception):
                found[squashed] = [
                    audit.log_probs(audit.values(p, squashed), len(p.u)) for p in points
                ]
        match = audit.best({False: points, True: points}, found)
        if match is not None:
            return match
    audit.batched = True
    return None


def _unknown(audit: Audit, p: Point) -> None:
    squashed = audit.claimed and not audit.takes("unsquashed")
    try:
        got = audit.log_probs(audit.values(p, squashed), len(p.u))
    except (Exception, SystemExit) as error:
        raise CannotCall(
            f"{audit.name} failed when called with {audit.matched.describe()} "
            f"({audit.framework}): {calling.one_line(error)}"
        ) from error
    finite = bool(got.size and np.all(np.isfinite(got)))
    text = "the log-probability agrees with no density of a normal or squashed normal action"
    text = text if finite else "the log-probability of an ordinary action is not finite"
    fault = NORMAL._replace(wrong=text, severity=UNJUDGED if finite else WRONG)
    _fail(audit, fault, audit.right, squashed)


def _fail(audit: Audit, fault: Fault, right: Each, squashed: bool) -> None:
    """With the smallest example: one action, of as few dimensions as show it."""
    for d in (1, 2):
        p = audit.at(np.array([[0.5, -1.0]])[:, :d], np.zeros((1, d)), np.full((1, d), 0.5))
        values = audit.values(p, squashed)
        expected, got = right(p).sum(-1), audit.log_probs(values, 1)
        if got.shape != expected.shape or not np.allclose(got, expected, 1e-3, 1e-3):
            break
    audit.fail(fault, audit.table(values, [("log-probability", expected, got)]))


def _integral(audit: Audit, match: Match) -> None:
    """∫ exp(log-probability) over all actions, for one dimension: the trapezoidal rule in u."""
    mean, std = np.full((241, 1), 0.3), np.full((241, 1), 0.6)
    # A truncated normal needs the whole box, whose ends are at infinite u.
    width = 1.0 if match.reading.each is rows.truncated else std
    p = audit.at(mean + np.linspace(-8, 8, 241)[:, None] * width, mean, std)
    log_p = audit.log_probs(audit.values(p, match.squashed), 241).reshape(241, 1)
    if match.reading is not rows.PLAIN:
        log_p = log_p + rows.change(p)
    with np.errstate(over="ignore", invalid="ignore"):
        total = float(np.trapezoid(np.nan_to_num(np.exp(log_p))[:, 0], p.u[:, 0]))
    values = {"mean": mean[:1], "std": std[:1], "log_std": np.log(std[:1])}
    values |= without_rows(audit.values(p, False))
    audit.verdict(abs(total - 1) < 2e-3, rows.INTEGRAL, values, [("integral", 1.0, total)])


def _extremes(audit: Audit, match: Match) -> None:
    """Saturated draws, and deviations that are tiny or large."""
    u, mean, std = np.array(
        [[20.0, 19.0, 1.0], [-20.0, -19.0, 1.0], [12.0, 9.0, 2.0], [3.0, 3.0, 7.0], [0, 0, 0.007]]
    ).T[..., None]
    if match.squashed:  # the action cannot tell draws apart where tanh is saturated
        u, mean = np.clip(u, -4, 4), np.clip(mean, -4, 4)
    p = audit.at(u, mean, std)
    got = audit.log_probs(audit.values(p, match.squashed), len(u)).reshape(len(u))
    expected, finite = match.reading.each(p)[:, 0], np.isfinite(got)
    one = slice(int(np.argmin(finite)), int(np.argmin(finite)) + 1)
    values = audit.values(audit.at(u[one], mean[one], std[one]), match.squashed)
    compared = [("log-probability", expected[one], got[one])]
    audit.verdict(bool(finite.all()), rows.SATURATION, values, compared)
    if finite.all() and not np.allclose(got, expected, 1e-3, 1e-2):
        audit.choices.append(
            "where tanh is saturated the log-probability is cut off (an ε in the logarithm, "
            "or a clip)"
        )


# ------------------------------------------------------------------------------ samples


def samples(audit: Audit) -> None:
    """With their log-probabilities."""
    for dimensions in (1, 2):
        _drawn(audit, dimensions)
        if audit.found:
            return
    _flow(audit)


def _flow(audit: Audit) -> None:
    """Whether a gradient reaches the mean through what is drawn (PyTorch)."""
    if audit.framework.name != "torch" or audit.matched.takes_case:
        return
    values = audit.values(audit.point(np.random.default_rng(2), 4, 2), False)
    handed = {
        r: audit.framework.array(v, requires_grad=r == "mean") if np.ndim(v) else v
        for r, v in values.items()
    }
    result = audit.returned(handed, convert=False).result
    parts = result if isinstance(result, tuple) else (result,)
    for name, part in zip(("action", "log-probability"), parts, strict=False):
        if hasattr(part, "requires_grad") and not part.requires_grad:
            audit.choices.append(
                f"no gradient flows through the {name}: right where it is data, and wrong "
                "where a loss is to train the policy through it (rsample, and no no_grad)"
            )


def _drawn(audit: Audit, dimensions: int) -> None:
    asked = audit.point(np.random.default_rng(11), MANY, dimensions, same=True)
    values = audit.values(asked, False)
    found = audit.call(values, MANY)
    actions = [f for f in found if f.shape == (MANY, dimensions)]
    logs = [f for f in found if f.shape in ((MANY,), (MANY, 1)) and f is not actions[0]]
    if not actions or not (logs or actions[1:]):
        shapes = ", ".join(str(list(f.shape)) for f in found)
        raise CannotCall(
            f"{audit.name} should return actions [N, D] and log-probabilities [N]; for "
            f"N = {MANY} and D = {dimensions} it returned shapes {shapes or 'none'}."
        )
    action, got = actions[0], logs[0].reshape(MANY) if logs else actions[1]

    def fail(fault: Fault, expected: np.ndarray, row: int = 0) -> None:
        one = slice(row, row + 1)
        compared = [("log-probability", expected, got[one])]
        audit.fail(fault, audit.table(one_row(values), compared, action[one]))

    bound = _clipped(asked, action, got)
    if bound is not None:
        fail(*bound)
        return
    match = _told_or_inside(audit, asked, action, got)
    if match is None and got.ndim == 1 and integrates(action, got):
        audit.choices.append("a density of a form of its own, which its samples do follow")
        audit.hold(rows.SAMPLE_DENSITY.check, rows.SAMPLES.check)
        return
    fault: Fault | None = rows.SAMPLE_DENSITY
    if match is not None:
        fault = match.reading.fault or audit.reduction(match.how)
    right = match.reading.each if match and match.reading.fault is None else audit.right
    p = audit.of(action, asked, match.squashed if match else audit.claimed)
    if fault is not None:
        fail(fault, right(p).sum(-1)[:1])
    elif match is not None:
        audit.explained(match)
        audit.hold(rows.SAMPLE_DENSITY.check, rows.CLIPPED.check)
        if match.reading.each is not rows.truncated:
            _spread(audit, p, values)


def _told_or_inside(
    audit: Audit, asked: Point, action: np.ndarray, got: np.ndarray
) -> Match | None:
    """With the box that it is told of, else with one that its code or its module has."""
    constants = (audit.matched.constants.get(r) for r in ("max_action", "action_scale"))
    written = [c for c in constants if c] + [*calling.numbers(audit.function)]
    found = {}
    for inside in [None, *([] if audit.boxed else dict.fromkeys(written))]:
        audit.inside = inside
        points = {squashed: [audit.of(action, asked, squashed)] for squashed in (True, False)}
        if not np.all(np.isfinite(points[True][0].u)):
            del points[True]
        match = audit.best(points, {True: [got], False: [got]})
        if match is not None:
            found[inside] = match
    audit.inside = min(found, key=lambda i: found[i].reading.fault is not None, default=None)
    if audit.inside is not None:
        audit.choices.append(f"the limit of the action, {audit.inside:g}, is written inside")
    return found.get(audit.inside)


def _clipped(
    asked: Point, action: np.ndarray, got: np.ndarray
) -> tuple[Fault, np.ndarray, int] | None:
    """Whether many samples are one and the same number: a bound, at which there is no density.

    That is right only if the log-probability is that of all draws beyond the bound.
    """
    values, counts = np.unique(action, return_counts=True)
    if len(values) < 10 or got.ndim > 1 or action.shape[1] > 1:
        return None
    for bound in values[counts > 0.005 * MANY]:
        at = action[:, 0] == bound
        below = stats.norm.cdf((bound - asked.mean[0, 0]) / asked.std[0, 0])
        mass = math.log(below if bound < np.median(action) else 1 - below)
        if not np.allclose(got[at], mass, 1e-2, 1e-2):
            wrong = (
                f"{at.mean():.0%} of the actions are clipped to {as_numbers(bound)}, with the "
                "log-probabilities of the draws before the clip"
            )
            return rows.CLIPPED._replace(wrong=wrong), np.array([mass]), int(np.argmax(at))
    return None


def _spread(audit: Audit, p: Point, values: dict[str, np.ndarray]) -> None:
    """Whether the samples follow the density that came with them (Kolmogorov–Smirnov)."""
    scores, dimensions = (p.u - p.mean) / p.std, p.u.shape[1]
    distance = max(stats.kstest(scores[:, k], "norm").statistic for k in range(dimensions))
    alike = distance < math.sqrt(math.log(2 * dimensions / rows.LEVEL) / (2 * MANY))
    compared = [("mean of u", p.mean[0], p.u.mean(0)), ("deviation of u", p.std[0], p.u.std(0))]
    audit.verdict(bool(alike), rows.SAMPLES, one_row(values), compared)
