"""Calibration of a small model by every method."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.layernorm import IntLayerNorm
from ibert_jax.quantize.calibration import METHODS
from ibert_jax.quantize.histograms import CHANNEL_BINS, POOLED_BINS, histograms
from ibert_jax.quantize.migration import balanced_exponents, search_migration
from ibert_jax.quantize.schemes import ActivationFormat

RNG = np.random.default_rng(0)
BATCHES = [
    {
        "input_ids": RNG.integers(3, 50, (4, 9)),
        "attention_mask": (np.arange(9) < RNG.integers(2, 10, (4, 1))).astype(np.int32),
    }
    for _ in range(3)
]


def make() -> ib.IBertForSequenceClassification:
    config = ib.IBertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.3,
    )
    return ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))


def ranges(model: Any) -> dict[str, np.ndarray]:
    """The absolute range of each activation that has one."""
    return {
        path: np.asarray(leaf.absolute_range())
        for path, leaf in model.leaves().items()
        if isinstance(leaf, QuantAct) and leaf.needed
    }


@pytest.fixture(scope="module")
def widest() -> dict[str, np.ndarray]:
    return ranges(ib.calibrate(make(), BATCHES))


@pytest.mark.parametrize("method", METHODS[1:])
def test_methods_narrow_what_enters_a_matmul(method: str, widest: dict[str, np.ndarray]) -> None:
    model = make()
    assert ib.calibrate(model, iter(BATCHES), method, percentile=95) is model
    found = ranges(model)
    narrowed = set()
    for path, leaf in model.leaves().items():
        if not isinstance(leaf, QuantAct) or not leaf.needed:
            continue
        assert (found[path] <= widest[path] * (1 + 1e-6)).all(), path
        if not leaf.adjustable:
            assert np.array_equal(found[path], widest[path]), path
        if (found[path] < widest[path]).any():
            narrowed.add(path)
        assert np.isfinite(np.asarray(leaf.scale())).all()
    assert narrowed
    momenta = {leaf.momentum for leaf in model.leaves().values() if isinstance(leaf, QuantAct)}
    assert momenta == {model.config.quantization.momentum}


@pytest.mark.parametrize("method", METHODS)
def test_channels_that_never_change_their_sign(method: str) -> None:
    """Small around a large mean, as outlier channels of LayerNorms are; clipped, they stay."""
    model = make()
    for norm in (m for _, m in nnx.iter_modules(model) if isinstance(m, IntLayerNorm)):
        norm.weight[...] = norm.weight[...].at[3].set(0.01).at[5].set(0.01)
        norm.bias[...] = norm.bias[...].at[3].set(30.0).at[5].set(-30.0)
    ib.calibrate(model, BATCHES, method, percentile=80)
    for path, leaf in model.leaves().items():
        if isinstance(leaf, QuantAct) and leaf.needed:
            assert leaf.calibrated and (leaf.x_min[...] <= leaf.x_max[...]).all(), path
    assert np.unique(ib.freeze(model).integers(**BATCHES[0]).logits).size > 1


def test_what_calibrate_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match=r"method must be one of minmax, .*, got 'median'"):
        ib.calibrate(make(), BATCHES, "median")
    with pytest.raises(ValueError, match="percentile must be above 0 and at most 100, got 0"):
        ib.calibrate(make(), BATCHES, "percentile", percentile=0)
    with pytest.raises(ValueError, match="at least one batch"):
        ib.calibrate(make(), [], "mse")
    with pytest.raises(TypeError, match="a list of batches, got one batch; put it in a list"):
        ib.calibrate(make(), BATCHES[0])
    with pytest.raises(TypeError, match=r"arguments by name, .* got str; a tokenizer makes them"):
        ib.calibrate(make(), ["a good film"])  # type: ignore[list-item]


def test_a_calibration_that_met_nan_leaves_the_ranges_as_they_were(
    widest: dict[str, np.ndarray],
) -> None:
    model = ib.calibrate(make(), BATCHES)
    bias = model.ibert.encoder.layer[0].intermediate.dense.bias
    bias[...] = bias[...].at[3].set(jnp.nan)
    with pytest.raises(ValueError, match="calibration met NaN"):
        ib.calibrate(model, BATCHES)
    assert model.config.quant_mode
    for path, found in ranges(model).items():
        np.testing.assert_array_equal(found, widest[path])


class Network(nnx.Module):
    """A tensor through two activations, one scale or a scale a channel."""

    def __init__(self) -> None:
        self.whole = QuantAct(ActivationFormat(8), 6)
        self.apart = QuantAct(ActivationFormat(8, "channel"), 6)

    def __call__(self, value: jax.Array, attention_mask: jax.Array) -> Any:
        return self.apart(self.whole(value))


def test_histograms_count_the_tokens_that_count() -> None:
    value = RNG.standard_normal((2, 5, 6)).astype(np.float32)
    mask = np.array([[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]], np.int32)
    batch = {"value": jnp.asarray(value), "attention_mask": mask}
    units = {"whole": np.float32(2), "apart": np.full(6, 3, np.float32)}
    pooled = {"whole": True, "apart": False}
    counts = histograms(Network(), [batch, batch], units, pooled=pooled)
    kept = np.abs(value[mask == 1])
    want = np.histogram(np.minimum(kept / 2, 1 - 1e-6), POOLED_BINS, (0, 1))[0]
    assert np.array_equal(counts["whole"], 2 * want)
    for channel in range(6):
        shares = np.minimum(kept[:, channel] / 3, 1 - 1e-6)
        want = np.histogram(shares, CHANNEL_BINS, (0, 1))[0]
        assert np.array_equal(counts["apart"][channel], 2 * want)


def test_the_exponent_is_searched_against_the_float_outputs() -> None:
    model = make()
    # One channel speaks loudly and is hardly read: the factors have something to share out.
    layer = model.ibert.encoder.layer[0]
    norm: Any = layer.attention.output.LayerNorm
    norm.weight[...] = norm.weight[...].at[3].multiply(40.0)
    ib.calibrate(model, BATCHES, search=True)
    chosen = model.config.quantization.layernorm_migration
    assert model.ibert.config.quantization.layernorm_migration == chosen == layer.migration
    found = search_migration(model, BATCHES)
    assert found[chosen] == min(found.values()) < max(found.values())
    model = make()
    model.config = model.config.replace(quantization={"scheme": "reference"})
    with pytest.raises(ValueError, match="only the 'channel' scheme has"):
        ib.calibrate(model, BATCHES, search=True)


def test_a_failed_calibration_leaves_the_one_before() -> None:
    model = ib.calibrate(make(), BATCHES)
    before = ranges(model)
    with pytest.raises(ValueError, match="at least one batch"):
        ib.calibrate(model, [])
    with pytest.raises(ValueError, match="input_ids"):  # beyond the vocabulary
        ib.calibrate(model, [BATCHES[0], {"input_ids": np.full((1, 3), 99)}])
    assert model.config.quant_mode
    assert all(leaf.deterministic for leaf in model.leaves().values())
    model.train()
    with pytest.raises(ValueError, match="input_ids"):
        ib.calibrate(model, [{"input_ids": np.full((1, 3), 99)}])
    assert not any(leaf.deterministic for leaf in model.leaves().values())
    for path, bounds in ranges(model).items():
        np.testing.assert_array_equal(bounds, before[path])


def test_channel_factors_stay_within_twelve_octaves() -> None:
    absolute = np.float32([2.0**-30, 1, 1, 1, 2.0**30])
    found = balanced_exponents(absolute, [np.ones((2, 5), np.float32)], 1.0)
    np.testing.assert_array_equal(found, [-12, 0, 0, 0, 12])


def test_ranges_of_a_former_calibration_are_replaced() -> None:
    again, fresh = make(), make()
    table = again.get_input_embeddings().weight
    known = table[...]
    table[...] = known * 10
    ib.calibrate(again, BATCHES)
    table[...] = known
    ib.calibrate(again, BATCHES)
    ib.calibrate(fresh, BATCHES)
    for name, value in fresh.tensors().items():
        np.testing.assert_array_equal(again.tensors()[name], value, err_msg=name)
