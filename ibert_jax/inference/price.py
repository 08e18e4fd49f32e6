"""What compiling a program costs, in tokens that could be computed meanwhile."""

from __future__ import annotations


class Price:
    """Of one more program, by what was compiled and computed so far."""

    def __init__(self) -> None:
        self._compiling = self._computing = 0.0
        self._computed = 0

    def compiled(self, seconds: float) -> None:
        """Take note of how long a program took to be compiled."""
        self._compiling = seconds  # the last is like the next; a first takes longer

    def computed(self, tokens: int, seconds: float) -> None:
        """Take note of how long so many tokens, padding included, took to be computed."""
        self._computed += tokens
        self._computing += seconds

    def tokens(self) -> float:
        """How many tokens could be computed while a program is compiled; unknown, without end."""
        if not self._computed or not self._compiling:
            return float("inf")
        return self._compiling * self._computed / self._computing
