"""Quantized checkpoints of PyTorch through a model: ready to freeze, and bit for bit out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import pytest
import torch
import transformers
from safetensors.torch import load_file

from conversion import from_fairseq, to_fairseq
from conversion.pickles import load_pickle
from ibert_jax.layers.leaf import ObservingLeaf
from ibert_jax.models import IBertForSequenceClassification

from .conftest import arguments, fairseq_state


def uncalibrated(model: Any) -> list[str]:
    """The leaves that freezing would refuse."""
    return [
        path
        for path, leaf in model.leaves().items()
        if isinstance(leaf, ObservingLeaf) and leaf.needed and not leaf.calibrated
    ]


@pytest.fixture(scope="module")
def theirs(quantized: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An I-BERT as Hugging Face saves it after quantization-aware training."""
    directory = tmp_path_factory.mktemp("theirs")
    quantized.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def model(theirs: Path) -> IBertForSequenceClassification:
    return IBertForSequenceClassification.from_pretrained(theirs)


def test_nothing_is_left_to_calibrate(model: IBertForSequenceClassification):
    assert uncalibrated(model) == []
    assert (model.config.quant_mode, model.config.quantization.scheme) == (True, "reference")


def test_hugging_face_gets_every_bit_back(
    tmp_path: Path, theirs: Path, model: IBertForSequenceClassification
):
    model.save_pretrained(tmp_path)
    before, after = (load_file(d / "model.safetensors") for d in (theirs, tmp_path))
    assert before.keys() == after.keys()
    different = [
        name
        for name, tensor in before.items()
        if tensor.dtype != after[name].dtype
        or tensor.numpy().tobytes() != after[name].numpy().tobytes()
    ]
    assert different == []
    assert before["ibert.encoder.layer.1.output.dense.weight_integer"].abs().max() == 127

    kind = transformers.IBertForSequenceClassification
    loaded, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert {kind: list(found) for kind, found in info.items() if found} == {}
    assert loaded.config.quant_mode


def test_a_range_that_was_never_filled_is_not_made_up(tmp_path: Path, quantized: Any):
    leaf = quantized.ibert.encoder.layer[1].pre_output_act
    kept = leaf.x_min.clone(), leaf.x_max.clone()
    try:
        leaf.x_min.fill_(-1e-5), leaf.x_max.fill_(1e-5)
        quantized.save_pretrained(tmp_path)
    finally:
        leaf.x_min.copy_(kept[0]), leaf.x_max.copy_(kept[1])
    model = IBertForSequenceClassification.from_pretrained(tmp_path)
    assert uncalibrated(model) == ["ibert.encoder.layer.1.pre_output_act"]


def test_fairseqs_quantized_checkpoint_too(tmp_path: Path, quantized: Any):
    """Through our model, and back among the original's other tensors."""
    state = fairseq_state(quantized)
    content = {"args": arguments(quant_mode="symmetric"), "model": state}
    torch.save(content, tmp_path / "model.pt")
    from_fairseq.convert(tmp_path / "model.pt", tmp_path / "a")
    model = IBertForSequenceClassification.from_pretrained(tmp_path / "a")
    assert uncalibrated(model) == []
    last = model.ibert.encoder.layer[1].output
    assert jnp.isfinite(last.output_activation.x_max[...])

    model.save_pretrained(tmp_path / "b")
    to_fairseq.convert(tmp_path / "b", tmp_path / "back.pt", like=tmp_path / "model.pt")
    back = load_pickle(tmp_path / "back.pt")["model"]
    assert [k for k, v in state.items() if v.numpy().tobytes() != back[k].numpy().tobytes()] == []
