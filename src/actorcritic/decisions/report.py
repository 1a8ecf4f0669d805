"""The page on a log: what was decided, what became of it, how far to believe the critic."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from actorcritic.core.words import printable
from actorcritic.decisions import evaluation, features
from actorcritic.decisions.evaluation import Interval, Logged, mean_interval
from actorcritic.decisions.log import Log, numbers_of
from actorcritic.decisions.pages import write
from actorcritic.decisions.policy import Policy
from actorcritic.decisions.replay import tables
from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Section, Table

MOST_ROWS = 20_000  # the latest decisions, that are looked at one by one
MOST_CURVES = 6  # actions with a curve of their own
BLOCKS, FEWEST_IN_BLOCK = 60, 20  # points of a curve; outcomes of a point
CLUSTERS, ROUNDS = 6, 20
BINS = 10
UNSURE = 12
WORDS = 5  # that name a cluster
LONGEST = 90  # characters of a task that is shown
FEWEST_EVALUATED = 100  # outcomes
CHI_SQUARE = {1: 3.84, 2: 5.99, 3: 7.81, 4: 9.49, 5: 11.07}  # 95 % points, by degrees of freedom


class _Rows(NamedTuple):
    """The latest decisions as arrays; the reward of what has none is NaN."""

    texts: list[str]
    x: Float[np.ndarray, "n d"]
    allowed: Bool[np.ndarray, "n K"]
    action: Int[np.ndarray, " n"]
    probability: Float[np.ndarray, " n"]
    predicted: Float[np.ndarray, " n"]
    reward: Float[np.ndarray, " n"]

    @property
    def known(self) -> Bool[np.ndarray, " n"]:
        return ~np.isnan(self.reward)


def report(log: Log, path: str | Path, policy: Policy) -> Path:
    """Write the page. `policy` is the one that acts now, of which it is said where it is unsure."""
    decisions, outcomes = log.counts()
    names = [name for name, _ in log.actions()]
    rows = _read(log, policy, len(names))
    sections = [_overview(log, rows, names, decisions, outcomes)]
    if rows.known.sum() >= FEWEST_IN_BLOCK:
        sections += [_clusters(rows, names), _critic(rows)]
    if len(rows.reward):
        sections.append(_unsure(rows, names, policy))
    if rows.known.sum() >= FEWEST_EVALUATED:
        sections.append(_others(rows, names))
    summary = []
    if decisions > len(rows.reward):
        summary.append(
            f"Apart from the counts, all is of the latest {len(rows.reward):,} decisions."
        )
    title = f"Decisions of {printable(log.path.name)}"
    return write(Path(path), title, sections, summary=summary)


def _read(log: Log, policy: Policy, actions: int) -> _Rows:
    found = log.read(
        "SELECT d.context, d.vector, d.allowed, d.action, d.probability, d.predicted, f.reward "
        "FROM decisions d LEFT JOIN feedback f ON f.decision = d.number "
        "ORDER BY d.number DESC LIMIT ?",
        (MOST_ROWS,),
    )[::-1]
    size, n = len(policy.standard.mean), len(found)
    x, allowed = np.zeros((n, size), np.float32), np.zeros((n, actions), bool)
    given = np.zeros(n, bool)
    for i, (context, vector, ones, *_) in enumerate(found):
        x[i], given[i] = features.numbers_of(context, vector, size), vector is not None
        allowed[i, numbers_of(ones)] = True

    def column(k: int) -> np.ndarray:
        return np.array([np.nan if row[k] is None else row[k] for row in found], float)

    return _Rows(
        [_shown(row[0]) for row in found],
        policy.scaled(x, given) if n else x,
        allowed,
        column(3).astype(np.int64),
        column(4),
        column(5),
        column(6),
    )


def _shown(context: str | None) -> str:
    if context is None:
        return "(a vector)"
    text = json.loads(context)
    text = text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)
    text = " ".join(printable(text).split())
    return text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _percent(x: float) -> str:
    return "–" if np.isnan(x) else f"{100 * x:.0f} %"


def _mean(x: Float[np.ndarray, " n"]) -> str:
    if len(x) < 2:
        return "–" if not len(x) else f"{x[0]:.3f}"
    return str(mean_interval(x))


# ------------------------------------------------------------------------------------ overview


def _overview(log: Log, rows: _Rows, names: list[str], decisions: int, outcomes: int) -> Section:
    known, reward = rows.known, rows.reward
    if not decisions:
        return Section("Overview", "Nothing was decided yet.")
    mean = _mean(reward[known])
    share = f"{outcomes / decisions:.0%}"
    verdict = f"{decisions:,} decisions, {outcomes:,} with feedback ({share}); mean reward {mean}."
    remarks = []
    late = _answered_unequally(rows, names)
    if late:
        remarks.append(late)
    table_rows = []
    for a, name in enumerate(names):
        own = rows.action == a
        table_rows.append(
            (
                name,
                f"{int(own.sum()):,}",
                _percent(own.mean() if len(own) else np.nan),
                f"{int((own & known).sum()):,}",
                _mean(reward[own & known]),
                _percent((reward[own & known] > 0).mean()) if (own & known).any() else "–",
            )
        )
    columns = ("action", "chosen", "share", "with feedback", "mean reward", "reward above 0")
    note = (
        "Mean rewards of what was chosen, with 95 % intervals: an action that is chosen for hard "
        "tasks seems worse here than it is."
    )
    table = Table("actions", "By action", columns, tuple(table_rows), note)
    pictures = _over_time(rows, names)
    return Section("Overview", verdict, tuple(remarks), pictures, (table,))


def _answered_unequally(rows: _Rows, names: list[str]) -> str:
    """A warning where feedback comes much more often for some actions than for others."""
    shares = {
        name: float(rows.known[rows.action == a].mean())
        for a, name in enumerate(names)
        if (rows.action == a).sum() >= 50
    }
    if len(shares) < 2 or max(shares.values()) - min(shares.values()) < 0.2:
        return ""
    most, least = max(shares, key=shares.__getitem__), min(shares, key=shares.__getitem__)
    return (
        f"Feedback comes for {shares[most]:.0%} of the decisions for {most}, and for "
        f"{shares[least]:.0%} of those for {least}: where it is missing for a reason, rewards here "
        "are of a selection."
    )


def _over_time(rows: _Rows, names: list[str]) -> tuple[Picture, ...]:
    at = np.flatnonzero(rows.known)
    blocks = min(BLOCKS, len(at) // FEWEST_IN_BLOCK)
    if blocks < 2:
        return ()
    parts = np.array_split(at, blocks)
    x = np.array([part.mean() + 1 for part in parts])
    found = [mean_interval(rows.reward[part]) for part in parts]
    curve = plots.Series(
        "all",
        x,
        np.array([each.value for each in found]),
        np.array([each.low for each in found]),
        np.array([each.high for each in found]),
    )
    reward = plots.lines([curve], "decision", "mean reward")
    counts = Counter(rows.action.tolist())
    shares = [
        plots.Series(names[a], x, np.array([(rows.action[part] == a).mean() for part in parts]))
        for a, _ in counts.most_common(MOST_CURVES)
    ]
    note = f"Means of {len(parts[0]):,} outcomes each; bands are 95 % intervals."
    return (
        Picture("reward", "Reward over time", reward, note),
        Picture("shares", "What was chosen, over time", plots.lines(shares, "decision", "share")),
    )


# ------------------------------------------------------------------------------------ clusters


def _clusters(rows: _Rows, names: list[str]) -> Section:
    """Tasks that are alike, how well each kind goes, and whether what comes changes."""
    label = _k_means(rows.x, CLUSTERS)
    sizes = np.bincount(label, minlength=CLUSTERS)
    order = [c for c in np.argsort(-sizes) if sizes[c]]
    half = np.arange(len(label)) >= len(label) // 2
    table_rows = []
    for c in order:
        own = label == c
        chosen = Counter(rows.action[own].tolist()).most_common(1)[0]
        table_rows.append(
            (
                _words(rows.texts, own),
                f"{int(own.sum()):,}",
                f"{_percent(own[~half].mean())} → {_percent(own[half].mean())}",
                _mean(rows.reward[own & rows.known]),
                f"{names[chosen[0]]} ({chosen[1] / own.sum():.0%})",
            )
        )
    columns = ("tasks with", "decisions", "share, first half → second", "mean reward", "mostly")
    note = (
        "k-means of the features; words that are frequent here and rare elsewhere name a cluster."
    )
    drift, changed = _drift(rows, label, half)
    table = Table("clusters", "By kind of task", columns, tuple(table_rows), note)
    return Section("Kinds of tasks, and drift", drift, changed, tables=(table,))


def _k_means(x: Float[np.ndarray, "n d"], k: int) -> Int[np.ndarray, " n"]:
    """Lloyd's algorithm from centres far apart; the same each time."""
    rng = np.random.default_rng(0)
    k = min(k, len(x))
    centres = [x[rng.integers(len(x))]]
    nearest = ((x - centres[0]) ** 2).sum(1)
    for _ in range(k - 1):
        total = nearest.sum()
        chosen = rng.choice(len(x), p=nearest / total) if total > 0 else rng.integers(len(x))
        centres.append(x[chosen])
        nearest = np.minimum(nearest, ((x - centres[-1]) ** 2).sum(1))
    middle = np.stack(centres)
    label = np.zeros(len(x), np.int64)
    for _ in range(ROUNDS):
        new = ((middle**2).sum(1) - 2 * x @ middle.T).argmin(1)
        if (new == label).all():
            break
        label = new
        for c in range(k):
            if (label == c).any():
                middle[c] = x[label == c].mean(0)
    return label


def _words(texts: list[str], own: Bool[np.ndarray, " n"]) -> str:
    inside: Counter[str] = Counter()
    outside: Counter[str] = Counter()
    for text, here in zip(texts, own, strict=True):
        (inside if here else outside).update(
            {w for w in features.words_of(text) if len(w) > 2 or w.isdigit()}
        )
    a, b = max(int(own.sum()), 1), max(int((~own).sum()), 1)
    score = {w: n / a * np.log((n / a) / ((outside[w] + 1) / b)) for w, n in inside.items()}
    best = sorted(score, key=lambda w: -score[w])[:WORDS]
    return ", ".join(best) or "(no words)"


def _drift(
    rows: _Rows, label: Int[np.ndarray, " n"], half: Bool[np.ndarray, " n"]
) -> tuple[str, tuple[str, ...]]:
    """Whether what comes, and what it earns, changed between the halves."""
    table = np.stack([np.bincount(label[part], minlength=CLUSTERS) for part in (~half, half)])
    table = table[:, table.sum(0) > 0].astype(float)
    expected = table.sum(1, keepdims=True) * table.sum(0) / table.sum()
    statistic, freedom = float(((table - expected) ** 2 / expected).sum()), table.shape[1] - 1
    moved = freedom > 0 and statistic > CHI_SQUARE[freedom]
    far = np.abs(table[0] / table[0].sum() - table[1] / table[1].sum()).sum() / 2
    verdict = (
        f"What comes has changed: {far:.0%} of the tasks lie in other kinds than before."
        if moved
        else "What comes is not known to have changed."
    )
    early, late = rows.reward[rows.known & ~half], rows.reward[rows.known & half]
    remarks = []
    if min(len(early), len(late)) >= FEWEST_IN_BLOCK:
        change = late.mean() - early.mean()
        width = evaluation.NORMAL * np.sqrt(
            early.var(ddof=1) / len(early) + late.var(ddof=1) / len(late)
        )
        moved_to = Interval(float(change), float(change - width), float(change + width))
        word = (
            "rose"
            if moved_to.low > 0
            else "fell"
            if moved_to.high < 0
            else "is not known to differ"
        )
        remarks.append(f"The mean reward {word} between the halves: {moved_to}.")
    return verdict, tuple(remarks)


# ------------------------------------------------------------------------------------ the critic


def _critic(rows: _Rows) -> Section:
    """Predicted rewards beside what came, predicted before it was known."""
    used = rows.known & ~np.isnan(rows.predicted)
    title = "Calibration of the critic"
    if used.sum() < 2 * FEWEST_IN_BLOCK:
        return Section(title, "Too few outcomes were predicted to say anything.")
    predicted, reward = rows.predicted[used], rows.reward[used]
    bias = mean_interval(reward - predicted)
    slope = _slope(predicted, reward)
    parts = np.array_split(
        np.argsort(predicted, kind="stable"), min(BINS, len(predicted) // FEWEST_IN_BLOCK)
    )
    found = [(float(predicted[p].mean()), mean_interval(reward[p]), len(p)) for p in parts]
    error = sum(n * abs(at - each.value) for at, each, n in found) / len(predicted)
    said = []
    if bias.low > 0 or bias.high < 0:
        said.append(
            f"{'too low' if bias.value > 0 else 'too high'} on average by {abs(bias.value):.3f}"
        )
    if slope.high < 1:
        said.append(f"too extreme (slope {slope})")
    elif slope.low > 1:
        said.append(f"too timid (slope {slope})")
    verdict = (
        f"Its predictions are {' and '.join(said)}." if said else "Nothing is known to be wrong."
    )
    x = np.array([at for at, _, _ in found])
    curve = plots.Series(
        "what came",
        x,
        np.array([each.value for _, each, _ in found]),
        np.array([each.low for _, each, _ in found]),
        np.array([each.high for _, each, _ in found]),
        look="marked",
    )
    ideal = plots.Series("as predicted", x, x, look="dashed")
    figure = plots.lines([curve, ideal], "predicted reward", "mean reward")
    note = (
        f"{len(parts)} parts of equal size; bands are 95 % intervals. Distance on average "
        f"{error:.3f}."
    )
    return Section(
        title,
        verdict,
        ("Each prediction was made before its outcome was known, by the critic of that moment.",),
        (Picture("calibration", "Predicted, and what came", figure, note),),
    )


def _slope(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> Interval:
    """Of the regression of y on x, with an interval that allows for unequal spread (HC0)."""
    z = x - x.mean()
    total = float((z**2).sum())
    if total <= 1e-12:
        return Interval(1.0, -np.inf, np.inf)
    value = float((z * y).sum()) / total
    left = y - y.mean() - value * z
    half = evaluation.NORMAL * float(np.sqrt(((z * left) ** 2).sum())) / total
    return Interval(value, value - half, value + half)


# ------------------------------------------------------------------------------------ unsure


def _unsure(rows: _Rows, names: list[str], policy: Policy) -> Section:
    """Recent tasks between whose actions the present policy hardly chooses."""
    title = "Where the agent is unsure"
    if policy.actor is None:
        return Section(title, "Nothing is learned yet: it is unsure everywhere.")
    pi = policy.probabilities(rows.x, rows.allowed, 1e-9, None, 0)
    powers = np.where(pi > 0, pi, 1.0)
    ratio = -(pi * np.log(powers)).sum(1) / np.log(np.maximum(rows.allowed.sum(1), 2))
    ratio[rows.allowed.sum(1) < 2] = 0.0
    order, seen, table_rows = np.argsort(-ratio, kind="stable"), set(), []
    for i in order:
        if rows.texts[i] in seen and rows.texts[i] != "(a vector)":
            continue
        seen.add(rows.texts[i])
        best = np.argsort(-pi[i], kind="stable")[:3]
        table_rows.append(
            (
                rows.texts[i],
                ", ".join(f"{names[a]} {pi[i, a]:.0%}" for a in best if pi[i, a] > 0),
                f"{ratio[i]:.2f}",
            )
        )
        if len(table_rows) == UNSURE:
            break
    note = "Entropy: 1 is all alike, 0 is certain. Different tasks, the least certain first."
    table = Table("unsure", "Tasks", ("task", "likeliest", "entropy"), tuple(table_rows), note)
    verdict = (
        f"Of the tasks so far it is nearly certain (above 90 %) in {(pi.max(1) > 0.9).mean():.0%}, "
        f"and has no favourite (below 50 %) in {(pi.max(1) < 0.5).mean():.0%}."
    )
    return Section(title, verdict, tables=(table,))


def _others(rows: _Rows, names: list[str]) -> Section:
    """What policies that learned nothing would have earned."""
    known = rows.known
    logged = Logged(
        rows.x[known], rows.allowed[known], rows.action[known], rows.probability[known],
        rows.reward[known],
    )  # fmt: skip
    model = evaluation.cross_fitted(logged)
    policies = {"any action alike": evaluation.uniform(logged.allowed)}
    tried = [a for a, _ in Counter(logged.action.tolist()).most_common(MOST_CURVES)]
    for a in tried:
        if logged.allowed[:, a].all():
            policies[f"always {names[a]}"] = np.eye(len(names))[np.full(len(logged.reward), a)]
    found = {name: evaluation.evaluate(logged, each, model) for name, each in policies.items()}
    return Section(
        "What else could have been done",
        f"What acted earned {_mean(logged.reward)} a decision.",
        (
            "Policies that learned from these decisions cannot be evaluated on them; `actorcritic "
            "decide replay` does so on later ones.",
        ),
        tables=tables(found),
    )
