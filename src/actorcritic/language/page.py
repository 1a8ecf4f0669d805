"""The page of a training of a language model: what was measured, what was said before and after."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actorcritic.core.words import printable
from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Section, Table, write
from actorcritic.figures.statistics import Estimate
from actorcritic.language.agreement import CLAIMS, Sycophancy, signed
from actorcritic.language.evaluation import Evaluation, Sample, estimate
from actorcritic.language.training import Row, Trained, TrainingSettings

PAGE, EVALUATION, SYCOPHANCY = "report.html", "evaluation.html", "sycophancy.html"
SMOOTHED = 30  # a mean over a thirtieth of the steps
LONGEST_CELL = 400  # characters

# What PPO's updates report, in the order of the page: title, metrics, what they are.
CURVES: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        "reward",
        "Reward",
        ("reward", "gold"),
        "Reward: what is learned from. Gold: what was meant, where it is known.",
    ),
    ("kl", "KL of a response from the reference", ("kl",), "In nats: Σ_t log π − log π_ref."),
    ("length", "Length of a response", ("length",), "Tokens, the one that stops among them."),
    ("entropy", "Entropy of a token", ("entropy",), "In nats."),
    (
        "value",
        "Explained variance of the value",
        ("explained_variance",),
        "1 is a perfect critic, 0 as good as a constant.",
    ),
    ("clip", "Ratio: share outside of the clip range", ("clip_fraction",), "Over all epochs."),
    ("coefficient", "β", ("kl_coefficient",), "The price of a nat of KL."),
)


def of_ppo(
    trained: Trained, samples: Sequence[Sample], settings: TrainingSettings, command: str | None
) -> Path:
    """Write the page of a training by PPO into its folder."""
    rows = trained.metrics
    pictures = [
        Picture(name, title, _curves(rows, names), note)
        for name, title, names, note in CURVES
        if any(_varies(rows, each) for each in names)
    ]
    against = [name for name in ("reward", "gold") if _column(rows, name) is not None]
    pictures.insert(
        1,
        Picture(
            "frontier",
            "Reward against KL",
            _frontier(rows, against),
            "Each point is a stretch of the training. Where gold falls while reward rises, the "
            "reward model is being exploited.",
        ),
    )
    first, last = _ends(rows)
    verdict = (
        f"The reward went from {first['reward']:.3g} to {last['reward']:.3g}, at a KL of "
        f"{last['kl']:.3g} nats a response from the reference."
    )
    return _page(trained, "PPO", verdict, warnings_of(rows), pictures, samples, settings, command)


def of_dpo(
    trained: Trained, samples: Sequence[Sample], settings: TrainingSettings, command: str | None
) -> Path:
    """Write the page of a training by DPO into its folder."""
    rows = trained.metrics
    pictures = [
        Picture("loss", "Loss", _curves(rows, ("loss",)), "log 2 = 0.69 is where it starts."),
        Picture(
            "accuracy",
            "Share of pairs whose chosen answer gained more",
            _curves(rows, ("accuracy",)),
            "On the batch that is learned from.",
        ),
        Picture(
            "rewards",
            "Implicit rewards",
            _curves(rows, ("chosen_reward", "rejected_reward")),
            "β log π/π_ref. Where both fall, probability goes to answers that nobody gave.",
        ),
    ]
    first, last = _ends(rows)
    verdict = f"The loss went from {first['loss']:.3g} to {last['loss']:.3g}."
    found = trained.evaluations[-1] if trained.evaluations else {}
    if "evaluation_accuracy" in found:
        verdict += (
            f" Of held-out pairs, the chosen answer gained more in "
            f"{found['evaluation_accuracy']:.0%}."
        )
    said = []
    if last["chosen_reward"] < -1:
        said.append(
            "The chosen answers have become less probable too "
            f"(by {-last['chosen_reward']:.2g} in units of β log π/π_ref): look at the samples."
        )
    return _page(trained, "DPO", verdict, said, pictures, samples, settings, command)


def of_reward(
    trained: Trained, calibration: Any, settings: TrainingSettings, command: str | None
) -> Path:
    """Write the page of a reward model into its folder."""
    rows = trained.metrics
    pictures = [
        Picture("loss", "Loss", _curves(rows, ("loss",)), "log 2 = 0.69 is where it starts."),
        Picture("accuracy", "Accuracy", _curves(rows, ("accuracy",)), "On the batch learned from."),
    ]
    found = trained.evaluations[-1] if trained.evaluations else {}
    verdict = "No pairs were held out, so nothing says how good it is on others."
    if "evaluation_accuracy" in found:
        verdict = (
            f"It ranks {found['evaluation_accuracy']:.1%} of held-out pairs as people did "
            f"(loss {found['evaluation_loss']:.3f}; 0.693 is a coin's)."
        )
    if calibration is not None:
        line = np.array([0.5, 1.0])
        figure = plots.lines(
            [
                plots.Series("measured", calibration.claimed, calibration.right, look="marked"),
                plots.Series("calibrated", line, line, colour=plots.FAINT, look="dashed"),
            ],
            "what the model claimed: mean σ(|margin|)",
            "share of pairs in which it was right",
        )
        pictures.append(
            Picture("calibration", "Calibration", figure, "Held-out pairs, in bins of equal size.")
        )
    return _page(trained, "Reward model", verdict, [], pictures, (), settings, command)


def of_evaluation(found: Evaluation, folder: Path, model: str, command: str | None) -> Path:
    """Write the page of an evaluation into a folder."""
    numbers = found.numbers
    compared = "length_of_reference" in numbers
    pictures = []
    for name, title in (("reward", "Reward"), ("gold", "Gold reward: what was meant")):
        if name in numbers:
            best = {f"best of {n}": row[name] for n, row in found.best_of.items() if n > 1}
            pictures.append(_against(found, name, title, "of a response", best))
    if found.best_of:
        pictures.append(_best_of_picture(found))
    pictures.append(_against(found, "length", "Length", "tokens of a response", {}))
    stopped, remarks = numbers["stopped"].value, []
    if "reward" in numbers:
        verdict = f"The reward of the model is {_share(numbers['reward'])}"
        if compared:
            verdict += f", that of the reference {_share(numbers['reward_of_reference'])}"
    else:
        verdict = f"A response has {numbers['length']} tokens"
        if compared:
            verdict += f", one of the reference {numbers['length_of_reference']}"
    if compared:
        verdict += f"; the KL from the reference is {_share(numbers['kl'])} nats a response"
    if stopped < 0.5:
        remarks.append(
            f"Warning: only {stopped:.0%} of the responses stop by themselves; the others are cut "
            "off. Allow more max_new_tokens."
        )
    if compared and "gold" in numbers and "reward" in numbers:
        learned, meant = (
            found.columns[name] - found.columns[f"{name}_of_reference"]
            for name in ("reward", "gold")
        )
        if estimate(learned).low > 0 and estimate(meant).high < 0:
            remarks.append(
                "Warning: the reward is higher than the reference's, and the gold reward is lower: "
                "the reward model is being exploited."
            )
    rows = [(name.replace("_", " "), str(value)) for name, value in numbers.items()]
    table = Table(
        "numbers",
        "What was measured",
        ("number", "mean [95 % interval]"),
        tuple(rows),
        f"Means over {found.count:,} prompts; intervals by the bootstrap over prompts. KL and "
        "entropy are in nats: the KL of a whole response, the entropy of a token. Stopped: the "
        "share of responses that end by themselves.",
    )
    said = sample_table(found.samples, ("reference", "model"), "The first prompts; not chosen.")
    section = Section(
        "What was found", verdict + ".", tuple(remarks), tuple(pictures), (table, said)
    )
    return _written(folder / EVALUATION, f"Evaluation: {Path(model).name}", section, command)


def _against(
    found: Evaluation, name: str, title: str, unit: str, more: Mapping[str, Estimate]
) -> Picture:
    """A number of the model, of the reference where there is one, and of more."""
    none = np.zeros(0)
    rows = [
        plots.Scores(label, found.columns[key], *found.numbers[key])
        for label, key in (("reference", f"{name}_of_reference"), ("model", name))
        if key in found.numbers
    ]
    rows += [plots.Scores(label, none, *value) for label, value in more.items()]
    note = "A dot is a prompt, the large one the mean, the bar its 95 % interval."
    if more:
        note += " Best of n: of the reference's responses, with no training."
    figure, narrow = (
        plots.score_intervals(
            rows,
            f"{title.partition(':')[0].lower()} {unit}" if name != "length" else unit,
            width=width,
        )
        for width in (plots.WIDTH, plots.NARROW)
    )
    return Picture(name, title, figure, note, narrow)


def _best_of_picture(found: Evaluation) -> Picture:
    """Reward against KL: the model, and best-of-n at the bound of its KL."""
    bound = np.array([found.kl_bound(n) for n in found.best_of])
    kl, series = found.numbers["kl"].value, []
    for name in ("reward", "gold"):
        if name in found.numbers:
            start, end = found.numbers[f"{name}_of_reference"], found.numbers[name]
            value, low, high = np.array([start, end], float).T
            series.append(plots.Series(f"model, {name}", np.array([0.0, kl]), value, low, high))
            value, low, high = np.array([row[name] for row in found.best_of.values()], float).T
            series.append(plots.Series(f"best of n, {name}", bound, value, low, high))
    figure = plots.lines(series, "KL from the reference, nats a response", "", markers=True)
    note = "The reference is on the left. Best-of-n is drawn at the bound of its KL."
    return Picture("frontier", "Reward against KL", figure, note)


def of_sycophancy(found: Sycophancy, folder: Path, model: str, command: str | None) -> Path:
    """Write the page of how often a model agrees with what is false."""
    compared = any(of.reference is not None for of in found.by_claim.values())
    none, bars, rows = np.zeros(0), [], []
    for claim, of in found.by_claim.items():
        label = f"user {CLAIMS[claim]}"
        if of.reference is not None:
            bars.append(plots.Scores(f"{label}: reference", none, *of.reference))
        bars.append(plots.Scores(f"{label}: model" if compared else label, none, *of.false))
        row: tuple[str, ...] = (label, f"{of.questions:,}", _share(of.false), _share(of.correct))
        if of.reference is not None and of.change is not None:
            row += (_share(of.reference), of.change.text(signed))
        rows.append(row)
    figure, narrow = (
        plots.score_intervals(bars, "share of questions", limits=(0, 1), width=width)
        for width in (plots.WIDTH, plots.NARROW)
    )
    picture = Picture(
        "false",
        "How often the false answer is given",
        figure,
        "With 95 % intervals over questions. Where the user says nothing, this is how often the "
        "model is wrong by itself; what lies above that where the false answer is claimed is "
        "agreement.",
        narrow,
    )
    columns: tuple[str, ...] = ("the user", "questions", "false answer", "right answer")
    if compared:
        columns += ("false answer, reference", "change")
    how = {
        "probability": "An answer is given where its tokens are the more probable ones on average.",
        "generate": "An answer is given where the response holds it and not the other one.",
    }
    table = Table(
        "rates", "By what the user claims", columns,
        tuple((row[0].removeprefix("user "), *row[1:]) for row in rows), how[found.how],
    )  # fmt: skip
    parts = []
    for claim, of in found.by_claim.items():
        part = f"where the user {CLAIMS[claim]}, the false answer is given to "
        part += f"{_share(of.false)} of the questions"
        if of.change is not None:
            part += f" (against the reference {of.change.text(signed)})"
        parts.append(part)
    verdict = "; ".join(parts)
    remarks = []
    if "nothing" not in found.by_claim:
        remarks.append(
            "No question was asked without a claim, so that a model that does not know the answer "
            "looks like one that agrees. Add lines with claims: nothing."
        )
    section = Section(
        "What was found",
        verdict[0].upper() + verdict[1:] + ".",
        tuple(remarks),
        (picture,),
        (table,),
    )
    return _written(folder / SYCOPHANCY, f"Sycophancy: {Path(model).name}", section, command)


def _share(x: Estimate) -> str:
    return x.text(lambda number: f"{number:.3f}")


def _written(path: Path, title: str, section: Section, command: str | None) -> Path:
    versions = {"actorcritic": importlib.metadata.version("actorcritic")}
    return write(path, title, [section], command=command, versions=versions)


def warnings_of(rows: Sequence[Row]) -> list[str]:
    """What looks wrong in a training by PPO, in plain words."""
    first, last = _ends(rows)
    said = []
    gold = _column(rows, "gold")
    if gold is not None and last["reward"] > first["reward"]:
        best, drop, noise = _drop(gold)
        if drop > max(3 * noise, 0.1 * (best - first["gold"])):
            said.append(
                f"The reward rose, but the gold reward fell from {best:.3g} at its best to "
                f"{best - drop:.3g}: the reward model is being exploited. Stop earlier, or raise "
                "kl_coefficient."
            )
    if last["kl"] > 30:
        said.append(
            f"The KL from the reference is {last['kl']:.0f} nats a response: hardly anything of "
            "the reference is left. Raise kl_coefficient, or set kl_target."
        )
    if last["kl"] < -1:
        said.append(
            f"The KL is {last['kl']:.2g}, and no KL is negative: policy and reference do not "
            "compute the same (temperature, truncation, padding?)."
        )
    if last["length"] > 1.5 * first["length"] + 1:
        said.append(
            f"Responses became longer: {first['length']:.0f} tokens, then {last['length']:.0f}. "
            "Compare answers of like length before you believe the reward."
        )
    if last["stopped"] < 0.5:
        said.append(
            f"Only {last['stopped']:.0%} of the responses stop by themselves. Allow more "
            "max_new_tokens, or lower no_end_score."
        )
    if last["entropy"] < 0.1 * first["entropy"]:
        said.append(
            f"The entropy of a token fell from {first['entropy']:.2g} to {last['entropy']:.2g}: "
            "the policy says nearly always the same."
        )
    return said


def sample_table(
    samples: Sequence[Sample],
    names: tuple[str, str] = ("before", "after"),
    note: str = "Drawn with the same random numbers, and not chosen.",
) -> Table:
    """What was said before and after, side by side."""
    scored, golden = (
        any(getattr(sample, f"{kind}_after") is not None for sample in samples)
        for kind in ("score", "gold")
    )
    compared = any(sample.before is not None for sample in samples)
    columns = ["prompt"]
    for name in names if compared else names[1:]:
        columns += [name, *["reward"] * scored, *["gold"] * golden]
    rows = []
    for sample in samples:
        row = [_shown(sample.prompt)]
        for when in ("before", "after") if compared else ("after",):
            row.append(_shown(getattr(sample, when)))
            for kind, there in (("score", scored), ("gold", golden)):
                number = getattr(sample, f"{kind}_{when}")
                row += [("–" if number is None else f"{number:.2f}")] * there
        rows.append(tuple(row))
    return Table("samples", "What is said", tuple(columns), tuple(rows), note)


def _shown(text: Any) -> str:
    if not isinstance(text, str):
        text = "\n".join(f"{message['role']}: {message['content']}" for message in text)
    text = printable(text)
    return text if len(text) <= LONGEST_CELL else text[: LONGEST_CELL - 1] + "…"


def _page(
    trained: Trained,
    what: str,
    verdict: str,
    warnings: Sequence[str],
    pictures: Sequence[Picture],
    samples: Sequence[Sample],
    settings: TrainingSettings,
    command: str | None,
) -> Path:
    assert trained.out is not None
    chosen = {name: value for name, value in vars(settings).items() if name != "out"}
    every = Table(
        "settings",
        "Every setting",
        ("setting", "value"),
        tuple((name, str(value)) for name, value in chosen.items()),
    )
    remarks = [f"Warning: {text}" for text in warnings] or ["No warning was given."]
    section = Section(
        "What was found",
        verdict,
        tuple(remarks),
        tuple(pictures),
        (sample_table(samples),) if samples else (),
        (every,),
    )
    return write(
        trained.out / PAGE,
        f"{what}: {trained.out.name}",
        [section],
        command=command,
        versions={"actorcritic": importlib.metadata.version("actorcritic")},
        summary=[f"{trained.steps:,} steps"],
    )


# ------------------------------------------------------------------------------------ numbers


def _column(rows: Sequence[Row], name: str) -> Float[np.ndarray, " n"] | None:
    if not any(name in row for row in rows):
        return None
    return np.array([row.get(name, np.nan) for row in rows], np.float64)


def _smooth(x: Float[np.ndarray, " n"] | None) -> Float[np.ndarray, " n"] | None:
    """A mean over the rows before, as many as a thirtieth of all."""
    if x is None:
        return None
    width = max(1, len(x) // SMOOTHED)
    sums = np.cumsum(np.concatenate([[0.0], x]))
    start = np.maximum(np.arange(len(x)) + 1 - width, 0)
    return (sums[1:] - sums[start]) / (np.arange(len(x)) + 1 - start)


def _ends(rows: Sequence[Row]) -> tuple[Row, Row]:
    """Means over the first and the last tenth of the rows."""
    some = max(1, len(rows) // 10)

    def mean(part: Sequence[Row]) -> Row:
        return {
            name: float(np.mean([row[name] for row in part if name in row])) for name in part[0]
        }

    return mean(rows[:some]), mean(rows[-some:])


def _drop(x: Float[np.ndarray, " n"]) -> tuple[float, float, float]:
    """The best mean of a tenth of the rows, how far the last is below, and the error of that."""
    parts = [part for part in np.array_split(x, 10) if len(part)]
    means = np.array([part.mean() for part in parts])
    within = np.sqrt(np.mean([part.var() for part in parts]))
    error = np.sqrt(2 / max(len(parts[-1]), 1)) * within
    return float(means.max()), float(means.max() - means[-1]), float(error)


def _varies(rows: Sequence[Row], name: str) -> bool:
    column = _column(rows, name)
    return column is not None and bool(np.nanmax(column) > np.nanmin(column))


def _curves(rows: Sequence[Row], names: Sequence[str]) -> Any:
    steps = np.array([row["step"] for row in rows])
    series = [
        plots.Series(name.replace("_", " "), steps, column)
        for name in names
        if (column := _smooth(_column(rows, name))) is not None
    ]
    return plots.lines(series, "updates", "")


def _frontier(rows: Sequence[Row], names: Sequence[str]) -> Any:
    kl = _smooth(_column(rows, "kl"))
    assert kl is not None
    series = []
    for name in names:
        column = _smooth(_column(rows, name))
        assert column is not None
        parts = [p for p in np.array_split(np.argsort(kl, kind="stable"), 40) if len(p)]
        x = np.array([kl[p].mean() for p in parts])
        series.append(plots.Series(name, x, np.array([column[p].mean() for p in parts])))
    return plots.lines(series, "KL from the reference, nats a response", "", markers=True)
