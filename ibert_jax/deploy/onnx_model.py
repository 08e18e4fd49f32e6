"""A program in integer operators of ONNX: its jaxpr, operation by operation.

Fences for XLA and forms for particular platforms are left out, layers are unrolled, and whatever
depends on the weights alone is computed here. Batch and length stay free.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.extend import core

from ibert_jax.deploy.onnx_graph import OPSET, Graph, Tensor, Value
from ibert_jax.deploy.onnx_rules import RULES
from ibert_jax.deploy.signature import Signature
from ibert_jax.frozen.jaxprs import scan_counts

_CALLS = frozenset(
    ["closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "jit", "pjit"]
)
_IR_VERSION = 9  # read by every ONNX Runtime that knows the operators


def to_onnx(signature: Signature) -> bytes:
    """The serialized model; its inputs and outputs are named as the signature names them.

    Raises:
        ModuleNotFoundError: the package onnx is missing.
        NotImplementedError: an operation that has no form in ONNX here.
    """
    try:
        from onnx import TensorProto, helper, numpy_helper
    except ImportError as error:
        raise ModuleNotFoundError(
            f'expected the package onnx ({error}); pip install "ibert_jax[export]"'
        ) from None
    closed = jax.jit(signature.function).trace(*signature.abstract()).jaxpr
    graph = Graph(signature.arguments, signature.dimensions)
    given = [
        Tensor(name, np.dtype(np.int32), var.aval.shape)
        for name, var in zip(signature.arguments, closed.jaxpr.invars, strict=True)
    ]
    results = _run(graph, closed.jaxpr, closed.consts, given)
    shapes, types = {}, {}
    # A dict's values, in the order of its keys.
    for name, value in zip(sorted(signature.outputs), results, strict=True):
        types[name] = int(helper.np_dtype_to_tensor_dtype(np.dtype(value.dtype)))
        shapes[name] = [d if isinstance(d, int) else str(d) for d in value.shape]
        graph.nodes.append(helper.make_node("Identity", [graph.name_of(value)], [name]))
    dimensions = list(signature.dimensions)
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "integer_program",
            [
                helper.make_tensor_value_info(n, TensorProto.INT32, dimensions)
                for n in signature.arguments
            ],
            [helper.make_tensor_value_info(n, types[n], shapes[n]) for n in signature.outputs],
            [numpy_helper.from_array(array, name) for name, array in graph.constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=_IR_VERSION,
        producer_name="ibert_jax",
    )
    return model.SerializeToString()


def _run(graph: Graph, jaxpr: Any, consts: Sequence[Any], operands: Sequence[Value]) -> list[Value]:
    """The results of an open jaxpr."""
    values: dict[Any, Value] = {}
    for var, const in zip(jaxpr.constvars, consts, strict=True):
        values[var] = const if isinstance(const, Tensor) else np.asarray(const)
    values.update(zip(jaxpr.invars, operands, strict=True))

    def read(var: Any) -> Value:
        return np.asarray(var.val) if isinstance(var, core.Literal) else values[var]

    for eqn in jaxpr.eqns:
        results = _equation(graph, eqn, [read(var) for var in eqn.invars])
        values.update(zip(eqn.outvars, results, strict=True))
    return [read(var) for var in jaxpr.outvars]


def _equation(graph: Graph, eqn: Any, operands: list[Value]) -> list[Value]:
    name, params = eqn.primitive.name, eqn.params
    if name == "platform_index":  # no platform of JAX's: the form that all others take
        return [np.asarray(len(params["platforms"]) - 1, np.int32)]
    if name in _CALLS:
        closed = params.get("jaxpr") or params["call_jaxpr"]
        return _run(graph, closed.jaxpr, closed.consts, operands)
    if name == "cond":
        index = operands[0]
        if isinstance(index, Tensor):
            raise NotImplementedError("a branch that depends on the input has no form in ONNX here")
        branch = params["branches"][int(index)]
        return _run(graph, branch.jaxpr, branch.consts, operands[1:])
    if name == "scan":
        return _unrolled(graph, params, operands)
    known = [x for x in operands if isinstance(x, np.ndarray)]
    if (
        operands
        and len(known) == len(operands)
        and all(isinstance(d, int) for var in eqn.outvars for d in var.aval.shape)
    ):
        found = eqn.primitive.bind(*map(jax.numpy.asarray, known), **params)
        return [np.asarray(x) for x in (found if eqn.primitive.multiple_results else [found])]
    if name not in RULES:
        raise NotImplementedError(f"{name} has no form in ONNX here")
    if name == "optimization_barrier":
        return list(operands)
    aval = eqn.outvars[0].aval
    return [Tensor(RULES[name](graph, eqn, operands), np.dtype(aval.dtype), aval.shape)]


def _unrolled(graph: Graph, params: Any, operands: list[Value]) -> list[Value]:
    """A scan over known arrays (the layers), turn by turn; it may hand on but not collect."""
    consts, carried = scan_counts(params)
    fixed, carry = operands[:consts], operands[consts : consts + carried]
    rows = operands[consts + carried :]
    body = params["jaxpr"]
    if len(body.jaxpr.outvars) > carried or any(isinstance(row, Tensor) for row in rows):
        raise NotImplementedError("only a scan over the layers' weights has a form in ONNX here")
    for index in range(params["length"]):
        now = [np.asarray(row[index]) for row in rows]  # type: ignore[index]
        carry = _run(graph, body.jaxpr, body.consts, [*fixed, *carry, *now])
    return list(carry)
