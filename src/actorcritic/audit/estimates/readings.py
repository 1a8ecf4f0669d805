"""What a function is taken to compute, and whether it does."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from actorcritic.audit.estimates.calls import COLUMNS, Form, Subject
from actorcritic.audit.estimates.trajectories import SHAPES, Scope, close, drawn
from actorcritic.audit.mistakes import CHECKS, NEEDS, Mistake, table
from actorcritic.audit.truths import QUANTITIES, Numbers, Quantity, Trajectory


class Normalised(NamedTuple):
    """What was done to the advantages at the end."""

    name: str = ""
    degrees: int = 0  # 1: sample deviation
    epsilon: float = 0.0
    inside: bool = False  # ε is added to the variance, not to the deviation
    axis: int | None = None  # of a wrong normalisation

    def __call__(self, y: Numbers) -> Numbers:
        if not self.name:
            return y
        centred = y - y.mean(axis=self.axis, keepdims=True)
        if self.name == "centred":
            return centred
        if (y.size if self.axis is None else y.shape[self.axis]) <= self.degrees:
            return np.full(y.shape, np.nan)  # the deviation of one element
        with np.errstate(all="ignore"):
            spread = y.std(axis=self.axis, ddof=self.degrees, keepdims=True)
            spread = np.sqrt(spread**2 + self.epsilon) if self.inside else spread + self.epsilon
            return centred / spread

    def describe(self) -> str:
        if self.name == "centred":
            return "the mean is subtracted at the end"
        which = "sample" if self.degrees else "population"
        where = "the variance" if self.inside else "it"
        return (
            f"normalised at the end with the {which} deviation, "
            f"about {self.epsilon:g} added to {where}"
        )


PLAIN = Normalised()
NORMALISED = [
    Normalised("normalised", degrees, epsilon, inside)
    for degrees, epsilon, inside in itertools.product(
        (0, 1), (1e-8, 1e-5, 1e-4, 1e-3, 1e-2), (False, True)
    )
]


class Reading(NamedTuple):
    """What it is taken to compute."""

    subject: Subject
    form: Form
    quantity: str
    assumed: Mapping[str, float]  # γ and λ that were found in its code
    normalised: Normalised = PLAIN
    output: int = 0
    terminal: bool = False  # time limits count as terminations

    @property
    def scope(self) -> Scope:
        return self.subject.scope(self.form)

    @property
    def has_lambda(self) -> bool:
        return "λ" in self.quantity or "generalised" in self.quantity

    def drawn(
        self, seed: int, shape: tuple[int, int] = SHAPES[0], chance: float = 0.3, **numbers: float
    ) -> Trajectory:
        return drawn(self.subject.seed + seed, shape, self.scope, chance, **numbers)

    def random(self) -> list[Trajectory]:
        return self.subject.random(self.form)

    def got(self, x: Trajectory) -> Numbers:
        return self.subject.outputs(x, self.form)[self.output][1]

    def view(self, x: Trajectory) -> Trajectory:
        """What it is told of a trajectory."""
        x = x.but(**self.assumed)
        x = x if self.form.successors else x.but(next_values=x.following)
        return x.but(terminated=x.ended) if self.terminal else x

    def raw(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        """By definition, before any normalisation, with these mistakes in it."""
        quantity = QUANTITIES[self.quantity]
        for mistake in mistakes:
            quantity = partial(mistake.applied, quantity=quantity)
        with np.errstate(all="ignore"):
            return quantity(self.view(x))

    def expected(self, x: Trajectory, *mistakes: Mistake) -> Numbers:
        return self.finish(self.raw(x, *mistakes))

    def finish(self, y: Numbers) -> Numbers:
        if self.form.layout in COLUMNS:  # it never saw more than one column
            return np.stack([self.normalised(column) for column in y.T], 1)
        return self.normalised(y)

    def mismatch(self, xs: Iterable[Trajectory]) -> tuple[Trajectory, Numbers, Numbers] | None:
        """The first of these on which it is wrong, with what was expected and what it gave."""
        for x in xs:
            try:
                got = self.got(x)
            except (Exception, SystemExit):
                continue
            expected = self.expected(x)
            if np.isfinite(expected).all() and not close(x, got, expected):
                return x, expected, got
        return None

    def known(self) -> list[Mistake]:
        """The known mistakes, without those in a γ or λ that is guessed."""
        guessed = set(self.assumed) - set(self.subject.matched.constants)
        known = table(self.subject.kind, self.form.successors)
        return [mistake for mistake in known if not guessed & NEEDS.get(mistake.check, set())]


# ------------------------------------------------------------------------------- wrong axes


def _across(x: Trajectory, of: Quantity, values: bool) -> Numbers:
    """Along the environments; `values`: what follows is the next environment's value."""
    turned = {k: v.T for k, v in x._asdict().items() if np.ndim(v) == 2}
    if values:
        after = np.concatenate([x.values.T[1:], x.following.T[-1:]])
        turned |= {"next_values": after, "following": after}
    return of(x.but(**turned)).T


def _normalised_by(x: Trajectory, of: Quantity, how: Normalised) -> Numbers:
    return how(of(x))


AXES = [
    Mistake(
        "time-axis",
        "Time and environment axes are swapped: it sums along the environments.",
        partial(_across, values=values),
        *CHECKS["time-axis"],
    )
    for values in (False, True)
]
AXES += [
    Mistake(
        "normalisation-axis",
        f"It normalises over the wrong axis: {each} by itself.",
        partial(_normalised_by, how=Normalised("normalised", degrees, epsilon, axis=axis)),
        *CHECKS["normalisation-axis"],
    )
    for axis, each in enumerate(("each environment", "each time step"))
    for degrees, epsilon in itertools.product((0, 1), (1e-8, 1e-5, 1e-3))
]

# ------------------------------------------------------------------------------- all readings


def assumptions(subject: Subject) -> list[dict[str, float]]:
    """γ, λ and clips that it is not given: from its module, its code, or the usual ones."""
    constants, literals = subject.matched.constants, subject.literals
    options: dict[str, tuple[float, ...]] = {}
    if not subject.sees("gamma", "discounts"):
        options["gamma"] = (*literals, 1.0, 0.99)
    if not subject.sees("lam"):  # γλ may be there as one number
        folded = [a / b for a, b in itertools.permutations(literals, 2) if a < b]
        options["lam"] = (1.0,) if subject.kind == "vtrace" else (*literals, *folded, 1.0)
    if subject.kind == "vtrace":
        clips = [clip for clip in ("rho_clip", "c_clip") if not subject.sees(clip)]
        options |= dict.fromkeys(clips, (1.0, *literals))
    options |= {role: (constants[role],) for role in options if role in constants}
    choices = itertools.product(*(dict.fromkeys(values) for values in options.values()))
    return [dict(zip(options, values, strict=True)) for values in choices]


WHOLE = "the return to the end of the episode or batch"


def quantities(subject: Subject) -> list[str]:
    """What a function of this kind, and of these parameters, may compute."""
    sees = subject.sees
    has_lambda = sees("lam") or "lam" in subject.matched.constants
    if subject.kind == "vtrace":
        return ["V-trace targets", "V-trace targets minus V"]
    if subject.kind == "advantages":
        gae = ["generalised advantages"]
        return gae if has_lambda else ["the TD error", f"{WHOLE}, minus V", *gae]
    if has_lambda:
        return ["the λ-return"]
    if sees("n"):
        return ["the n-step return"]
    if not sees("next_values", "values"):
        return [WHOLE]
    found = [WHOLE, "the TD target"]
    # What an unfinished last episode would have brought need not be asked of Monte Carlo.
    if sees("next_values") and sees("truncated") and not sees("values"):
        found.append("the Monte Carlo return of complete episodes")
    return [*found, "the λ-return"] if subject.literals else found


def readings(subject: Subject, form: Form, outputs: int) -> Iterator[Reading]:
    terminal = subject.scope(form).ends == "both" and (
        not form.successors or subject.time_limits == "terminal"
    )
    for quantity, assumed in itertools.product(quantities(subject), assumptions(subject)):
        for output in range(outputs):
            yield Reading(subject, form, quantity, assumed, PLAIN, output, terminal)
