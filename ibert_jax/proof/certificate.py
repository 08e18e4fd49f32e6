"""The certificate of an integer program: what was counted, for which model, by which versions."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import jax
import numpy as np

import ibert_jax
from ibert_jax.proof.census import Finding, census
from ibert_jax.proof.operations import FORMS

_FORMAT = 1
_SHOWN = 5  # findings that an error message spells out
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
    """

    versions: dict[str, str]
    platform: str
    model_hash: str
    batch_size: int
    sequence_length: int
    operations: dict[str, dict[str, int]]
    float_operations: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True if every operation and every array of the program is integer or boolean."""
        return not self.findings

    def __str__(self) -> str:
        verdict = "integer-only" if self.ok else f"NOT integer-only, {len(self.findings)} findings"
        forms = ", ".join(
            f"{form} {self.float_operations[form]}/{sum(self.operations[form].values())}"
            for form in FORMS
        )
        return (
            f"{verdict}: floating-point operations in {forms} at {self.batch_size} x"
            f" {self.sequence_length} tokens on {self.platform}, jax {self.versions['jax']},"
            f" model {self.model_hash[:12]}"
        )

    def raise_if_failed(self) -> None:
        """Raises CertificateError, naming the first offending operations, unless `ok`."""
        if self.ok:
            return
        shown = "; ".join(str(finding) for finding in self.findings[:_SHOWN])
        more = len(self.findings) - _SHOWN
        rest = f"; and {more} more in error.certificate.findings" if more > 0 else ""
        raise CertificateError(f"expected only integer operations, got {shown}{rest}", self)

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
            certificate = cls(**data)
            str(certificate)  # reads every form
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"expected a certificate of format {_FORMAT} in JSON, got something else ({error});"
                " make it again with certify"
            ) from None
        return certificate


def certify(program: Any, batch_size: int = 8, sequence_length: int = 128) -> Certificate:
    """Proves that nothing between token ids and integer outputs is floating point.

    Walks the jaxpr, the StableHLO and the optimized HLO of `program.integers` at the given shape,
    with an attention mask, for the default device; `census.py` says how and with what limits.

    Args:
      program: an `IntegerModel`, or any pytree of integer arrays with a method
        `integers(input_ids, attention_mask=...)`.
      batch_size, sequence_length: the shape that is traced and compiled. Operations do not depend
        on values, so one shape speaks for all inputs of that shape.

    Raises:
      CertificateError: names the offending operations; its `certificate` lists all.
    """
    certificate = examine(program, batch_size, sequence_length)
    certificate.raise_if_failed()
    return certificate


def examine(program: Any, batch_size: int = 8, sequence_length: int = 128) -> Certificate:
    """The same as `certify`, but returns the certificate of a program that fails, too."""
    shape: tuple[int, ...] = (batch_size, sequence_length)
    if hasattr(program, "input_shape"):  # choices have a dimension of their own
        shape = program.input_shape(batch_size, sequence_length)
    tokens = jax.ShapeDtypeStruct(shape, np.int32)
    # The program is an argument, so that its arrays are visited as types and not as constants.
    counted = census(
        lambda program, ids, mask: program.integers(ids, attention_mask=mask),
        program,
        tokens,
        tokens,
    )
    device = jax.devices()[0]
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
    )


def model_hash(program: Any) -> str:
    """SHA-256 over path, type, shape and bytes of every array of a program, in tree order."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(program):
        array = np.asarray(leaf)
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        name = jax.tree_util.keystr(path)
        digest.update(f"{name} {array.dtype.name} {array.shape}\n".encode())
        digest.update(np.ascontiguousarray(little).tobytes())
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
