"""Calibration: from a float model and example inputs to one that is quantized."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.quantize.ranges import RangeStatistic

Model = TypeVar("Model", bound=nnx.Module)


def calibrate(model: Model, batches: Iterable[Mapping[str, Any]]) -> Model:
    """Fill the activation ranges from example inputs and enter the quantization-aware life.

    The model runs in its float life, in evaluation; ranges are the running minimum and maximum
    over all batches. In the ``channel`` scheme the channel factors are then chosen.

    Args:
        model: one of this package's models; changed in place. Ranges that it already has are
            replaced.
        batches: the model's arguments by name, e.g. ``{"input_ids": ..., "attention_mask":
            ...}``; a few hundred sentences of the kind to be expected.

    Returns:
        ``model``.

    Raises:
        ValueError: there is no batch.
    """
    network: Any = model
    network.quantize(True)  # settings that cannot be had are refused before anything runs
    observers: list[Any] = [m for _, m in nnx.iter_modules(model) if hasattr(m, "x_min")]
    momenta = [observer.momentum for observer in observers]
    for observer in observers:
        observer.x_min[...] = jnp.full(observer.x_min.shape, jnp.inf, jnp.float32)
        observer.x_max[...] = jnp.full(observer.x_max.shape, -jnp.inf, jnp.float32)
        observer.momentum = -1
    network.quantize(False)
    network.eval()
    for observer in observers:
        observer.observing = True
    try:
        if _run(model, batches) == 0:
            raise ValueError("calibration needs at least one batch, got none: pass some sentences")
    finally:
        for observer, momentum in zip(observers, momenta, strict=True):
            observer.momentum, observer.observing = momentum, False
    balancing: list[Any] = [m for _, m in nnx.iter_modules(model) if hasattr(m, "balance")]
    for module in balancing:
        module.balance()
    return network.quantize(True)


def _run(model: nnx.Module, batches: Iterable[Mapping[str, Any]]) -> int:
    """Run every batch, keeping the ranges; returns how many there were."""
    graph, ranges, rest = nnx.split(model, RangeStatistic, ...)

    @jax.jit
    def observe(ranges: Any, rest: Any, batch: dict[str, jax.Array]) -> Any:
        merged = nnx.merge(graph, ranges, rest)
        merged(**batch)
        return nnx.state(merged, RangeStatistic)

    count = 0
    for batch in batches:
        ranges = observe(ranges, rest, {name: np.asarray(value) for name, value in batch.items()})
        count += 1
    nnx.update(model, ranges)
    return count


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
