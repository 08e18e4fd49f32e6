"""Every head from Hugging Face's files and back: the same numbers, no key too many or too few."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import torch
import transformers
from flax import nnx

import ibert_jax as ib
from ibert_jax.checkpoints import CheckpointError, keys
from ibert_jax.quant_config import SCHEMES

from .oracle import HEADS, SMALL, make, our_inputs, run_torch

BATCH = our_inputs(np.random.default_rng(3), vocab=60, batch=2, length=6)


def load(task: str, directory: Path) -> Any:
    """Hugging Face's I-BERT, which must find each of its tensors and no other."""
    model, info = getattr(transformers, f"IBert{task}").from_pretrained(
        directory, output_loading_info=True
    )
    assert {kind: list(keys) for kind, keys in info.items() if keys} == {}
    return model.eval()


@pytest.mark.parametrize(
    ("family", "task"),
    [
        *((family, task) for family in ("IBert", "Bert") for task in HEADS),
        ("Roberta", "ForMaskedLM"),  # I-BERT's names but for the prefix
        ("Roberta", "ForMultipleChoice"),
    ],
)
def test_every_head_of_every_family_comes_and_goes(
    family: str, task: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = make(family, task)
    theirs.save_pretrained(tmp_path / "theirs")
    with caplog.at_level(logging.WARNING):
        ours = getattr(ib, f"IBert{task}").from_pretrained(tmp_path / "theirs")
    assert "newly initialised" not in caplog.text
    ours.save_pretrained(tmp_path / "ours")
    back = load(task, tmp_path / "ours")
    batch = BATCH if task != "ForMultipleChoice" else {k: v[None] for k, v in BATCH.items()}
    want, got = run_torch(theirs, batch), run_torch(back, batch)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, rtol=0, atol=2e-6, err_msg=name)
    if family == "IBert":  # nothing is translated, so nothing may change
        a, b = (
            safetensors.numpy.load_file(tmp_path / x / "model.safetensors")
            for x in ("theirs", "ours")
        )
        assert a.keys() == b.keys()
        for name, value in a.items():
            np.testing.assert_array_equal(b[name], value, err_msg=name)


def rewrite(directory: Path, change: Any) -> None:
    path = directory / "model.safetensors"
    tensors = safetensors.numpy.load_file(path)
    change(tensors)
    safetensors.numpy.save_file(tensors, path, metadata={"format": "pt"})


def test_a_tied_decoder_may_be_stored_and_must_be_the_table(tmp_path: Path) -> None:
    theirs = make("Roberta", "ForMaskedLM")
    theirs.save_pretrained(tmp_path)
    table, bias = "roberta.embeddings.word_embeddings.weight", "lm_head.bias"

    def store_copies(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.decoder.weight"] = tensors[table].copy()
        tensors["lm_head.decoder.bias"] = tensors.pop(bias)  # the copy alone serves, too

    rewrite(tmp_path, store_copies)
    model = ib.IBertForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(
        model.tensors()["lm_head.bias"], theirs.lm_head.bias.detach().numpy()
    )
    assert "lm_head.decoder.weight" not in model.tensors()

    def untie(tensors: dict[str, np.ndarray]) -> None:
        tensors["lm_head.decoder.weight"] += 1

    rewrite(tmp_path, untie)
    with pytest.raises(CheckpointError, match=r"lm_head\.decoder\.weight differs from embeddings"):
        ib.IBertForMaskedLM.from_pretrained(tmp_path)
    ib.IBertModel.from_pretrained(tmp_path)  # needs no decoder


def test_the_classifier_of_another_task_is_not_taken(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Three heads call theirs ``classifier.weight``; here even the shapes agree."""
    theirs = make("IBert", "ForTokenClassification", num_labels=1)
    theirs.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        ours = ib.IBertForMultipleChoice.from_pretrained(tmp_path)
    assert "classifier.weight" in caplog.text and "pooler.dense.weight" in caplog.text
    other = theirs.classifier.weight.detach().numpy()
    assert not np.array_equal(ours.tensors()["classifier.weight"], other)


@pytest.mark.parametrize("task", HEADS)
def test_a_calibrated_model_is_read_for_any_head(task: str, tmp_path: Path) -> None:
    """With the ranges of the encoder; those of its own head go where there is no place for them."""
    make("IBert", "ForTokenClassification").save_pretrained(tmp_path)
    model = ib.IBertForTokenClassification.from_pretrained(tmp_path)
    ib.calibrate(model, [BATCH]).save_pretrained(tmp_path)
    found = getattr(ib, f"IBert{task}").from_pretrained(tmp_path).tensors()
    own = [name for name in model.tensors() if name.startswith(("embeddings.", "encoder."))]
    assert any(name.endswith("x_min") for name in own)
    for name in own:
        np.testing.assert_array_equal(found[name], model.tensors()[name], err_msg=name)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("head", keys.HEADS)
def test_the_ranges_that_are_written_are_those_of_the_models(head: str, scheme: str) -> None:
    """So a model's own are never refused, and what is written is never refused when it is read."""
    sizes = {name: SMALL[name] for name in ("vocab_size", "hidden_size", "num_hidden_layers")}
    sizes |= {"num_attention_heads": 3, "intermediate_size": 40}
    config = ib.IBertConfig(**sizes, quantization=ib.QuantConfig(scheme=scheme))
    model = getattr(ib, keys.HEADS[head].architecture)(config, rngs=nnx.Rngs(0))
    held = {
        name: tensor.shape
        for name, tensor in model.tensors().items()
        if name.endswith(keys.STATISTICS)
    }
    assert keys.activation_ranges(config, head) == held


def test_an_encoder_without_its_pooler(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    theirs = make("Roberta", "ForMaskedLM").roberta
    theirs.save_pretrained(tmp_path)  # has no pooler
    with caplog.at_level(logging.WARNING):
        ours = ib.IBertModel.from_pretrained(tmp_path, add_pooling_layer=False)
    assert ours.pooler is None
    assert "newly initialised" not in caplog.text
    ib.IBertModel.from_pretrained(tmp_path).save_pretrained(tmp_path / "with")
    again = ib.IBertModel.from_pretrained(tmp_path / "with", add_pooling_layer=False)
    assert again.tensors().keys() == ours.tensors().keys()


def test_pretraining_heads_of_bert(tmp_path: Path) -> None:
    config = make("Bert", "ForMaskedLM").config
    torch.manual_seed(5)
    theirs = transformers.BertForPreTraining(config).eval()
    theirs.save_pretrained(tmp_path)
    ours = ib.IBertForMaskedLM.from_pretrained(tmp_path).tensors()
    mine = {"dense": "transform.dense", "layer_norm": "transform.LayerNorm"}
    weights = theirs.state_dict()
    for name, their_name in mine.items():
        for end in ("weight", "bias"):
            np.testing.assert_array_equal(
                ours[f"lm_head.{name}.{end}"], weights[f"cls.predictions.{their_name}.{end}"]
            )
    np.testing.assert_array_equal(ours["lm_head.bias"], weights["cls.predictions.bias"])
