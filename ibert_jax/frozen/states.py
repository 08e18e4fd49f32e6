"""Scales and offsets of the hidden states: floats beside a program, never inside it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Self

import numpy as np


class StateScales:
    """What turns the integers of L + 1 hidden states into floats, per channel.

    Immutable and hashable, as it is a static part of an integer model's pytree; the hash is
    computed once.

    Args:
        scale, offset: float32 [L + 1, C], finite.
    """

    def __init__(self, scale: np.ndarray, offset: np.ndarray) -> None:
        if scale.ndim != 2 or scale.shape != offset.shape:
            raise ValueError(
                f"scales and offsets of hidden states must be two arrays [layers + 1, channels], "
                f"got {list(scale.shape)} and {list(offset.shape)}"
            )
        if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
            raise ValueError("scales and offsets of hidden states must be finite numbers")
        self._scale = np.array(scale, np.float32)
        self._offset = np.array(offset, np.float32)
        self._digest = hashlib.sha256(self._scale.tobytes() + self._offset.tobytes()).digest()

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Scale and offset, float32 [L + 1, C]."""
        return self._scale, self._offset

    def __eq__(self, other: object) -> bool:
        return isinstance(other, StateScales) and self._digest == other._digest

    def __hash__(self) -> int:
        return hash(self._digest)

    def to_json(self) -> dict[str, list[str]]:
        """A line of numbers for each state, in the fewest digits that give the float32 back."""
        return {
            name: [" ".join(str(x) for x in row) for row in array]
            for name, array in (("scale", self._scale), ("offset", self._offset))
        }

    @classmethod
    def from_json(cls, described: dict[str, Sequence[str]]) -> Self:
        """The inverse of ``to_json``."""
        scale, offset = (
            np.array([line.split() for line in described[name]], np.float32)
            for name in ("scale", "offset")
        )
        return cls(scale, offset)
