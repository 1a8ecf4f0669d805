"""A small grid world: few enough states to write its values down exactly."""

from dataclasses import dataclass
from functools import cached_property
from operator import index
from typing import NamedTuple

import gymnasium
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, Key, UInt8

from actorcritic.core.errors import UserError
from actorcritic.core.types import EnvSpec, Step

Cell = tuple[int, int]  # (x, y): x counts to the right, y upwards, from (0, 0) at the lower left

MOVES = ((0, 1), (1, 0), (0, -1), (-1, 0))  # actions 0 to 3: up, right, down, left
GOAL_REWARD = 1.0
STEP_REWARD = -0.01

CELL_PIXELS = 32
WHITE, GREY, DARK = (255, 255, 255), (205, 205, 205), (45, 45, 45)
GREEN, BLUE = (70, 170, 90), (50, 100, 210)


class GridState(NamedTuple):
    """The whole state: the cell [x, y] that the agent is in."""

    cell: Int[Array, "2"]


@dataclass(frozen=True)
class GridWorld:
    """Walk from `start` to `goal` in four moves: up (0), right (1), down (2), left (3).

    The observation is the cell (x, y). A move into a wall or over the border leaves the agent
    where it is. Reward +1 for the step that enters the goal, which terminates, and −0.01 for
    every other step. Along a shortest path of n steps the return from the start is therefore

        γⁿ⁻¹ − 0.01 (1 − γⁿ⁻¹) / (1 − γ),    at γ = 1:  1 − 0.01 (n − 1),

    with n = `distance(start)`, and the same formula with n = `distance(cell)` is the optimal
    value of any cell.

    Everything is deterministic and nothing but the cell is remembered, so that `cells`, `move`
    and `is_goal` are the whole Markov decision process. `goal` None is the upper right corner.
    """

    width: int = 5
    height: int = 5
    walls: tuple[Cell, ...] = ()
    start: Cell = (0, 0)
    goal: Cell | None = None
    max_episode_steps: int | None = 100

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1:
            raise UserError(
                f"GridWorld needs width and height of at least 1, not {self.width}×{self.height}."
            )
        # One form for each world, so that equal worlds compare and hash equal.
        goal = (self.width - 1, self.height - 1) if self.goal is None else self.goal
        start, goal = as_cell("start", self.start), as_cell("goal", goal)
        walls = tuple(sorted({as_cell("walls", wall) for wall in self.walls}))
        for name, value in [("start", start), ("goal", goal), ("walls", walls)]:
            object.__setattr__(self, name, value)

        for name, cell in [("start", start), ("goal", goal)]:
            if not self._inside(cell):
                raise UserError(
                    f"GridWorld's {name} {cell} is outside the grid: x counts from 0 to "
                    f"{self.width - 1}, y from 0 to {self.height - 1}."
                )
            if cell in walls:
                raise UserError(f"GridWorld's {name} {cell} is a wall.")
        for wall in walls:
            if not self._inside(wall):
                raise UserError(f"GridWorld's wall {wall} is outside the grid.")
        if start == goal:
            raise UserError(f"GridWorld's start and goal are the same cell, {start}.")
        if self.distance(start) is None:
            raise UserError(f"GridWorld's walls cut the goal {goal} off from the start {start}.")

    @cached_property
    def spec(self) -> EnvSpec:
        return EnvSpec(
            id="GridWorld-v0",
            observation_space=gymnasium.spaces.MultiDiscrete(
                [self.width, self.height], dtype=np.int32
            ),
            action_space=gymnasium.spaces.Discrete(len(MOVES)),
            max_episode_steps=self.max_episode_steps,
        )

    def reset(self, key: Key[Array, ""]) -> tuple[GridState, Int[Array, "2"]]:
        cell = jnp.asarray(self.start, jnp.int32)
        return GridState(cell), cell

    def step(
        self, key: Key[Array, ""], state: GridState, action: Int[Array, ""]
    ) -> tuple[GridState, Step]:
        after = self.move(state, action)
        reached = self.is_goal(after)
        return after, Step(
            observation=after.cell,
            reward=jnp.where(reached, GOAL_REWARD, STEP_REWARD).astype(float),
            terminated=reached,
            truncated=jnp.zeros_like(reached),
        )

    def move(self, state: GridState, action: Int[Array, ""]) -> GridState:
        """Where `action` leads from `state`; rewards and endings are left to `step`."""
        size = jnp.asarray([self.width, self.height], jnp.int32)
        ahead = jnp.clip(state.cell + jnp.asarray(MOVES, jnp.int32)[action], 0, size - 1)
        blocked = jnp.asarray(self._wall_map)[ahead[0], ahead[1]]
        return GridState(jnp.where(blocked, state.cell, ahead))

    def is_goal(self, state: GridState) -> Bool[Array, ""]:
        return jnp.all(state.cell == jnp.asarray(self._goal, jnp.int32))

    @property
    def cells(self) -> tuple[Cell, ...]:
        """Every cell that is no wall, the goal included, column by column."""
        columns = ((x, y) for x in range(self.width) for y in range(self.height))
        return tuple(cell for cell in columns if cell not in self.walls)

    def state(self, cell: Cell) -> GridState:
        """The state of an agent in `cell`."""
        return GridState(jnp.asarray(cell, jnp.int32))

    def distance(self, cell: Cell) -> int | None:
        """Steps from `cell` to the goal along a shortest path; None where there is no path."""
        return self._distances.get(cell)

    def render(self, state: GridState) -> UInt8[np.ndarray, "h w 3"]:
        """A picture: walls dark, the goal green, the agent a blue disc; 32 pixels a cell."""
        image = np.full((self.height * CELL_PIXELS, self.width * CELL_PIXELS, 3), WHITE, np.uint8)

        def square(cell: Cell) -> np.ndarray:
            left, top = cell[0] * CELL_PIXELS, (self.height - 1 - cell[1]) * CELL_PIXELS
            return image[top : top + CELL_PIXELS, left : left + CELL_PIXELS]

        for wall in self.walls:
            square(wall)[:] = DARK
        square(self._goal)[:] = GREEN
        image[::CELL_PIXELS, :] = GREY
        image[:, ::CELL_PIXELS] = GREY
        offset = np.arange(CELL_PIXELS) - (CELL_PIXELS - 1) / 2
        disc = np.hypot(*np.meshgrid(offset, offset)) <= 0.36 * CELL_PIXELS
        x, y = np.asarray(state.cell)
        square((int(x), int(y)))[disc] = BLUE
        return image

    @property
    def _goal(self) -> Cell:
        assert self.goal is not None  # filled in when the world was made
        return self.goal

    def _inside(self, cell: Cell) -> bool:
        return 0 <= cell[0] < self.width and 0 <= cell[1] < self.height

    @cached_property
    def _wall_map(self) -> Bool[np.ndarray, "width height"]:
        wall_map = np.zeros((self.width, self.height), bool)
        for wall in self.walls:
            wall_map[wall] = True
        return wall_map

    @cached_property
    def _distances(self) -> dict[Cell, int]:
        """Breadth first from the goal: every move can be taken back."""
        free = set(self.cells)
        distances = {self._goal: 0}
        frontier = [self._goal]
        for x, y in frontier:
            for dx, dy in MOVES:
                neighbour = (x + dx, y + dy)
                if neighbour in free and neighbour not in distances:
                    distances[neighbour] = distances[x, y] + 1
                    frontier.append(neighbour)
        return distances


def as_cell(name: str, value: object) -> Cell:
    """`value` as a cell, or a UserError that names the option it was given for."""
    try:
        x, y = map(index, value)  # type: ignore[call-overload]
    except (TypeError, ValueError):
        raise UserError(
            f"GridWorld's {name}: {value!r} is not a cell, two whole numbers (x, y)."
        ) from None
    return x, y
