"""Channel factors after LayerNorm: how the difficulty is shared with the weights that read it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.quantize.distance import outputs_of, squares

ALPHAS = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
"""The exponents that a search tries."""
_MOST_BATCHES = 4


def balance(model: nnx.Module, migration: float | None = None) -> None:
    """Choose the channel factors of a model with ranges, in place.

    ``migration``: the exponent alpha; the configuration's if None, else noted there.
    """
    for _, module in nnx.iter_modules(model):
        layer: Any = module
        if migration is not None and hasattr(layer, "config"):
            layer.config = layer.config.replace(quantization={"layernorm_migration": migration})
        if hasattr(layer, "balance"):
            layer.migration = layer.migration if migration is None else migration
            layer.balance()


def search_migration(model: nnx.Module, batches: Sequence[Mapping[str, Any]]) -> dict[float, float]:
    """Give a model with ranges the exponent whose integers come closest to its float outputs.

    The outputs of a few batches, of the commonest shape, are compared: one compilation of the
    float and one of the quantized pass.

    Args:
        model: ranges filled by minimum and maximum; left in the float life.
        batches: its arguments by name.

    Returns:
        exponent -> relative distance of the outputs, root mean square.
    """
    network: Any = model
    shape = Counter(map(_shape, batches)).most_common(1)[0][0]
    chosen = [b for b in batches if _shape(b) == shape][:_MOST_BATCHES]
    chosen = [{name: np.asarray(value) for name, value in batch.items()} for batch in chosen]

    @jax.jit
    def run(network: Any, batch: Any) -> dict[str, jax.Array]:
        return outputs_of(network(**batch, return_dict=True))

    network.quantize(False)
    wanted = [run(network, batch) for batch in chosen]
    network.quantize(True)
    # The exponent is static in the network; only the factors that follow from it are arrays.
    graph, _ = nnx.split(network)

    @jax.jit
    def distance(state: Any, batch: Any, want: Any) -> jax.Array:
        got = outputs_of(nnx.merge(graph, state)(**batch, return_dict=True))
        return squares(got, want, batch)

    found = {}
    for alpha in ALPHAS:
        balance(model, alpha)
        state = nnx.split(network)[1]
        total = np.zeros(2)
        for batch, want in zip(chosen, wanted, strict=True):
            total += np.asarray(distance(state, batch, want), np.float64)
        found[alpha] = float(np.sqrt(total[0] / total[1]))
    balance(model, min(found, key=found.__getitem__))
    network.quantize(False)
    return found


def _shape(batch: Mapping[str, Any]) -> tuple[tuple[str, tuple[int, ...]], ...]:
    return tuple(sorted((name, np.shape(value)) for name, value in batch.items()))


def balanced_exponents(
    absolute: np.ndarray, weights: Iterable[np.ndarray], migration: float
) -> np.ndarray:
    """Channel factors that share the difficulty between an activation and its readers.

    Channel c's scale is proportional to ``range^migration / weight^(1 - migration)``, with
    ``weight`` the largest weight that any reader has on the channel (SmoothQuant's rule),
    rounded to a power of two: exact to multiply by, and the optimum is flat.

    Args:
        absolute: float32 [C], the channels' ranges.
        weights: the readers' weights, float32 [N, C] each.
        migration: 0 to 1.

    Returns:
        float32 [C], whole numbers in [-12, 12], around 0.
    """
    largest = np.max([np.abs(w).max(axis=0) for w in weights], axis=0)
    logarithm = migration * np.log2(np.maximum(absolute, 1e-8))
    logarithm -= (1 - migration) * np.log2(np.maximum(largest, 1e-8))
    centred = np.round(logarithm - np.median(logarithm))
    return np.clip(centred, -12, 12).astype(np.float32)
