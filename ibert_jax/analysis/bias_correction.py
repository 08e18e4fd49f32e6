"""Bias correction: what quantization adds to a linear layer's output on average, taken off again.

Rounded weights, saturated activations and approximated functions shift the mean of every output
channel a little, and later layers add to it. A shift is the one error that a bias can undo, at no
cost at run time (Nagel et al., "Data-free quantization through weight equalization and bias
correction", 2019, section 4.2, with means measured on text).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Self, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.analysis.switches import Switched, inputs_of, is_wire, kind_of
from ibert_jax.checks import check_model
from ibert_jax.frozen.network import wrap_leaves
from ibert_jax.layers.leaf import check_calibrated, set_life
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.models.inputs import as_array
from ibert_jax.quantize.calibration import check_batches

Model = TypeVar("Model", bound=nnx.Module)

CORRECTED = "corrected_biases"
"""Where a model's configuration says which biases were corrected already: those of a digest."""


def correct_biases(model: Model, batches: Iterable[Mapping[str, Any]]) -> Model:
    """Shift the biases of a calibrated model's linear layers, in place.

    Float and quantized activations pass through the network side by side. Behind each linear
    layer the mean difference over the tokens, outliers held back, is taken off, so that what
    follows sees means that are corrected already: one pass corrects all layers in order.

    That is for once: shifted biases are no float reference any more, and a second pass would
    shift them as far again. So a digest of them is noted in ``model.config.extra``, which
    ``save_pretrained`` keeps, and a model that has it is refused until training has changed them.

    Args:
        model: one of this package's models with calibrated ranges. Its biases then make up for
            errors that only integers make, so that in the float life it is a little worse off.
        batches: its arguments by name, a hundred sentences or more; large batches are better,
            for each estimates the means by itself before they are averaged. Every kind of leaf
            is compiled once for each shape.

    Returns:
        ``model``, in the quantization-aware life.

    Raises:
        ValueError: there is no batch; a range was never calibrated; the biases were corrected
            before.
        TypeError: what is no model; one batch in place of a list of them.
    """
    check_model(model)
    check_batches(batches)
    network: Any = model
    check_calibrated(network.leaves())
    check_uncorrected(network)
    twin: Any = nnx.clone(model)
    twin.quantize(True)
    set_life(twin, quantized=False, observing=False, deterministic=True, recording=False)
    shared = _Shared()
    wrap_leaves(twin, lambda path, leaf: _Paired(path, leaf, shared))

    totals: dict[str, tuple[Any, Any]] = {}
    for batch in batches:
        network.check_batch(network.config, batch)
        shared.mask = as_array(batch.get("attention_mask"))
        # Every token tells of a bias, whichever are asked for.
        arguments = {n: value for n, value in inputs_of(batch).items() if n != "scored_tokens"}
        twin(**arguments, return_dict=True)
        for path, (total, count) in jax.device_get(shared.found).items():
            before = totals.get(path, (0.0, 0.0))
            totals[path] = before[0] + total.astype(np.float64), before[1] + float(count)
    if not totals:
        raise ValueError("bias correction needs at least one batch, got none: pass some sentences")
    leaves = network.leaves()
    for path, (total, count) in totals.items():
        bias = leaves[path].bias
        bias[...] = bias[...] - jnp.asarray(total / max(count, 1), jnp.float32)
    noted = {**network.config.extra, CORRECTED: _digest(leaves)}
    network.config = network.config.replace(extra=noted)
    return network.quantize(True)


def check_uncorrected(network: Any) -> None:
    """Refuse a model whose biases were corrected and not trained since.

    Raises:
        ValueError: it is one.
    """
    if network.config.extra.get(CORRECTED) == _digest(network.leaves()):
        raise ValueError(
            "expected biases as they were trained, got a model whose biases were corrected "
            "already; load it anew from the checkpoint before, or leave the correction out"
        )


def _digest(leaves: Mapping[str, Any]) -> str:
    """Of the biases of the encoder's linear layers, which go with a model into any head."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(leaves):
        if "encoder." in path and isinstance(leaves[path], QuantLinear):
            digest.update(np.asarray(leaves[path].bias[...]).tobytes())
    return digest.hexdigest()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class _Pair:
    """The same tensor twice: as quantization leaves it, and as it should be."""

    rounded: Any
    exact: Any

    def __getitem__(self, index: Any) -> Self:
        return dataclasses.replace(self, rounded=self.rounded[index], exact=self.exact[index])


@dataclasses.dataclass
class _Shared:
    """What the leaves of one batch have in common.

    Attributes:
        mask: the batch's attention mask, or None.
        found: by path, what was taken off behind each linear layer, float32 [N] summed over the
            tokens, and their number.
    """

    mask: Any = None
    found: dict[str, tuple[jax.Array, jax.Array]] = dataclasses.field(default_factory=dict)


class _Paired:
    """Stands in a leaf's place and calls it twice."""

    def __init__(self, path: str, leaf: Any, shared: _Shared) -> None:
        self._path, self._leaf, self._shared = path, leaf, shared

    def __call__(self, *operands: Any) -> Any:
        if is_wire(self._leaf):
            return operands[0]
        operands = tuple(x._leaf if isinstance(x, _Paired) else x for x in operands)
        pair, shift = _call_twice(self._leaf, self._shared.mask, *operands)
        if shift is not None:
            self._shared.found[self._path] = shift
        return pair

    def __getattr__(self, name: str) -> Any:
        return getattr(self._leaf, name)


# Leaf by leaf, so that a layer is compiled once and not as often as there are layers.
@nnx.jit
def _call_twice(leaf: Any, mask: Any, *operands: Any) -> tuple[_Pair, Any]:
    """A leaf's results; behind a linear layer also what is typical of their difference."""
    flag = None if kind_of(leaf) is None else jnp.bool_(True)
    rounded = Switched(leaf, flag)(*(x.rounded if isinstance(x, _Pair) else x for x in operands))
    exact = leaf(*(x.exact if isinstance(x, _Pair) else x for x in operands))
    if not isinstance(leaf, QuantLinear):
        return _Pair(rounded, exact), None
    difference = rounded - exact
    counted = jnp.ones(difference.shape[:-1], jnp.float32)
    if mask is not None and difference.ndim == 3:
        counted = (mask != 0).reshape(counted.shape).astype(jnp.float32)
    typical, count = huber_mean(difference, counted), jnp.sum(counted)
    shift = typical.reshape((1,) * counted.ndim + (-1,))
    return _Pair(rounded - shift, exact), (typical * count, count)


def huber_mean(values: jax.Array, counted: jax.Array) -> jax.Array:
    """The mean of float32 [..., N] where ``counted`` (0.0 or 1.0 [...]), outliers held back: [N].

    A few tokens, [SEP] above all, have channels a hundred times as large as all others. What
    saturation takes from those must not be given to every token, so deviations count up to one
    and a half times their own mean (Huber, "Robust estimation of a location parameter", 1964).
    """
    values, weight = values.reshape(-1, values.shape[-1]), counted.reshape(1, -1)
    count = jnp.maximum(jnp.sum(counted), 1)

    def mean(x: jax.Array) -> jax.Array:
        # As a product: on CPU two to four times as fast as a sum along the first axis.
        return jnp.matmul(weight, x, precision="highest") / count

    centre = mean(values)
    spread = mean(jnp.abs(values - centre))
    for _ in range(4):
        limit = 1.5 * spread
        centre = centre + mean(jnp.clip(values - centre, -limit, limit))
        spread = mean(jnp.minimum(jnp.abs(values - centre), limit))
    return centre.reshape(-1)
