"""Counts the operations of a program in its three forms and names those that are not integer.

Method: trace, lower and compile the function for given shapes, then visit *every* operation of the
jaxpr (sub-jaxprs included), of the StableHLO module and of the optimized HLO module, and hold it
against the allow-lists of `operations.py`. Nothing is inferred from a text search, so neither a
kernel of a backend nor a format's spelling can hide a float.

Limit: an operation that the compiler removes is absent from the later forms; it is still named in
the earlier ones. What a backend does below HLO (how it emits an integer product) is not seen.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import jax

from ibert_jax.integer.compiled import compiler_options, own_program
from ibert_jax.proof.operations import FORMS, HLO, JAXPR, STABLEHLO, Operation
from ibert_jax.proof.tracing import unremembered
from ibert_jax.proof.walk_hlo import walk_hlo
from ibert_jax.proof.walk_jaxpr import walk_jaxpr
from ibert_jax.proof.walk_stablehlo import walk_stablehlo


@dataclass(frozen=True)
class Finding:
    """An operation that an integer program may not contain.

    form: `jaxpr`, `stablehlo`, `hlo`, or `arrays` (an array of the program itself).
    where: source line, MLIR location, or HLO instruction with its origin.
    count: how many operations agree in all other fields.
    """

    form: str
    operation: str
    types: str
    where: str
    reason: str
    count: int = 1

    def __str__(self) -> str:
        times = f" ({self.count} times)" if self.count > 1 else ""
        return f"{self.form}: {self.operation} {self.types} at {self.where}: {self.reason}{times}"


@dataclass(frozen=True)
class Census:
    """Operations of a program by form and kind, and what is wrong with them.

    operations: form -> kind -> count; matrix products are counted by their element types.
    float_operations: form -> operations with a float or complex operand, result or constant.
    findings: every operation that is not allowed, floats first.
    """

    operations: dict[str, dict[str, int]]
    float_operations: dict[str, int]
    findings: tuple[Finding, ...]

    @property
    def ok(self) -> bool:
        """True if nothing was found in any form."""
        return not self.findings


def census(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Census:
    """Counts the operations of `function` in all three forms.

    Args:
      function: a jittable function, compiled with the options of this package's programs; used
        as it is if it is already jitted.
      *args, **kwargs: arrays, `jax.ShapeDtypeStruct`s or pytrees of them; only their shapes and
        types matter. Weights belong here: what the function closes over becomes constants.

    Returns:
      The counts and findings. Nothing is executed, but the function is compiled for the default
      device. Operations count where they stand: the body of a loop once, not once a turn.
    """
    jitted: Any = function
    if not hasattr(function, "trace"):
        jitted = jax.jit(unremembered(function), compiler_options=compiler_options())
    traced = jitted.trace(*args, **kwargs)
    with own_program():  # as a call of the program itself would be
        lowered = traced.lower()
        compiled = lowered.compile()
    found = {
        JAXPR: list(walk_jaxpr(traced.jaxpr)),
        STABLEHLO: list(walk_stablehlo(lowered.compiler_ir("stablehlo"))),
        HLO: [
            operation
            for module in compiled.runtime_executable().hlo_modules()
            for operation in walk_hlo(module)
        ],
    }
    for form in FORMS:
        if not found[form]:
            raise RuntimeError(f"expected operations in the {form} of the program, got none")
    return Census(
        operations={form: _by_kind(found[form]) for form in FORMS},
        float_operations={form: sum(op.is_float for op in found[form]) for form in FORMS},
        findings=tuple(finding for form in FORMS for finding in _findings(found[form])),
    )


def _by_kind(operations: Iterable[Operation]) -> dict[str, int]:
    return dict(sorted(Counter(operation.kind for operation in operations).items()))


def _findings(operations: Iterable[Operation]) -> list[Finding]:
    """Objections to one form's operations, equal ones counted together, floats first."""
    counts: Counter[tuple[bool, Finding]] = Counter()
    for operation in operations:
        reason = operation.objection()
        if reason is not None:
            finding = Finding(
                operation.form, operation.label, operation.types, operation.where(), reason
            )
            counts[not operation.is_float, finding] += 1
    ordered = sorted(counts.items(), key=lambda item: item[0][0])  # stable: program order within
    return [dataclasses.replace(finding, count=count) for (_, finding), count in ordered]
