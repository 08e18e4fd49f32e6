"""Calibration: from a float model and example inputs to one that is quantized."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax.checks import check_kind, check_model
from ibert_jax.quantize.clipping import SHARES
from ibert_jax.quantize.histograms import histograms
from ibert_jax.quantize.migration import balance, search_migration
from ibert_jax.quantize.ranges import RangeStatistic

Model = TypeVar("Model", bound=nnx.Module)
Batches = Iterable[Mapping[str, Any]]

METHODS = ("minmax", "moving-average", *SHARES)
MOMENTUM = 0.95
"""Of moving averages where the configuration asks for none."""


def calibrate(
    model: Model,
    batches: Batches,
    method: str = "minmax",
    *,
    percentile: float = 99.99,
    search: bool = False,
) -> Model:
    """Fill the activation ranges from example inputs and enter the quantization-aware life.

    The model runs in its float life, in evaluation. In the ``channel`` scheme the channel
    factors are chosen from the ranges.

    The method decides about the narrow activations, those that enter a matmul. All others (16
    and 20 bits, the grids of nonlinear functions) have steps to spare and always cover all that
    was seen.

    * ``minmax``: the running minimum and maximum over all batches.
    * ``moving-average``: of each batch's minimum and maximum, as in quantization-aware training.
    * ``percentile``: the range that ``percentile`` percent of the absolute values lie in.
    * ``mse``: the range with the smallest mean squared error of rounding and saturation.
    * ``entropy``: the range whose integers keep most of the distribution's information.

    The first two see padding, too, as quantization-aware training does: batches padded far beyond
    their sentences can only widen ranges. The last three take a histogram, in a second pass over
    the batches, of the tokens that the attention mask keeps. Where a scale belongs to a channel,
    so does the choice, except for the entropy: a channel alone has too few values to compare
    distributions, so that all channels are clipped by one share of their ranges.

    Args:
        model: one of this package's models; changed in place. Ranges that it already has are
            replaced, unless a batch is refused: then the model stays as it was.
        batches: the model's arguments by name, e.g. ``{"input_ids": ..., "attention_mask":
            ...}``; 128 to 512 sentences of the kind to be expected.
        method: one of ``METHODS``.
        percentile: above 0, up to 100.
        search: whether to choose ``layernorm_migration``, the exponent of the channel factors,
            by comparing quantized outputs with float ones, rather than to take the
            configuration's; the configuration then holds the chosen one.

    Returns:
        ``model``, in evaluation.

    Raises:
        ValueError: NaN came out somewhere; there is no batch, or one that the model does not take;
            no such method, or nothing to search in this scheme.
        TypeError: what is no model; one batch in place of a list of them; an argument of the wrong
            type in one.
    """
    check_model(model)
    check_batches(batches)
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile!r}")
    network: Any = model
    if search and network.config.quantization.scheme != "channel":
        raise ValueError(
            "search chooses channel factors, which only the 'channel' scheme has, got the scheme "
            f"{network.config.quantization.scheme!r}; pass search=False"
        )
    quantized = network.config.quant_mode
    network.quantize(True)  # settings that cannot be had are refused before anything runs
    network.quantize(quantized)
    batches = iter(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("calibration needs at least one batch, got none: pass some sentences")
    batches = itertools.chain([first], batches)
    if method in SHARES or search:
        batches = list(batches)  # token ids: small beside one batch's activations
    training = [leaf for leaf in network.leaves().values() if not leaf.deterministic]
    network.quantize(False)
    network.eval()
    try:
        _observe(model, batches, moving=method == "moving-average")
    except BaseException:  # a batch that the model does not take; an interruption
        network.quantize(quantized)
        for leaf in training:
            leaf.deterministic = False
        raise
    if search:
        search_migration(model, list(batches))
    else:
        balance(model)
    if method in SHARES:
        _clip(model, batches, method, percentile)
    return network.quantize(True)


def check_batches(batches: Any) -> None:
    """Refuse one batch in place of several, whose names would pass for batches.

    Raises:
        TypeError: a mapping, or what has no elements.
    """
    if isinstance(batches, Mapping):
        raise TypeError("expected batches to be a list of batches, got one batch; put it in a list")
    check_kind("batches", batches, Iterable, "[{'input_ids': ids, 'attention_mask': mask}]")


def _observe(model: nnx.Module, batches: Batches, *, moving: bool) -> None:
    """Fill the ranges by running every batch; ``moving``: narrow ones by moving averages.

    Where that fails they are what they were.
    """
    observers: list[Any] = [m for _, m in nnx.iter_modules(model) if hasattr(m, "x_min")]
    known = [(observer.x_min[...], observer.x_max[...]) for observer in observers]
    momenta = [observer.momentum for observer in observers]
    for observer in observers:
        observer.x_min[...] = jnp.full(observer.x_min.shape, jnp.inf, jnp.float32)
        observer.x_max[...] = jnp.full(observer.x_max.shape, -jnp.inf, jnp.float32)
        moved = moving and getattr(observer, "adjustable", False)
        observer.momentum = -1 if not moved else _momentum(observer.momentum)
        observer.observing = True
    try:
        _run(model, batches)
        if any(np.isnan(observer.x_min[...]).any() for observer in observers):
            raise ValueError("calibration met NaN; training may have failed, or a batch holds it")
    except BaseException:
        for observer, (low, high) in zip(observers, known, strict=True):
            observer.x_min[...], observer.x_max[...] = low, high
        raise
    finally:
        for observer, momentum in zip(observers, momenta, strict=True):
            observer.momentum, observer.observing = momentum, False


def _momentum(configured: float) -> float:
    return MOMENTUM if configured == -1 else configured


def _run(model: nnx.Module, batches: Batches) -> None:
    """Run every batch, keeping the ranges."""
    graph, ranges, rest = nnx.split(model, RangeStatistic, ...)

    @jax.jit
    def observe(ranges: Any, rest: Any, batch: dict[str, jax.Array]) -> Any:
        merged = nnx.merge(graph, ranges, rest)
        merged(**batch)
        return nnx.state(merged, RangeStatistic)

    network: Any = model
    for batch in batches:
        network.check_batch(network.config, batch)  # where it is traced nothing can be refused
        ranges = observe(ranges, rest, {name: np.asarray(value) for name, value in batch.items()})
    nnx.update(model, ranges)


def _clip(model: nnx.Module, batches: Batches, method: str, percentile: float) -> None:
    """Make the ranges of narrow activations narrower, by their histograms."""
    acts: dict[str, Any] = {
        ".".join(map(str, path)): module
        for path, module in nnx.iter_modules(model)
        if getattr(module, "adjustable", False)
    }
    units = {path: np.maximum(np.asarray(act.covered()), 1e-30) for path, act in acts.items()}
    pooled = {
        path: method == "entropy" or act.form.granularity != "channel" for path, act in acts.items()
    }
    choose = SHARES[method]
    if method == "percentile":
        choose = partial(choose, percentile=percentile)
    for path, counts in histograms(model, batches, units, pooled=pooled).items():
        act = acts[path]
        limit = jnp.asarray(choose(counts, act.form.bits) * units[path], jnp.float32)
        # Both ends on both sides: a channel may lie wholly beyond what it is clipped to.
        act.x_min[...] = jnp.clip(act.x_min[...], -limit, limit)
        act.x_max[...] = jnp.clip(act.x_max[...], -limit, limit)
