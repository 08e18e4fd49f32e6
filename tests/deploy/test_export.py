"""Exported programs: the same integers from JAX alone and ONNX Runtime, whatever the shape."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import onnx
import onnxruntime
import pytest
from flax import nnx
from safetensors.numpy import load_file

import ibert_jax as ib
from ibert_jax.cli import main
from ibert_jax.deploy import export
from ibert_jax.models import layer_stack

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
    config = ib.IBertConfig(**{**SIZES, **settings}, quantization=ib.QuantConfig(scheme=scheme))
    model = kind(config, rngs=nnx.Rngs(0))
    shape = model.input_shape(4, 12)
    ids = np.random.default_rng(1).integers(3, 90, shape)
    return ib.freeze(ib.calibrate(model, [{"input_ids": ids}]))


@pytest.fixture(scope="module", autouse=True)
def as_in_larger_models() -> Iterator[None]:
    """The layers' matrices are arrays of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_stack, "LARGE", 0)
        yield


@pytest.fixture(scope="module")
def program() -> ib.IntegerModel:
    return frozen(ib.IBertForSequenceClassification, "channel", type_vocab_size=2)


@pytest.fixture(scope="module")
def folder(program: ib.IntegerModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("export")
    program.save(base / "model")
    command = ["export", str(base / "model"), str(base / "exported"), "--format", "jax", "onnx"]
    assert main(command) == 0
    return base / "exported"


def test_a_file_in_its_place_is_refused_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(["export", "no_such_model", str(tmp_path / "file")]) == 2
    assert "expected a folder to write" in capsys.readouterr().err


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


def run_onnx(folder: Path, arguments: list[np.ndarray]) -> dict[str, np.ndarray]:
    told = json.loads((folder / "integer_program.json").read_text())
    session = onnxruntime.InferenceSession(folder / "integer_program.onnx")
    given = dict(zip(told["arguments"], arguments, strict=True))
    return dict(zip(told["outputs"], session.run([*told["outputs"]], given), strict=True))


def test_onnx_runtime_gives_the_same_integers(folder: Path, program: ib.IntegerModel) -> None:
    draw = np.random.default_rng(3)
    for shape in ((1, 40), (5, 3)):
        ids, types = (draw.integers(0, n, shape).astype(np.int32) for n in (90, 2))
        mask = (np.arange(shape[1]) < draw.integers(0, shape[1] + 1, (shape[0], 1))).astype("i4")
        got = run_onnx(folder, [ids, mask, types])["logits"]
        want = program.integers(ids, attention_mask=mask, token_type_ids=types).logits
        assert got.dtype == np.int32
        np.testing.assert_array_equal(got, want)


def test_onnx_runtime_refuses_what_the_program_refuses(folder: Path) -> None:
    one = np.ones((1, 4), np.int32)
    too_long = np.full((1, 41), 5, np.int32)
    for ids in (np.full((1, 4), 90, np.int32), np.full((1, 4), -91, np.int32), too_long):
        with pytest.raises(Exception, match="indices element out of data bounds"):
            run_onnx(folder, [ids, np.ones_like(ids), np.zeros_like(ids)])
    run_onnx(folder, [one, one, 0 * one])


def test_onnx_runtime_has_an_exact_kernel_for_every_product_everywhere(folder: Path) -> None:
    """For uint8 by int8 it saturates sums of two products on x86 without VNNI."""
    graph = onnx.load(folder / "integer_program.onnx").graph
    kinds = {c.name: c.data_type for c in graph.initializer}
    casts = {n.output[0]: n.attribute[0].i for n in graph.node if n.op_type == "Cast"}
    products = [node for node in graph.node if node.op_type == "MatMulInteger"]
    assert len(products) > 12
    for node in products:
        assert len(node.input) == 4
        assert {kinds[name] for name in node.input[2:]} == {onnx.TensorProto.UINT8}
        right = node.input[1]
        assert (kinds.get(right) or casts[right]) == onnx.TensorProto.UINT8


def test_onnx_holds_no_float(folder: Path) -> None:
    model = onnx.load(folder / "integer_program.onnx")
    onnx.checker.check_model(model)
    floats = {onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE}
    assert not any(tensor.data_type in floats for tensor in model.graph.initializer)
    casts = [a.i for n in model.graph.node for a in n.attribute if n.op_type == "Cast"]
    assert casts and not floats & set(casts)
    products = [node for node in model.graph.node if "MatMul" in node.op_type]
    assert {node.op_type for node in products} == {"MatMulInteger"}
    # Six linear layers, scores and context in each of two layers, and the two of the head.
    assert len(products) == 2 * 8 + 2


@pytest.mark.parametrize(
    "kind",
    [
        ib.IBertForMultipleChoice,
        ib.IBertForMaskedLM,
        ib.IBertForQuestionAnswering,
        ib.IBertForTokenClassification,
        ib.IBertModel,
    ],
)
def test_other_heads_in_the_published_scheme(
    kind: type, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layer_stack, "LARGE", 2**20)  # stacked whole
    program = frozen(kind, "reference", type_vocab_size=1, num_hidden_layers=2)
    export(program, tmp_path, ["onnx"])
    told = json.loads((tmp_path / "integer_program.json").read_text())
    dimensions = ["choices"] if kind is ib.IBertForMultipleChoice else []
    assert told["arguments"]["input_ids"] == ["batch", *dimensions, "length"]
    golden = load_file(tmp_path / "golden.safetensors")
    found = run_onnx(tmp_path, [golden[name] for name in told["arguments"]])
    for name in told["outputs"]:
        assert golden[name].any()
        assert str(golden[name].dtype) == told["outputs"][name]["dtype"]
        assert found[name].shape == golden[name].shape
        np.testing.assert_array_equal(found[name], golden[name])


def test_unknown_formats_are_refused(program: ib.IntegerModel, tmp_path: Path) -> None:
    for formats in ([], ["tflite"]):
        with pytest.raises(ValueError, match="expected formats of jax, onnx"):
            export(program, tmp_path, formats)


def test_floats_are_refused(program: ib.IntegerModel, tmp_path: Path) -> None:
    config = dataclasses.replace(program.config, force_dequant="gelu")
    with pytest.raises(ValueError, match="freeze a model with 'none'"):
        export(dataclasses.replace(program, config=config), tmp_path)


def test_another_model_s_export_is_replaced(program: ib.IntegerModel, tmp_path: Path) -> None:
    stale = tmp_path / "integer_program.onnx"
    export(program, tmp_path)
    stale.write_bytes(b"written by an export of the same model")
    export(program, tmp_path)
    assert stale.exists()
    export(frozen(ib.IBertForTokenClassification, "channel"), tmp_path)
    assert not stale.exists()


def test_an_export_that_fails_leaves_what_was_there(
    program: ib.IntegerModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(program, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="full"):
        export(frozen(ib.IBertForTokenClassification, "channel"), tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def full_disk(_: int) -> None:
    raise OSError(errno.ENOSPC, "full")
