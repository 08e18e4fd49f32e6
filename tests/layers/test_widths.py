"""Bits for each kind of tensor and for each leaf: from the configuration to the certificate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax import spec_network
from ibert_jax.layers.activation import IntegerAct, IntegerNarrowAct, of_one_structure
from ibert_jax.layers.widths import set_widths
from ibert_jax.proof.intervals import Bounded, analyze
from ibert_jax.proof.lemmas import LEMMAS
from ibert_jax.quantize.constants import multiplier

IDS = np.random.default_rng(0).integers(3, 50, (3, 9))
QUERY = "encoder.layer.{}.attention.self.query"


def make(**quantization: Any) -> ib.IBertForSequenceClassification:
    config = ib.IBertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=16,
        initializer_range=0.2,
        quantization=ib.QuantConfig(**quantization),
    )
    return ib.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))


def test_narrow_leaves_from_calibration_to_certificate(tmp_path: Path) -> None:
    model = make(
        weight_bits=5,
        overrides={
            "encoder.layer.1.*": {"activation_bits": 4},
            QUERY.format(1): {"weight_bits": 2},
            "embeddings.word_embeddings": {"weight_bits": 3},
        },
    )
    ib.calibrate(model, [{"input_ids": IDS}])
    program = ib.freeze(model)
    layers = program.network.ibert.encoder.stacked.attention.self
    assert [np.abs(w).max() for w in layers.query.weight] == [15, 1]
    assert [np.abs(w).max() for w in layers.key.weight] == [15, 15]
    assert np.abs(program.network.ibert.embeddings.word_embeddings.weight).max() == 3
    assert np.abs(program.network.classifier.dense.weight).max() == 15
    assert list(layers.query_activation.highest) == [127, 7]

    tokens = (Bounded(IDS.shape, np.int32, 0, 49), Bounded(IDS.shape, np.int32, 0, 1))
    proof = analyze(
        lambda p, ids, mask: p.integers(ids, attention_mask=mask),
        program, *tokens, contracts=LEMMAS,
    )  # fmt: skip
    assert proof.ok
    proved = {t.name: (t.lo, t.hi) for t in proof.tensors}
    query = [proved[f"ibert.{QUERY.format(n)}_activation"] for n in range(2)]
    assert query == [(-128, 127), (-8, 7)]

    program.save(tmp_path / "frozen")
    again = ib.IntegerModel.load(tmp_path / "frozen")
    assert again.sha256() == program.sha256()
    assert again.config == program.config
    model.save_pretrained(tmp_path / "checkpoint")
    loaded = ib.IBertForSequenceClassification.from_pretrained(tmp_path / "checkpoint")
    assert loaded.config.quantization == model.config.quantization


def test_widths_of_a_stack_are_the_specification() -> None:
    scales = [0.31, 0.02]
    acts = [
        IntegerAct((multiplier(np.float32(s), np.float32(0.5), wide=False),), bits)
        for s, bits in zip(scales, (8, 3), strict=True)
    ]
    q = np.arange(-400, 400, dtype=np.int32).reshape(100, 8)
    for act, made in zip(acts, of_one_structure(acts), strict=True):
        assert isinstance(made, IntegerNarrowAct)
        assert np.array_equal(made(q), act(q))
        fields = {name: np.asarray(v).tolist() for name, v in vars(made.multiplier).items()}
        leaf = {"multiplier": fields, "highest": int(made.highest), "bits": made.bits}
        assert spec_network.narrow_activation(leaf, q.tolist()) == np.asarray(made(q)).tolist()
    assert of_one_structure(acts[:1] * 2) == acts[:1] * 2


def test_widths_follow_the_configuration_back() -> None:
    model = make(weight_bits=4, activation_bits=6)
    set_widths(model, model.config.quantization)
    leaves: Any = model.leaves()
    act, dense = (leaves[f"ibert.{QUERY.format(0)}{end}"] for end in ("_activation", ""))
    residual = leaves["ibert.encoder.layer.0.output.ln_input_act"]
    assert (act.form.bits, dense.bits, residual.form.bits) == (6, 4, 20)
    set_widths(model, ib.QuantConfig())
    assert (act.form.bits, dense.bits, residual.form.bits) == (8, 8, 20)


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"encoder.layer.7.*": {"weight_bits": 4}}, r"'encoder.layer.7.\*' matches no leaf"),
        ({"*.LayerNorm": {"weight_bits": 4}}, "nothing it matches has bits of that kind"),
        ({"*.ln_input_act": {"activation_bits": 4}}, "nothing it matches has bits of that kind"),
    ],
)
def test_overrides_without_effect_are_refused(overrides: dict[str, Any], sentence: str) -> None:
    model = make(overrides=overrides)
    with pytest.raises(ValueError, match=sentence):
        ib.calibrate(model, iter(lambda: pytest.fail("refused before anything runs"), None))
