"""The certificate of an integer program: what was counted and proved, for which model."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import ibert_jax
from ibert_jax.checks import check_kind
from ibert_jax.frozen.fingerprint import array_bytes
from ibert_jax.frozen.program import IntegerModel
from ibert_jax.proof.census import Finding, census
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS
from ibert_jax.proof.operations import FORMS
from ibert_jax.proof.report import OverflowReport
from ibert_jax.proof.saturation import saturation

_FORMAT = 2
_SHOWN = 5  # findings that an error message spells out
_LENGTH = 128  # tokens that are traced, unless the model takes fewer
_LEAF_TYPES = frozenset(["bool", "int8", "int16", "int32", "uint8", "uint16", "uint32"])


class CertificateError(Exception):
    """A program is not integer-only; the message names the operations, `certificate` has all."""

    def __init__(self, message: str, certificate: Certificate) -> None:
        super().__init__(message)
        self.certificate = certificate


@dataclass(frozen=True)
class Certificate:
    """What was found in one program at one shape; see `certify`.

    versions: of ibert_jax, jax and jaxlib.
    platform: backend and device for which the HLO was optimized, such as `cpu (cpu)`.
    model_hash: SHA-256 of the program's arrays, see `model_hash`.
    operations: form -> kind of operation -> count.
    float_operations: form -> number of floating-point operations.
    findings: operations and arrays that an integer program may not have; empty if it holds.
    overflow: what was proved of the ranges; None where that was left out.
    saturation: for each quantized activation by path, the share of its elements at either end of
      its range, on the text that was given; empty if none was.
    force_dequant: the nonlinearities that the model's configuration leaves in float, for
      experiments; `none` in an integer-only program. Ranges of others are not analysed.
    """

    versions: dict[str, str]
    platform: str
    model_hash: str
    batch_size: int
    sequence_length: int
    operations: dict[str, dict[str, int]]
    float_operations: dict[str, int]
    findings: tuple[Finding, ...]
    overflow: OverflowReport | None = None
    saturation: dict[str, float] = field(default_factory=dict)
    force_dequant: str = "none"

    @property
    def ok(self) -> bool:
        """True if everything in the program is integer or boolean, and nothing overflows."""
        return not self.findings and (self.overflow is None or not self.overflow.problems)

    def __str__(self) -> str:
        count = len(self.findings)
        verdict = f"NOT integer-only, {count} findings" if count else "integer-only"
        if self.force_dequant != "none":
            verdict += f" (force_dequant={self.force_dequant!r} leaves operations in float)"
        forms = ", ".join(
            f"{form} {self.float_operations[form]}/{sum(self.operations[form].values())}"
            for form in FORMS
        )
        counted = (
            f"{verdict}: floating-point operations in {forms} at {self.batch_size} x"
            f" {self.sequence_length} tokens on {self.platform}, jax {self.versions['jax']},"
            f" model {self.model_hash[:12]}"
        )
        lines = [counted] if self.overflow is None else [counted, str(self.overflow)]
        if self.saturation:
            path, share = max(self.saturation.items(), key=lambda item: item[1])
            lines.append(f"saturated on the given text: at most {share:.2%}, in {path}")
        return "\n".join(lines)

    def raise_if_failed(self) -> None:
        """Raises CertificateError, naming the first offending operations, unless `ok`."""
        if self.ok:
            return
        expected = "only integer operations" if self.findings else "no overflow"
        if self.force_dequant != "none":
            expected += (
                f" (the model was frozen with force_dequant={self.force_dequant!r}, for"
                " experiments; freeze one with 'none')"
            )
        found = [*map(str, self.findings), *(self.overflow.problems if self.overflow else ())]
        more = len(found) - _SHOWN
        rest = f"; and {more} more in error.certificate" if more > 0 else ""
        raise CertificateError(f"expected {expected}, got {'; '.join(found[:_SHOWN])}{rest}", self)

    def to_json(self) -> str:
        """The certificate as a JSON text that `from_json` reads."""
        return json.dumps({"format": _FORMAT, **dataclasses.asdict(self)}, indent=1, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Reads what `to_json` wrote.

        Raises:
          ValueError: the text is not a certificate, or of another format.
        """
        try:
            data = json.loads(text)
            if data.pop("format") != _FORMAT:
                raise ValueError("another format")
            data["findings"] = tuple(Finding(**finding) for finding in data["findings"])
            if data["overflow"] is not None:
                data["overflow"] = OverflowReport.from_dict(data["overflow"])
            certificate = cls(**data)
            str(certificate)  # reads every form
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected a certificate of format {_FORMAT} in JSON, got something else ({error});"
                " make it again with certify"
            ) from None
        return certificate


def certify(
    program: Any,
    batch_size: int = 8,
    sequence_length: int | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] = (),
    overflow: bool = True,
) -> Certificate:
    """Proves that nothing between token ids and integer outputs is floating point or overflows.

    Walks the jaxpr, the StableHLO and the optimized HLO of `program.integers` at the given shape,
    with an attention mask, for the default device (`census.py`); then propagates ranges through
    the jaxpr, from any token ids and any mask at the longest length that the model takes, and
    shows that no result leaves its type, on any platform (`intervals.py`, `lemmas.py`).

    Args:
      program: an `IntegerModel`, or any pytree of integer arrays with a method
        `integers(input_ids, attention_mask=...)`.
      batch_size, sequence_length: the shape that is traced and compiled; None, 128 tokens, or what
        the model's positions allow. Operations do not depend on values, so one shape speaks for
        all of that shape. (On a CPU of n cores large batches run as n programs of fewer rows;
        what is traced is one program of all rows that are given.)
      batches: the program's arguments by name, such as the calibration text; where given, the
        share of saturated activations is measured on them (`saturation.py`).
      overflow: whether the ranges are analysed. Needs a `config` with `vocab_size` and
        `max_sequence_length`, as an `IntegerModel` has it. What is proved of an `IntegerModel`
        holds for any number of rows, of another program for `batch_size`, which may mix its rows.

    Raises:
      CertificateError: names the offending operations; its `certificate` lists all.
      TypeError: what has no method `integers`, such as a model that is not frozen yet.
    """
    certificate = examine(program, batch_size, sequence_length, batches=batches, overflow=overflow)
    certificate.raise_if_failed()
    return certificate


def examine(
    program: Any,
    batch_size: int = 8,
    sequence_length: int | None = None,
    *,
    batches: Iterable[Mapping[str, Any]] = (),
    overflow: bool = True,
) -> Certificate:
    """The same as `certify`, but returns the certificate of a program that fails, too."""
    check_kind("an integer program", program, "integers", "ib.freeze(model)")
    if sequence_length is None:
        longest: int = getattr(getattr(program, "config", None), "max_sequence_length", _LENGTH)
        sequence_length = min(_LENGTH, longest)
    tokens = jax.ShapeDtypeStruct(_shape(program, batch_size, sequence_length), np.int32)
    # The program is an argument, so that its arrays are visited as types and not as constants.
    counted = census(_integers, program, tokens, tokens)
    device = jax.devices()[0]
    in_float = getattr(getattr(program, "config", None), "force_dequant", "none")
    overflow = overflow and hasattr(program, "config") and in_float == "none"
    return Certificate(
        versions={
            "ibert_jax": ibert_jax.__version__,
            "jax": jax.__version__,
            "jaxlib": version("jaxlib"),
        },
        platform=f"{device.platform} ({device.device_kind})",
        model_hash=model_hash(program),
        batch_size=batch_size,
        sequence_length=sequence_length,
        operations=counted.operations,
        float_operations=counted.float_operations,
        findings=(*_arrays(program), *counted.findings),
        overflow=_overflow(program, batch_size) if overflow else None,
        saturation=saturation(program, batches),
        force_dequant=in_float,
    )


def _integers(program: Any, ids: Any, mask: Any) -> Any:
    return program.integers(ids, attention_mask=mask)


def _shape(program: Any, batch_size: int, sequence_length: int) -> tuple[int, ...]:
    if hasattr(program, "input_shape"):
        return program.input_shape(batch_size, sequence_length)
    return batch_size, sequence_length


def _overflow(program: Any, batch_size: int) -> OverflowReport:
    """The longest length speaks for all, since a mask shortens a row; of ours, one row for all.

    The rows of an `IntegerModel` do not mix. Of another program that is not known. Fused kernels
    compute what the leaves compute, on parts of the same arrays; of those the ranges are analysed.
    """
    if isinstance(program, IntegerModel):
        program, batch_size = program.with_kernels("xla"), 1
    length = program.config.max_sequence_length
    shape = _shape(program, batch_size, length)
    ids = Bounded(shape, np.int32, 0, program.config.vocab_size - 1)
    mask = Bounded(shape, np.int32, 0, 1)
    proof = analyze(_integers, program, ids, mask, contracts=LEMMAS)
    return OverflowReport.of(proof, length)


def model_hash(program: Any) -> str:
    """SHA-256 of a program: an `IntegerModel`'s own, else over all arrays in tree order."""
    if hasattr(program, "sha256"):
        return program.sha256()
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(program):
        digest.update(array_bytes(jax.tree_util.keystr(path), leaf))
    return digest.hexdigest()


def _arrays(program: Any) -> list[Finding]:
    """Arrays of the program that are not integers, or not of 32 bits at most."""
    found = []
    for path, leaf in jax.tree_util.tree_leaves_with_path(program):
        kind = str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__
        if kind not in _LEAF_TYPES:
            where = f"program{jax.tree_util.keystr(path)}"
            reason = "expected an integer array of at most 32 bits"
            found.append(Finding("arrays", "array", kind, where, reason))
    return found
