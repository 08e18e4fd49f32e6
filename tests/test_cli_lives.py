"""A model's whole way on the command line: trained, frozen, certified, compared, asked."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from ibert_jax.cli import build_parser, main
from ibert_jax.commands import train
from ibert_jax.training import TrainOptions

# Whether "good" or "bad" occurs: a question that a tiny model learns in a few steps.
ROWS = [
    (" ".join(words), label)
    for label, word in enumerate(("bad", "good"))
    for words in (
        ["film", word],
        [word, "film"],
        ["very", word],
        ["very", "very", word, "film"],
        [word],
        ["film", "film", word, "film"],
    )
]


def _write_rows(path: Path, rows: list[tuple[str, int]]) -> Path:
    path.write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


@pytest.fixture(scope="module")
def trained(tiny_checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run directory of a short training, float and quantization-aware."""
    folder = tmp_path_factory.mktemp("trained")
    data = _write_rows(folder / "train.tsv", ROWS * 4)
    arguments = ["train", str(tiny_checkpoint), "--train", str(data), "--dev", str(data)]
    arguments += ["--output", str(folder / "run"), "--float-epochs", "12", "--batch-size", "16"]
    arguments += ["--learning-rate", "3e-3", "--qat-learning-rate", "1e-4", "--dropout", "0"]
    arguments += ["--attention-dropout", "0", "--length-buckets", "1", "--traceback"]
    assert main(arguments) == 0
    return folder / "run"


@pytest.fixture(scope="module")
def frozen(trained: Path) -> Path:
    """The integer model of the trained one."""
    output = trained.parent / "integer"
    assert main(["freeze", str(trained / "qat"), str(output)]) == 0
    return output


def test_options_are_those_of_the_library() -> None:
    """Every field has its flag, and no default differs."""
    args = build_parser().parse_args(["train", "M", "--train", "T", "--output", "O"])
    options = TrainOptions(model="M", train_files=("T",), output="O")
    assert train.fields(args) == {
        field.name: getattr(options, field.name) for field in dataclasses.fields(options)
    }


def test_trained_model_has_learned(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary is not None
    for stage in ("float", "qat"):
        assert (trained / stage / "model.safetensors").is_file()
        assert (trained / stage / "tokenizer.json").is_file()


def test_frozen_model_answers_as_the_quantized_one(
    trained: Path, frozen: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    data = _write_rows(tmp_path / "dev.tsv", ROWS)
    models = [str(trained / "float"), str(trained / "qat"), str(frozen)]
    assert main(["eval", *models, "--data", str(data), "--json"]) == 0
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["accuracy"] == 1.0
    assert second["accuracy"] == third["accuracy"] >= 0.9
    probabilities = []
    for model in models[1:]:
        assert main(["predict", "--model", model, "--json", *(text for text, _ in ROWS)]) == 0
        lines = capsys.readouterr().out.splitlines()
        probabilities.append([json.loads(line)["probabilities"] for line in lines])
    assert probabilities[0] == probabilities[1], "the same integers, hence the same floats"


def test_freeze_after_calibration(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "sentences.txt"
    text.write_text("".join(f"{text}\n" for text, _ in ROWS))
    command = ["freeze", str(trained / "float"), str(tmp_path / "integer")]
    assert main(command) == 2
    assert "never calibrated" in capsys.readouterr().err
    assert not (tmp_path / "integer").exists()
    assert main([*command, "--calibration", str(text)]) == 0
    assert "integer model written to" in capsys.readouterr().out
    assert main(["predict", "--model", str(tmp_path / "integer"), "--json", "very good"]) == 0
    assert json.loads(capsys.readouterr().out)["label"] == "positive"


def test_frozen_twice_is_refused(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["freeze", str(frozen), str(tmp_path / "again")]) == 2
    assert "is frozen already" in capsys.readouterr().err


def test_certify(frozen: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certify", str(frozen), "--batch-size", "2", "--sequence-length", "16", "--json"]
    assert main(command) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert set(certificate["float_operations"].values()) == {0}
    assert (certificate["batch_size"], certificate["sequence_length"]) == (2, 16)


@pytest.mark.parametrize("name", ["integer_model.safetensors", "integer_model.json"])
def test_damaged_integer_models(
    frozen: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(frozen, broken)
    whole = (broken / name).read_bytes()
    (broken / name).write_bytes(whole[: len(whole) // 2])
    assert main(["predict", "--model", str(broken), "good"]) == 2
    assert name in capsys.readouterr().err
    (broken / name).unlink()
    assert main(["certify", str(broken)]) == 2
    assert name in capsys.readouterr().err


def test_training_data_with_an_unknown_label(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "train.tsv"
    data.write_text("sentence\tlabel\ngood\tpositive\nbad\tneutral\n")
    command = ["train", str(tiny_checkpoint), "--train", str(data), "--output"]
    assert main([*command, str(tmp_path / "run")]) == 2
    assert "line 3" in capsys.readouterr().err


def test_demo(
    frozen: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo's output, with a tiny model in the place of the embedded one."""
    monkeypatch.setattr("ibert_jax.inference.default_directory", lambda: frozen)
    assert main(["demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["label", "probability", "sentence"]
    table = lines[1 : lines.index("")]
    assert len(table) >= 6
    for line in table:
        label, probability, sentence = line.split(maxsplit=2)
        assert label in ("negative", "positive")
        assert 0.5 <= float(probability) <= 1
        assert len(sentence.split()) >= 4
    certificate, speed = lines[lines.index("") + 1 :]
    assert certificate.startswith("integer-only: floating-point operations in jaxpr 0/")
    assert re.match(r"[\d,]+ tokens a second, text to label, on a warm run of 512", speed)
