"""Counts of 64 bits in programs whose integers have 32."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
from jaxtyping import Bool, Float, Int, Num, UInt32

MOST = 10**15  # steps of a training: thirty years at a million a second, and exact as a double


class Count(NamedTuple):
    """A number from 0 to 2⁶⁴ as two words, of JAX or of NumPy; `int()` of one that is no array."""

    low: UInt32[Any, "..."]
    high: UInt32[Any, "..."]

    @classmethod
    def of(cls, number: int) -> Self:
        high, low = divmod(number, 2**32)
        return cls(np.uint32(low), np.uint32(high))  # type: ignore[arg-type]

    def plus(self, number: Int[Any, "..."]) -> Self:
        """So many more, from 0 to 2³¹."""
        low = self.low + number.astype(np.uint32)
        return self._replace(low=low, high=self.high + (low < self.low).astype(np.uint32))

    def below(self, other: Count) -> Bool[Any, "..."]:
        return (self.high < other.high) | ((self.high == other.high) & (self.low < other.low))

    def modulo(self, divisor: int) -> Int[Any, "..."]:
        """The remainder by a small number, of at most 2¹⁶."""
        high = (self.high % np.uint32(divisor)) * np.uint32(2**32 % divisor)
        found = (high % np.uint32(divisor) + self.low % np.uint32(divisor)) % np.uint32(divisor)
        return found.astype(np.int32)

    def share(self, total: Count) -> Float[Any, "..."]:
        """The quotient, in single precision: the same bits in every runner."""
        return self._rounded() / total._rounded()

    def _rounded(self) -> Num[Any, "..."]:
        return self.high.astype(np.float32) * np.float32(2**32) + self.low.astype(np.float32)

    @property
    def numbers(self) -> Int[np.ndarray, "..."]:
        """As NumPy has them, of 64 bits."""
        return (np.asarray(self.high).astype(np.int64) << 32) + np.asarray(self.low).astype(
            np.int64
        )

    def __int__(self) -> int:
        return int(self.numbers)

    def ahead(self, low: UInt32[np.ndarray, "..."]) -> Int[np.ndarray, "..."]:
        """The numbers whose low words come at most 2³² after this one."""
        return self.numbers + (low - np.asarray(self.low)).astype(np.int64)
