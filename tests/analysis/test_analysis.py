"""What quantization costs, leaf by leaf, and what calibration found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.analysis.bias_correction import huber_mean
from ibert_jax.analysis.switches import switch_leaves, switchable
from ibert_jax.quantize.tensor import value_of

RNG = np.random.default_rng(0)
BATCH = {
    "input_ids": RNG.integers(3, 50, (6, 9)),
    "attention_mask": (np.arange(9) < RNG.integers(2, 10, (6, 1))).astype(np.int32),
}
SIZES: dict[str, Any] = {
    "vocab_size": 50,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 20,
    "initializer_range": 0.3,
}
COARSE = "encoder.layer.0.intermediate.dense"


@pytest.fixture(scope="module")
def model() -> ib.IBertForSequenceClassification:
    """One matrix of two bits: it must stand out."""
    config = ib.IBertConfig(
        **SIZES,
        quantization=ib.QuantConfig(overrides={COARSE: {"weight_bits": 2}}),
    )
    made = ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    return ib.calibrate(made, [BATCH])


@pytest.fixture(scope="module")
def by_leaf(model: ib.IBertForSequenceClassification) -> Any:
    labels = np.asarray(model(**BATCH).logits.value).argmax(-1)
    return ib.sensitivity(model, [{**BATCH, "labels": labels}], leaves="encoder.layer.0.*")


def test_the_coarsest_leaf_costs_most(by_leaf: Any) -> None:
    first, second = by_leaf.rows[:2]
    assert first.name == COARSE
    assert first.alone > 3 * second.alone
    assert first.without < by_leaf.everything / 2
    assert all(row.alone > 0 for row in by_leaf.rows)
    assert len(by_leaf.rows) == 19
    assert by_leaf.accuracy_everything >= 5 / 6  # the labels are what the integers say
    assert COARSE in str(by_leaf)
    assert len(by_leaf.to_dict()["rows"]) == 19


def test_it_plots(by_leaf: Any, tmp_path: Path) -> None:
    by_leaf.plot(most=5).savefig(tmp_path / "plot.png")
    assert (tmp_path / "plot.png").stat().st_size > 5_000


def test_all_switched_is_the_quantized_model(model: ib.IBertForSequenceClassification) -> None:
    network = nnx.clone(model)
    paths = list(switchable(model))
    graph, state = nnx.split(network)

    @jax.jit
    def run(state: Any, flags: jax.Array) -> jax.Array:
        network = nnx.merge(graph, state)
        switch_leaves(network, paths, flags)
        return value_of(network(**BATCH).logits)

    quantized = np.asarray(model(**BATCH).logits.value)
    exact = np.asarray(nnx.clone(model).quantize(False)(**BATCH).logits)
    assert np.allclose(run(state, np.zeros(len(paths), bool)), exact, atol=1e-5)
    distance = np.abs(quantized - exact).max()
    assert np.abs(np.asarray(run(state, np.ones(len(paths), bool))) - quantized).max() < (
        distance / 5
    )


def test_what_cannot_be_measured_is_refused(model: ib.IBertForSequenceClassification) -> None:
    with pytest.raises(ValueError, match="at least one batch"):
        ib.sensitivity(model, [])
    with pytest.raises(ValueError, match="group must be one of leaf, kind, layer or a function"):
        ib.sensitivity(model, [BATCH], group="color")
    with pytest.raises(ValueError, match=r"leaves='decoder.\*' matches no leaf"):
        ib.sensitivity(model, [BATCH], leaves="decoder.*")
    fresh = ib.IBertForSequenceClassification(model.config, rngs=nnx.Rngs(0))
    before = fresh.tensors()
    for refused in (ib.sensitivity, ib.correct_biases):
        with pytest.raises(ValueError, match="never calibrated"):
            refused(fresh, [BATCH])
    for refused in (ib.sensitivity, ib.correct_biases, ib.calibration_report):
        with pytest.raises(TypeError, match="got one batch; put it in a list"):
            refused(model, BATCH)
    assert all(np.array_equal(value, before[name]) for name, value in fresh.tensors().items())
    in_float = nnx.clone(model).quantize(False)
    with pytest.raises(TypeError, match="input_ids"):
        ib.correct_biases(in_float, [{"input_ids": "good film"}])
    assert not in_float.config.quant_mode, "in the life that it was in"


def test_the_report_of_a_calibration(model: ib.IBertForSequenceClassification) -> None:
    report = ib.calibration_report(model, [BATCH])
    rows = {row.path: row for row in report.rows}
    query = rows["ibert.encoder.layer.0.attention.self.query_activation"]
    assert (query.bits, query.granularity) == (8, "tensor")
    assert query.smallest_scale == query.largest_scale >= max(-query.low, query.high) / 127
    value = rows["ibert.encoder.layer.0.attention.self.value_activation"]
    assert value.smallest_scale < value.largest_scale
    assert all(row.saturated is not None and 0 <= row.saturated < 0.3 for row in report.rows)
    assert value.saturated > 0  # every channel's largest is at the end of its range
    assert str(report).count("\n") == len(report.rows)
    assert report.to_dicts()[0]["path"] == report.rows[0].path
    known = ib.calibration_report(model, saturated={query.path: 0.25})
    assert {row.saturated for row in known.rows} == {0.25, None}


def test_corrected_biases_bring_the_means_back(model: ib.IBertForSequenceClassification) -> None:
    corrected = nnx.clone(model)
    assert ib.correct_biases(corrected, [BATCH]) is corrected
    exact = np.asarray(nnx.clone(model).quantize(False)(**BATCH).logits)
    before, after = (
        np.abs(np.asarray(m(**BATCH).logits.value - exact).mean(axis=0)).max()
        for m in (model, corrected)
    )
    assert after < before / 2
    with pytest.raises(ValueError, match="at least one batch"):
        ib.correct_biases(nnx.clone(model), [])


def test_biases_are_corrected_once(
    model: ib.IBertForSequenceClassification, tmp_path: Path
) -> None:
    corrected = ib.correct_biases(nnx.clone(model), [BATCH])
    before = corrected.tensors()
    corrected.save_pretrained(tmp_path)
    read = ib.IBertForSequenceClassification.from_pretrained(tmp_path)
    for again in (corrected, nnx.clone(corrected), read):
        with pytest.raises(ValueError, match="corrected already; load it anew"):
            ib.correct_biases(again, [BATCH])
    assert all(np.array_equal(value, before[name]) for name, value in corrected.tensors().items())
    bias: Any = corrected.ibert.encoder.layer[0].output.dense.bias
    bias[...] = bias[...] + 1  # as training would
    ib.correct_biases(corrected, [BATCH])


def test_few_outliers_do_not_move_the_mean() -> None:
    values = RNG.standard_normal((20, 10, 3)).astype(np.float32) + np.float32(0.5)
    values[:2] += 100.0
    counted = np.ones((20, 10), np.float32)
    counted[-1], values[-1] = 0.0, np.float32(7)  # padding
    found = np.asarray(huber_mean(jnp.asarray(values), jnp.asarray(counted)))
    assert np.abs(found - np.median(values[:-1], axis=(0, 1))).max() < 0.3
    even = np.asarray(huber_mean(jnp.asarray(values[2:-1]), jnp.asarray(counted[2:-1])))
    assert np.abs(even - values[2:-1].mean((0, 1))).max() < 0.05


def test_labels_are_no_business_of_bias_correction(
    model: ib.IBertForSequenceClassification,
) -> None:
    labelled = {**BATCH, "labels": np.zeros(6, np.int64)}
    one, other = (
        ib.correct_biases(nnx.clone(model), [batch]).classifier.dense.bias[...]
        for batch in (BATCH, labelled)
    )
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("labels", [np.ones(6, np.float32), np.ones((6, 2), np.int32)])
def test_quantities_and_flags_have_no_accuracy(
    model: ib.IBertForSequenceClassification, labels: np.ndarray
) -> None:
    found = ib.sensitivity(model, [{**BATCH, "labels": labels}], leaves=COARSE)
    assert found.accuracy_everything is None


@pytest.mark.parametrize("length", [9, 16])
def test_padding_does_not_saturate(length: int) -> None:
    """Whatever the model's shapes are like: choices in a row, a length that is the width."""
    config = ib.IBertConfig(
        **SIZES,
    )
    for kind, shape in (
        (ib.IBertForSequenceClassification, (6, length)),
        (ib.IBertForMultipleChoice, (3, 2, length)),
    ):
        batch = {
            "input_ids": RNG.integers(3, 50, shape),
            "attention_mask": (np.arange(length) < RNG.integers(2, 10, (*shape[:-1], 1))) * 1,
        }
        made = ib.calibrate(kind(config, rngs=nnx.Rngs(0)), [batch])
        told = {row.path: row.saturated for row in ib.calibration_report(made, [batch]).rows}
        certified = ib.certify(ib.freeze(made), 2, 8, batches=[batch], overflow=False).saturation
        assert {path: told[path] for path in certified} == pytest.approx(certified)
        counted = int(batch["attention_mask"].sum()) * 16
        share = certified[next(path for path in certified if path.endswith("layer.0.input_act"))]
        assert share * counted == pytest.approx(round(share * counted))
