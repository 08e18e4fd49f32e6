"""What a certificate says of overflow: the proof, short enough for a file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

from ibert_jax.proof.lemmas import LEMMAS
from ibert_jax.proof.overflow import Clip, OverflowProof, Step, Tensor

_TIGHTEST = 8


@dataclass(frozen=True)
class Lemma:
    """A kernel that was taken at its word, how often, and why that is right."""

    name: str
    calls: int
    reason: str


@dataclass(frozen=True)
class OverflowReport:
    """The outcome of the interval analysis of one program.

    sequence_length: of the inputs; shorter ones are covered.
    steps: how many integer results were shown to fit.
    problems: what could not be shown, in program order: operation, place, range.
    tightest: the int32 sums, products and shifts with the fewest bits to spare.
    tensors: the range of every leaf's result, and so the bits that it needs.
    clips: every saturation, quantizing or asserting.
    lemmas: the kernels that the proof takes at their word.
    """

    sequence_length: int
    steps: int
    problems: tuple[str, ...]
    tightest: tuple[Step, ...]
    tensors: tuple[Tensor, ...]
    clips: tuple[Clip, ...]
    lemmas: tuple[Lemma, ...]

    @classmethod
    def of(cls, proof: OverflowProof, sequence_length: int) -> Self:
        """The report of a proof."""
        return cls(
            sequence_length=sequence_length,
            steps=len(proof.steps),
            problems=tuple(map(str, proof.problems)),
            tightest=tuple(proof.tightest(_TIGHTEST)),
            tensors=proof.tensors,
            clips=proof.clips,
            lemmas=tuple(
                Lemma(lemma.name, proof.contracts[lemma.name], lemma.reason)
                for lemma in LEMMAS
                if lemma.name in proof.contracts
            ),
        )

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> Self:
        """The report that `dataclasses.asdict` and JSON made a dictionary of."""
        kinds: dict[str, Any] = {"tightest": Step, "tensors": Tensor, "lemmas": Lemma}
        parts = {name: tuple(kind(**x) for x in data[name]) for name, kind in kinds.items()}
        clips = tuple(
            Clip(x["where"], tuple(x["reached"]), tuple(x["limits"]), x["asserting"])
            for x in data["clips"]
        )
        return cls(**{**data, **parts, "clips": clips, "problems": tuple(data["problems"])})

    def __str__(self) -> str:
        if self.problems:
            return f"overflow NOT excluded, {len(self.problems)} problems: {self.problems[0]}"
        asserting = sum(clip.asserting for clip in self.clips)
        return (
            f"no overflow: {self.steps} integer results fit their types for any tokens up to"
            f" {self.sequence_length}; {sum(x.calls for x in self.lemmas)} kernels by lemma,"
            f" {len(self.clips) - asserting} quantizing and {asserting} asserting clips"
        )
