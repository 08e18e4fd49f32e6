"""Every leaf's result in a life of a model here, running freely and fed a simulation's results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from conversion.simulation import INPUT, Result
from ibert_jax.frozen.network import wrap_leaves
from ibert_jax.layers.dropout import Dropout
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.tensor import QuantizedTensor, align, dequantize

QUICKLY = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Each run is compiled for one batch: compiling takes longer than running."""


class LeafResult(NamedTuple):
    """What a leaf returned.

    Attributes:
      value: float32.
      fed: the same where its operands were the simulation's; None where they could not be.
      step: of an activation or of softmax, the width of its integers' steps; None of others,
        whose integers are requantized before anything else sees them, and of floats.
    """

    value: Any
    fed: Any
    step: Any


# What Hugging Face computes outside of its modules, as the input of the module that follows, and
# by how much it is smaller there: of scores, sqrt(D), which the softmax here divides by.
BETWEEN = {
    "attention.self.scores": "attention.self.softmax",
    "attention.self.context": "attention.self.output_activation",
}


def counterpart(path: str, simulated: Mapping[str, Result], head_size: int) -> Result | None:
    """The simulation's result that a leaf here computes, by its path without ``ibert.``."""
    for ours, theirs in BETWEEN.items():
        if path.endswith(ours):
            found = simulated.get(INPUT + path.removesuffix(ours) + theirs)
            if found is None or not ours.endswith("scores"):
                return found
            # Excluded keys have the lowest of floats added; no kept score comes near 1e30.
            return found._replace(value=np.maximum(found.value, -1e30) * np.sqrt(head_size))
    return simulated.get(path)


class Run(NamedTuple):
    """A run of a model in one life.

    Attributes:
      leaves: the result of every leaf by its path without ``ibert.``, in the order of execution;
        activations that hand on what they are given are left out.
      integers: of the quantization-aware life, every leaf's by its whole path, as
        ``integer_tensors`` returns them.
      logits: the model's, float32; None if it has none.
    """

    leaves: dict[str, LeafResult]
    integers: dict[str, Any]
    logits: Any


def run(
    model: IBertPreTrainedModel, inputs: Mapping[str, np.ndarray], simulated: Mapping[str, Result]
) -> Run:
    """Run a model and write everything down.

    Args:
        model: in the float or the quantization-aware life; not changed.
        inputs: its arguments.
        simulated: results of the simulation for the same arguments.
    """
    head_size = model.config.head_size
    paths = [path.removeprefix("ibert.") for path in model.leaves()]
    sources = {path: counterpart(path, simulated, head_size) for path in paths}
    values = {p: source.value.astype(np.float32) for p, source in sources.items() if source}
    order: list[list[str]] = []  # a dictionary comes back from jit in the order of its keys

    # The inputs are closed over, so that they are checked like those of any call.
    @partial(jax.jit, compiler_options=QUICKLY)
    def recorded(model: Any, values: dict[str, jax.Array]) -> Run:
        recorders = _Recorders(values)
        wrap_leaves(model, recorders.wrap)
        logits = getattr(model(**inputs), "logits", None)
        order.extend([list(recorders.found), list(recorders.integers)])
        return Run(recorders.found, recorders.integers, None if logits is None else _value(logits))

    found = recorded(model, values)
    leaves, integers = order
    return Run(
        {path: LeafResult(*map(_on_host, found.leaves[path])) for path in leaves},
        {path: np.asarray(found.integers[path]) for path in integers},
        _on_host(found.logits),
    )


def _on_host(array: jax.Array | None) -> Any:
    return None if array is None else np.asarray(array)


class _Recorders:
    """What the leaves of one run write down in common."""

    def __init__(self, values: Mapping[str, jax.Array]) -> None:
        self.values = values
        self.found: dict[str, LeafResult] = {}
        self.integers: dict[str, Any] = {}
        self.origins: list[tuple[Any, str]] = []  # results and whose they are

    def wrap(self, path: str, leaf: Any) -> _Recorder:
        return _Recorder(leaf, path, self)

    def replaced(self, operands: tuple[Any, ...]) -> list[Any] | None:
        """The operands with the simulation's values on their own grids; None if one has none."""
        given = []
        for operand in operands:
            if isinstance(operand, QuantizedTensor):
                path = next((path for tensor, path in self.origins if tensor is operand), "")
                if path not in self.values or self.values[path].shape != operand.shape:
                    return None
                operand = _on_grid(self.values[path], operand)
            given.append(operand)  # ids and masks as they are
        return given

    def write_integers(self, path: str, result: Any) -> None:
        if isinstance(result, QuantizedTensor):
            self.integers[path] = result.q
            if result.row_sum is not None:
                self.integers[f"{path}.row_sum"] = result.row_sum

    def write(self, path: str, result: Any, fed: Any) -> None:
        self.origins.append((result, path))
        step = None
        if isinstance(result, QuantizedTensor):
            if result.row_sum is not None:
                step = jnp.float32(2.0**-8)
            elif result.offset is None and result.q.dtype == jnp.int8:
                step = result.scale
        self.found[path] = LeafResult(_value(result), None if fed is None else _value(fed), step)


def _value(result: Any) -> jax.Array:
    if isinstance(result, QuantizedTensor):  # what the integers say, not the gradients' carrier
        return dequantize(result.q, result.scale, result.offset, result.row_sum)
    return result


def _on_grid(value: jax.Array, like: QuantizedTensor) -> QuantizedTensor:
    """The quantized tensor of ``like``'s grid that is nearest to a value, float32.

    The rounding of wide integers to 24 bits is far below a step of whatever reads them.
    """
    if like.row_sum is not None:
        steps = value * like.row_sum.astype(jnp.float32)
        if jnp.issubdtype(like.q.dtype, jnp.floating):  # a softmax that stays in float
            return dataclasses.replace(like, q=steps, value=value)
    else:
        scale = align(like.scale, value.ndim)
        offset = jnp.zeros_like(scale) if like.offset is None else align(like.offset, value.ndim)
        steps = jnp.where(scale == 0, 0.0, (value - offset) / jnp.where(scale == 0, 1.0, scale))
    limits = jnp.iinfo(like.q.dtype)
    low, high = max(limits.min, -(2**30)), min(limits.max, 2**30)
    q = jnp.clip(jnp.round(steps), low, high).astype(like.q.dtype)
    exact = dequantize(q, like.scale, like.offset, like.row_sum)
    return QuantizedTensor(q, like.scale, exact, like.offset, like.row_sum)


class _Recorder:
    """Stands in a leaf's place, calls it, and calls it once more with the simulation's values."""

    def __init__(self, leaf: Any, path: str, common: _Recorders) -> None:
        self.leaf, self.path, self.common = leaf, path, common

    def __call__(self, *operands: Any) -> Any:
        if isinstance(self.leaf, Dropout):
            return operands[0]
        result = self.leaf(*operands)
        self.common.write_integers(self.path, result)
        if not getattr(self.leaf, "needed", True):
            return result  # an activation that hands on what it is given
        fed = None
        if isinstance(result, QuantizedTensor):
            given = self.common.replaced(operands)
            fed = None if given is None else self.leaf(*given)
        self.common.write(self.path.removeprefix("ibert."), result, fed)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self.leaf, name)
