"""A cheap environment of images: catch a falling ball with a paddle, moved left or right."""

from typing import Any

import gymnasium
import numpy as np

SIZE, SCALE = 9, 4  # squares of the board, and pixels of a square: PyTorch's CNN needs 36


class Catch(gymnasium.Env):
    """The reward is 1 for a ball that is caught and -1 for one that is not; 8 steps an episode."""

    def __init__(self) -> None:
        pixels = SIZE * SCALE
        self.observation_space = gymnasium.spaces.Box(0, 255, (pixels, pixels, 1), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(3)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self._row, self._paddle = 0, SIZE // 2
        self._column = int(self.np_random.integers(SIZE))
        return self._picture(), {}

    def step(self, action: Any) -> Any:
        self._paddle = int(np.clip(self._paddle + int(action) - 1, 0, SIZE - 1))
        self._row += 1
        landed = self._row == SIZE - 1
        reward = (1.0 if self._column == self._paddle else -1.0) if landed else 0.0
        return self._picture(), reward, landed, False, {}

    def _picture(self) -> np.ndarray:
        board = np.zeros((SIZE, SIZE), np.uint8)
        board[self._row, self._column] = board[-1, self._paddle] = 255
        return board.repeat(SCALE, 0).repeat(SCALE, 1)[..., None]


gymnasium.register("Catch-v0", Catch)
