"""The studies: claims that the field's sources make in passing, each measured by one command.

A study trains what it compares, keeps what its folder holds already, and ends in pictures, numbers
and a few sentences that are computed from what was measured. Each is a file here, with its
`QUESTION` and the function `answer`; it is imported when it is asked for.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from actorcritic.core.types import UserError
from actorcritic.core.words import nearest
from actorcritic.experiments.folder import REPORT, Experiment, experiment_folder, save_experiment
from actorcritic.runs.run import prepare_jax
from actorcritic.studies.bench import QUICK, Answer, Bench, Result


class Listed(NamedTuple):
    """A study by its title, and the module of this package that carries it out."""

    title: str
    module: str


STUDIES: dict[str, Listed] = {
    "S1": Listed(
        "REINFORCE, one-step actor-critic and A2C + GAE on CartPole-v1",
        "s1_critic_against_reinforce",
    ),
    "S2": Listed(
        "λ = 0, 0.95 and 1 on CartPole-v1",
        "s2_lambda_between_td_and_monte_carlo",
    ),
    "S3": Listed(
        "Continuous A2C on Pendulum-v1, with gravity and without",
        "s3_pendulum_in_500_episodes",
    ),
    "S4": Listed(
        "Ablation of A2C on CartPole-v1: critic, n, entropy bonus, λ",
        "s4_what_each_part_of_a2c_does",
    ),
    "S5": Listed(
        "A grid world, with and without a critic",
        "s5_critic_against_exact_values",
    ),
    "S6": Listed(
        "Estimator bias and variance",
        "s6_estimator_bias_and_variance",
    ),
    "S7": Listed(
        "The correction of squashed actions",
        "s7_log_density_of_squashed_actions",
    ),
}


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
    listed = STUDIES[name]
    asked = import_module(f"{__name__}.{listed.module}")
    title = f"{name}: {listed.title}" + f" ({QUICK})" * quick
    folder = None if out is None else Path(out)
    about = {"study": name, "quick": quick}
    prepare_jax()
    with experiment_folder(folder, Experiment("study", title, command, [], about)):
        found: Answer = asked.answer(Bench(title, quick, folder, quiet))
        comparisons = tuple(part.comparison(command) for part in found.parts)
        result = Result(name, title, asked.QUESTION, quick, found, comparisons, command)
        if folder is not None:
            save_experiment(folder, Experiment("study", title, command, found.parts, about))
            result.report(folder / REPORT)
    return result
