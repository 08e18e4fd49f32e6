"""Exported programs: the same integers, from JAX alone, whatever batch and length."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

import ibert_jax as ib
from ibert_jax.cli import main
from ibert_jax.deploy import export

ALONE = """
import sys, json, jax, numpy
from safetensors.numpy import load_file
folder = sys.argv[1]
told = json.load(open(f"{folder}/integer_program.json"))
golden = load_file(f"{folder}/golden.safetensors")
program = jax.export.deserialize(bytearray(open(f"{folder}/integer_program.jax", "rb").read()))
found = program.call(*(golden[name] for name in told["arguments"]))
for name in told["outputs"]:
    assert numpy.array_equal(found[name], golden[name]), name
    assert golden[name].any(), name
assert "ibert_jax" not in sys.modules and "flax" not in sys.modules
"""
SIZES = {
    "vocab_size": 90,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 42,
    "initializer_range": 0.3,
}


def frozen(kind: type, scheme: str, **settings: int) -> ib.IntegerModel:
    config = ib.IBertConfig(**SIZES, **settings, quantization=ib.QuantConfig(scheme=scheme))
    model = kind(config, rngs=nnx.Rngs(0))
    shape = model.input_shape(4, 12)
    ids = np.random.default_rng(1).integers(3, 90, shape)
    return ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))


@pytest.fixture(scope="module")
def program() -> ib.IntegerModel:
    return frozen(ib.IBertForSequenceClassification, "channel", type_vocab_size=2)


@pytest.fixture(scope="module")
def folder(program: ib.IntegerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("export")
    program.save(base / "model")
    assert main(["export", str(base / "model"), str(base / "exported")]) == 0
    return base / "exported"


def test_jax_alone_gives_the_golden_integers(folder: Path) -> None:
    # Elsewhere, so that the checkout is not on the path of imports.
    subprocess.run([sys.executable, "-c", ALONE, "."], check=True, cwd=folder)


def test_every_shape_gives_the_same_integers(folder: Path, program: ib.IntegerModel) -> None:
    exported = jax.export.deserialize(bytearray((folder / "integer_program.jax").read_bytes()))
    draw = np.random.default_rng(2)
    for shape in ((1, 40), (5, 3)):
        ids, types = (draw.integers(0, n, shape).astype(np.int32) for n in (90, 2))
        mask = (np.arange(shape[1]) < draw.integers(0, shape[1] + 1, (shape[0], 1))).astype("i4")
        got = exported.call(ids, mask, types)["logits"]
        want = program.integers(ids, attention_mask=mask, token_type_ids=types).logits
        np.testing.assert_array_equal(got, want)


def test_no_float_is_in_it(folder: Path) -> None:
    exported = jax.export.deserialize(bytearray((folder / "integer_program.jax").read_bytes()))
    text = exported.mlir_module()
    assert "stablehlo.dot_general" in text
    assert not any(f"x{kind}>" in text or f"<{kind}>" in text for kind in ("f16", "bf16", "f32"))


def test_the_description_has_what_the_integers_mean(folder: Path, program: ib.IntegerModel) -> None:
    told = json.loads((folder / "integer_program.json").read_text())
    assert told["arguments"] == {
        name: ["batch", "length"] for name in ("input_ids", "attention_mask", "token_type_ids")
    }
    assert told["outputs"] == {
        "logits": {"dtype": "int32", "scale": program.scale_of("logits")},
    }
    assert told["model_hash"] == program.sha256()
    golden = load_file(folder / "golden.safetensors")
    assert set(golden) == {*told["arguments"], *told["outputs"]}


def test_choices_and_the_published_scheme(tmp_path: Path) -> None:
    choices = frozen(ib.IBertForMultipleChoice, "reference", type_vocab_size=1)
    export(choices, tmp_path)
    told = json.loads((tmp_path / "integer_program.json").read_text())
    assert told["arguments"]["input_ids"] == ["batch", "choices", "length"]
    subprocess.run([sys.executable, "-c", ALONE, "."], check=True, cwd=tmp_path)


def test_floats_are_refused(program: ib.IntegerModel, tmp_path: Path) -> None:
    config = dataclasses.replace(program.config, force_dequant="gelu")
    with pytest.raises(ValueError, match="freeze a model with 'none'"):
        export(dataclasses.replace(program, config=config), tmp_path)
