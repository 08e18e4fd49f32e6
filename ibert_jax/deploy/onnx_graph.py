"""An ONNX graph that grows node by node.

A jaxpr's ``uint32`` is kept as int64 here, from 0 to 2^32 - 1: ONNX Runtime has no arithmetic on
unsigned integers. All other integers keep their type.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

OPSET = 18  # the first with bitwise operators on integers
Dimension = Any
"""An int, or one of JAX's symbolic dimensions."""


@dataclass(frozen=True)
class Tensor:
    """A value that is computed when the model runs.

    name: in the graph. dtype: as the jaxpr has it. shape: ints and symbolic dimensions.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[Dimension, ...]


Value = Tensor | np.ndarray
"""What a variable of the jaxpr stands for: numbers that are known, or a tensor."""


class Graph:
    """Nodes, constants and inputs.

    dimensions: names of the inputs' dimensions. inputs: their names, all int32 of that shape.
    """

    def __init__(self, inputs: Sequence[str], dimensions: Sequence[str]) -> None:
        from onnx import helper

        self._make_node = helper.make_node
        self.nodes: list[Any] = []
        self.constants: dict[str, np.ndarray] = {}
        self._named: dict[Any, str] = {}  # what must not be made twice
        self._inputs, self._dimensions = tuple(inputs), tuple(dimensions)

    def node(self, kind: str, *operands: str, **attributes: Any) -> str:
        """Add an operator with one result; returns the result's name."""
        key = kind, operands, tuple(sorted(attributes.items()))
        if key not in self._named:
            self._named[key] = name = f"v{len(self.nodes)}"
            self.nodes.append(self._make_node(kind, list(operands), [name], **attributes))
        return self._named[key]

    def constant(self, array: np.ndarray) -> str:
        """The name of a constant; equal ones are kept once."""
        array = np.asarray(array, order="C")  # not ascontiguousarray, to which a scalar is a row
        if array.dtype == np.uint32:
            array = array.astype(np.int64)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._named:
            self._named[key] = name = f"c{len(self.constants)}"
            self.constants[name] = array
        return self._named[key]

    def integer(self, number: int, dtype: Any = np.int32) -> str:
        """The name of a scalar constant."""
        return self.constant(np.asarray(number, dtype))

    def name_of(self, value: Value) -> str:
        """A value's name."""
        return value.name if isinstance(value, Tensor) else self.constant(value)

    def cast(self, name: str, dtype: Any) -> str:
        """To another type of ONNX; what does not fit wraps."""
        from onnx import helper

        return self.node("Cast", name, to=int(helper.np_dtype_to_tensor_dtype(np.dtype(dtype))))

    def shape(self, dimensions: Sequence[Dimension]) -> str:
        """The name of an int64 tensor that holds a shape."""
        if all(isinstance(d, int) for d in dimensions):
            return self.constant(np.array(dimensions, np.int64))
        return self.node("Concat", *(self.dimension(d) for d in dimensions), axis=0)

    def dimension(self, dimension: Dimension) -> str:
        """The name of an int64 tensor [1] that holds one dimension."""
        if isinstance(dimension, int):
            return self.constant(np.array([dimension], np.int64))
        return self._evaluate(ast.parse(str(dimension), mode="eval").body)

    def _evaluate(self, tree: ast.expr) -> str:
        """A symbolic dimension as JAX prints it, such as ``12*batch``."""
        operators = {ast.Add: "Add", ast.Sub: "Sub", ast.Mult: "Mul"}
        match tree:
            case ast.Constant(value=int(number)):
                return self.constant(np.array([number], np.int64))
            case ast.Name(id=name) if name in self._dimensions:
                shape = self.node("Shape", self._inputs[0])
                axis = self.constant(np.array([self._dimensions.index(name)], np.int64))
                return self.node("Gather", shape, axis, axis=0)
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return self.node("Neg", self._evaluate(operand))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in operators:
                return self.node(operators[type(op)], self._evaluate(left), self._evaluate(right))
        raise NotImplementedError(f"a dimension of {ast.unparse(tree)} has no form in ONNX here")
