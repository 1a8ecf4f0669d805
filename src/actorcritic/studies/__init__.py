"""The studies: claims that the field's sources make in passing, each measured by one command.

A study trains what it compares, keeps what its folder holds already, and ends in pictures, numbers
and a few sentences that are computed from what was measured.
"""

from __future__ import annotations

from pathlib import Path

from actorcritic.experiments import REPORT, Study, save_study, study_folder
from actorcritic.runs import prepare_jax
from actorcritic.studies.bench import QUICK, Bench, Question, Result
from actorcritic.studies.lab import LAB
from actorcritic.studies.training import TRAINING
from actorcritic.types import UserError
from actorcritic.words import nearest

STUDIES: dict[str, Question] = TRAINING | LAB


def study(
    name: str,
    *,
    quick: bool = False,
    out: str | Path | None = None,
    quiet: bool = False,
    command: str | None = None,
) -> Result:
    """Carry out one of `STUDIES`; `quick` is a small version that proves nothing.

    With `out`, everything is kept in that folder, with a report; called again, it goes on where it
    was. Raises UserError for any mistake before anything is written, and Stopped at Ctrl-C.
    """
    known = {each.upper(): each for each in STUDIES}
    if name.upper() not in known:
        raise UserError(
            f"There is no study '{name}'.{nearest(name, STUDIES)} Known: {', '.join(STUDIES)}."
        )
    name = known[name.upper()]
    title, question, answer = STUDIES[name]
    title = f"{name}: {title}" + f" ({QUICK})" * quick
    folder = None if out is None else Path(out)
    about = {"study": name, "quick": quick}
    prepare_jax()
    with study_folder(folder, Study("study", title, command, [], about)):
        found = answer(Bench(title, quick, folder, quiet))
        comparisons = tuple(part.comparison(command) for part in found.parts)
        result = Result(name, title, question, quick, found, comparisons, command)
        if folder is not None:
            save_study(folder, Study("study", title, command, found.parts, about))
            result.report(folder / REPORT)
    return result
