"""What a public function is given in place of a model, a program or keys is named at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.checkpoints import write_checkpoint

CONFIG = ib.IBertConfig(
    vocab_size=20,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=10,
)
IDS = np.full((1, 3), 5)
BATCHES = [{"input_ids": IDS}]
MODEL = ib.IBertModel(CONFIG, rngs=nnx.Rngs(0))


def in_training(**arguments: Any) -> Any:
    model = nnx.clone(MODEL)
    model.train()
    return model(IDS, **arguments)


TAKERS: dict[str, tuple[Callable[[Any], object], str]] = {
    "calibrate": (lambda x: ib.calibrate(x, BATCHES), "a model"),
    "calibration_report": (ib.calibration_report, "a model"),
    "correct_biases": (lambda x: ib.correct_biases(x, BATCHES), "a model"),
    "sensitivity": (lambda x: ib.sensitivity(x, BATCHES), "a model"),
    "freeze": (ib.freeze, "a model"),
    "first_divergence": (lambda x: ib.first_divergence(x, x, IDS), "a model"),
    "certify": (ib.certify, "an integer program"),
    "export": (lambda x: ib.export(x, "nowhere"), "an integer program"),
    "Predictor": (lambda x: ib.Predictor(x, None), "a program or a model"),  # type: ignore[arg-type]
    "tokenizer of a Predictor": (lambda x: ib.Predictor(MODEL, x), "a tokenizer"),
    "finetune": (ib.finetune, "options"),
    "configuration of an encoder": (lambda x: ib.IBertModel(x, rngs=nnx.Rngs(0)), "a configurat"),
    "configuration of a head": (
        lambda x: ib.IBertForQuestionAnswering(x, rngs=nnx.Rngs(0)),
        "a configuration",
    ),
    "rngs of an encoder": (lambda x: ib.IBertModel(CONFIG, rngs=x), "rngs"),
    "rngs of a head": (lambda x: ib.IBertForMaskedLM(CONFIG, rngs=x), "rngs"),
    "rngs of dropout": (lambda x: in_training(rngs=x), "rngs"),
    "write_checkpoint": (lambda x: write_checkpoint("nowhere", x, {}), "a configuration"),
    "tensors of write_checkpoint": (lambda x: write_checkpoint("nowhere", CONFIG, x), "tensors"),
}


@pytest.mark.parametrize("wrong", [0, "good film", object, nnx.Linear(2, 3, rngs=nnx.Rngs(0))])
@pytest.mark.parametrize("name", TAKERS)
def test_it_is_named(name: str, wrong: Any) -> None:
    take, expected = TAKERS[name]
    got = "the class object" if wrong is object else type(wrong).__name__
    with pytest.raises(TypeError, match=f"^expected {expected}.*, got {got}$"):
        take(wrong)


def test_a_model_that_is_not_frozen_is_no_program_and_the_reverse(tmp_path: Path) -> None:
    program = ib.freeze(ib.calibrate(nnx.clone(MODEL), BATCHES))
    for take in (ib.certify, lambda x: ib.export(x, tmp_path)):
        with pytest.raises(TypeError, match=r"such as ib\.freeze\(model\), got IBertModel$"):
            take(MODEL)
    for take in (ib.freeze, lambda x: ib.calibrate(x, BATCHES)):
        with pytest.raises(TypeError, match=r"expected a model, .* got IntegerModel$"):
            take(program)
    with pytest.raises(TypeError, match=r"such as ib\.certify\(program\), got dict$"):
        program.save(tmp_path, {"ok": True})
    assert not list(tmp_path.iterdir())


def test_a_seed_is_refused_before_a_checkpoint_is_read() -> None:
    with pytest.raises(TypeError, match=r"expected rngs, such as nnx\.Rngs\(0\), got int$"):
        ib.IBertModel.from_pretrained("nowhere", rngs=0)  # type: ignore[arg-type]


def test_batches_are_named() -> None:
    model = ib.calibrate(nnx.clone(MODEL), BATCHES)
    for take in (ib.calibrate, ib.correct_biases, ib.sensitivity, ib.calibration_report):
        with pytest.raises(TypeError, match=r"^expected batches, .*, got int$"):
            take(model, 3)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"^expected a batch of .* got str; "):
            take(model, ["a good film"])  # type: ignore[list-item]
