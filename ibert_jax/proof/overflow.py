"""What an interval analysis takes on trust (`Contract`) and what it finds (`OverflowProof`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ibert_jax.proof.interval import Interval, between, bits_needed, bits_of, type_range

Domain = tuple[int, int] | Callable[[Sequence[tuple[int, ...]]], tuple[int, int]]
"""Least and largest value of an operand, or how they follow from the operands' shapes."""


@dataclass(frozen=True)
class Contract:
    """What a jitted function promises, where ranges alone cannot show it.

    function: made by `jax.jit`; a call is recognized by its name and the file that it is in.
    domain: for each operand the range it must lie in; None for any. A function of the operands'
      shapes where it depends on them.
    result: ranges of the operands -> ranges of the results, in order; see `always`.
    reason: the lemma, in a sentence, for the report.
    """

    function: Any
    domain: tuple[Domain | None, ...]
    result: Callable[..., Sequence[Interval]]
    reason: str

    @property
    def name(self) -> str:
        """The function's name."""
        return self.function.__name__

    def speaks_of(self, jaxpr: Any) -> bool:
        """Whether the jaxpr of a call of that name is this function's, not a namesake's."""
        source = self.function.__wrapped__.__code__.co_filename
        return f"{self.name} at {source}:" in str(jaxpr.debug_info.func_src_info)


def always(*ranges: tuple[int, int]) -> Callable[..., Sequence[Interval]]:
    """A contract's result that does not depend on the operands."""
    return lambda *_: [between(np.asarray(lo), np.asarray(hi)) for lo, hi in ranges]


@dataclass(frozen=True)
class Step:
    """An integer result: the range proved for it, and the bits that its type has to spare."""

    operation: str
    where: str
    dtype: str
    lo: int
    hi: int

    @property
    def bits(self) -> int:
        """The fewest bits that hold the range."""
        return bits_needed(self.lo, self.hi)

    @property
    def spare(self) -> int:
        """Bits of the type beyond those that the range takes; negative if it does not fit."""
        signed = type_range(self.dtype)[0] < 0
        magnitude = max((-self.lo - 1).bit_length() if self.lo < 0 else 0,
                        self.hi.bit_length() if self.hi > 0 else 0)  # fmt: skip
        sign = 1 if signed or self.lo < 0 else 0
        spare = bits_of(self.dtype) - magnitude - sign
        return min(spare, -1) if self.lo < 0 and not signed else spare


@dataclass(frozen=True)
class Tensor:
    """The result of one leaf of the network: what any input may make of it."""

    name: str
    dtype: str
    lo: int
    hi: int

    @property
    def bits(self) -> int:
        """The fewest bits that hold the range."""
        return bits_needed(self.lo, self.hi)


@dataclass(frozen=True)
class Problem:
    """An operation that the analysis cannot prove, and why."""

    operation: str
    where: str
    reason: str

    def __str__(self) -> str:
        return f"{self.operation} at {self.where}: {self.reason}"


@dataclass(frozen=True)
class Clip:
    """A saturation: the range that reaches it and the range it lets through.

    asserting: it stands at a lemma's bound (`integer.dyadic.bounded`) and never acts; else it is
      a part of quantizing.
    """

    where: str
    reached: tuple[int, int]
    limits: tuple[int, int]
    asserting: bool = False

    @property
    def acts(self) -> bool:
        """False if the ranges alone show that it never changes a value."""
        return self.reached[0] < self.limits[0] or self.reached[1] > self.limits[1]


_CAN_OVERFLOW = frozenset(
    ["add", "cumsum", "dot_general", "dot_u8_s8", "mul", "reduce_sum", "shift_left", "sub"]
)


@dataclass(frozen=True)
class OverflowProof:
    """The outcome of `analyze`: `ok`, or `problems` in program order.

    tensors: every leaf's results, layer by layer.
    steps: every integer operation's result, in program order.
    clips: every call of `jnp.clip` and `lax.clamp`, but where it is known to change nothing: a
        single number, within its limits.
    contracts: name -> how many calls rest on it.
    results: the ranges of the program's outputs.
    """

    problems: tuple[Problem, ...]
    steps: tuple[Step, ...]
    tensors: tuple[Tensor, ...]
    clips: tuple[Clip, ...]
    contracts: dict[str, int]
    results: tuple[Interval, ...]

    @property
    def ok(self) -> bool:
        """True if every result was shown to fit its type."""
        return not self.problems

    def tightest(self, count: int = 5) -> list[Step]:
        """The int32 sums, products and shifts with the fewest bits to spare.

        (Those in uint32 are full by design: numbers shifted until their first bit is in front.)
        """
        able = [x for x in self.steps if x.dtype == "int32" and x.operation in _CAN_OVERFLOW]
        return sorted(able, key=lambda step: (step.spare, -max(-step.lo, step.hi)))[:count]

    def __str__(self) -> str:
        if self.problems:
            return f"overflow not excluded: {self.problems[0]} ({len(self.problems)} problems)"
        calls = sum(self.contracts.values())
        return f"no overflow: {len(self.steps)} integer results fit, {calls} kernels by contract"
