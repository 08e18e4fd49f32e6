"""Calibration's choices and the sensitivity of leaves, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import ibert_jax as ib
from ibert_jax.cli import main
from ibert_jax.commands import freeze
from ibert_jax.quantize.calibration import METHODS
from ibert_jax.tokenizer import Tokenizer


@pytest.fixture
def sentences(tmp_path: Path) -> str:
    path = tmp_path / "sentences.txt"
    path.write_text("very good film\nbad film\ngood\nvery very bad film\n" * 4)
    return str(path)


def test_freeze_by_another_method(
    tiny_checkpoint: Path, sentences: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert freeze.METHODS == METHODS
    command = ["freeze", str(tiny_checkpoint), str(tmp_path / "out"), "--calibration", sentences]
    command += ["--method", "mse", "--ranges", "--no-certificate"]
    assert main([*command, "--max-length", "16", "--batch-size", "16"]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = {line.split()[0]: line for line in lines}
    assert table["leaf"].endswith("saturated")
    assert table["ibert.encoder.layer.0.attention.self.query_activation"].endswith("%")
    assert (tmp_path / "out" / "integer_model.json").is_file()


def test_freeze_corrects_biases_unless_told_not_to(
    tiny_checkpoint: Path, sentences: str, tmp_path: Path
) -> None:
    found = []
    for name, options in (("corrected", []), ("plain", ["--no-correct-biases"])):
        command = ["freeze", str(tiny_checkpoint), str(tmp_path / name), *options]
        command += ["--calibration", sentences, "--max-length", "16", "--no-certificate"]
        assert main(command) == 0
        found.append(load_file(tmp_path / name / "integer_model.safetensors"))
    corrected, plain = found
    changed = {name for name in plain if not np.array_equal(corrected[name], plain[name])}
    assert any(name.endswith("query.bias") for name in changed)
    assert all(name.endswith("bias") for name in changed)


def test_freeze_says_how_to_leave_the_correction_out(
    tiny_checkpoint: Path, sentences: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = ib.IBertForSequenceClassification.from_pretrained(tiny_checkpoint)
    batch = {"input_ids": np.asarray([[0, 4, 6, 2]])}
    ib.correct_biases(ib.calibrate(model, [batch]), [batch]).save_pretrained(tmp_path / "corrected")
    Tokenizer.load(tiny_checkpoint).save(tmp_path / "corrected")
    command = ["freeze", str(tmp_path / "corrected"), str(tmp_path / "out")]
    assert main([*command, "--calibration", sentences]) == 2
    assert "leave the correction out (--no-correct-biases)" in capsys.readouterr().err


def test_freeze_measures_pairs_as_pairs(tiny_checkpoint: Path, tmp_path: Path) -> None:
    words = ("very good film", "bad film", "good", "very very bad film")
    rows = [f"{a}\t{b}" for a in words for b in words]
    found = []
    for header in ("premise\thypothesis", "premise\tsentence"):  # a pair; one of two columns
        table = tmp_path / "table.tsv"
        table.write_text("\n".join([header, *rows]) + "\n")
        command = ["freeze", str(tiny_checkpoint), str(tmp_path / "out"), "--no-certificate"]
        command += ["--calibration", str(table), "--no-correct-biases"]
        assert main(command) == 0
        found.append(load_file(tmp_path / "out" / "integer_model.safetensors"))
    assert any(not np.array_equal(found[0][name], found[1][name]) for name in found[0])


def test_sensitivity(
    tiny_checkpoint: Path, sentences: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["sensitivity", str(tiny_checkpoint), "--text", sentences, "--max-length", "16"]
    assert main([*command, "--plot", str(tmp_path / "no" / "plot.png")]) == 2
    assert "a folder that exists" in capsys.readouterr().err
    plot = tmp_path / "plot.png"
    command += ["--rows", "4", "--group", "kind", "--json", "--plot", str(plot)]
    assert main(command) == 0
    found = json.loads(capsys.readouterr().out)
    kinds = {row["name"]: row for row in found["rows"]}
    assert set(kinds) == {
        "activation", "embedding", "gelu", "layernorm", "linear", "softmax", "tanh",
    }  # fmt: skip
    assert all(0 < row["alone"] < 1 for row in found["rows"])
    assert plot.stat().st_size > 5_000
