"""Minari's data sets (HDF5 on this machine), read and written. Minari is imported here only."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import gymnasium
import jax
import numpy as np

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec
from actorcritic.core.words import nearest, told
from actorcritic.data.dataset import Dataset
from actorcritic.maths import spaces

FORM = "NAME/version, as minari:pendulum/mixed-v0"


def _minari() -> Any:
    try:
        import minari
    except ImportError as error:
        raise UserError(
            'Minari is not installed. Install it: pip install "actorcritic[minari]"'
        ) from error
    return minari


def load(id: str) -> Dataset:
    """The local data set of this id; nothing is downloaded. UserError where there is none."""
    minari = _minari()
    local = list(minari.list_local_datasets())
    if id not in local:
        raise UserError(
            f"There is no Minari data set '{id}' on this machine.{nearest(id, local)} Download it: "
            f"minari download {id}"
        )
    try:
        found = minari.load_dataset(id)
        observation_space, action_space = found.observation_space, found.action_space
        environment = found.env_spec
        name = environment.id if environment is not None else id
        limit = environment.max_episode_steps if environment is not None else None
        spaces.check(EnvSpec(name, observation_space, action_space, limit))
        return Dataset.from_episodes(
            _episodes(found),
            observation_space,
            action_space,
            id=name,
            max_episode_steps=limit,
            about={"minari": id},
            source=f"minari:{id}",
        )
    except UserError:
        raise
    except Exception as error:  # whatever a file of a stranger's does to a reader of HDF5
        raise UserError(f"The Minari data set '{id}' cannot be read: {told(error)}.") from error


def _episodes(found: Any) -> Iterator[dict[str, Any]]:
    for episode in found.iterate_episodes():
        yield {
            "observation": episode.observations,
            "action": episode.actions,
            "reward": episode.rewards,
            "terminated": episode.terminations,
            "truncated": episode.truncations,
        }


def check_free(id: str) -> None:
    """UserError where a data set of this id cannot be written."""
    minari = _minari()
    if id in minari.list_local_datasets():
        raise UserError(f"There is a Minari data set '{id}' already. Choose another name.")
    if "-v" not in id:
        raise UserError(f"A Minari data set is called {FORM}; got '{id}'.")


def save(data: Dataset, id: str) -> None:
    """Write a new local data set. Log-probabilities are not among what Minari keeps."""
    check_free(id)
    minari = _minari()
    buffers = []
    for e in range(data.episodes):
        rows = slice(data.starts[e], data.starts[e] + data.lengths[e])
        first = int(data.starts[e]) + e
        buffers.append(
            minari.data_collector.EpisodeBuffer(
                id=e,
                observations=jax.tree.map(
                    lambda x, a=first, n=int(data.lengths[e]): np.asarray(x[a : a + n + 1]),
                    data.observation,
                ),
                actions=list(data.action[rows]),
                rewards=list(data.reward[rows].astype(float)),
                terminations=list(data.terminated[rows].tolist()),
                truncations=list(data.truncated[rows].tolist()),
            )
        )
    with warnings.catch_warnings():  # about an author and a link that nobody has
        warnings.simplefilter("ignore")
        minari.create_dataset_from_buffers(
            id,
            buffer=buffers,
            env=data.spec.id if data.spec.id in gymnasium.registry else None,
            observation_space=data.spec.observation_space,
            action_space=data.spec.action_space,
            algorithm_name="actorcritic",
            description=data.counts,
        )
