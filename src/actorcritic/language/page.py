"""The page of a training of a language model: what was measured, what was said before and after."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from actorcritic.core.words import printable
from actorcritic.figures import plots
from actorcritic.figures.html import Picture, Section, Table, write
from actorcritic.language.evaluation import Sample
from actorcritic.language.training import Row, Trained, TrainingSettings

PAGE = "report.html"
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


def sample_table(samples: Sequence[Sample], names: tuple[str, str] = ("before", "after")) -> Table:
    """What was said before and after, side by side."""
    scored, golden = (
        any(getattr(sample, f"{kind}_after") is not None for sample in samples)
        for kind in ("score", "gold")
    )
    columns = ["prompt"]
    for name in names:
        columns += [name, *["reward"] * scored, *["gold"] * golden]
    rows = []
    for sample in samples:
        row = [_shown(sample.prompt)]
        for when in ("before", "after"):
            row.append(_shown(getattr(sample, when)))
            for kind, there in (("score", scored), ("gold", golden)):
                number = getattr(sample, f"{kind}_{when}")
                row += [("–" if number is None else f"{number:.2f}")] * there
        rows.append(tuple(row))
    note = "Drawn with the same random numbers, and not chosen."
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
