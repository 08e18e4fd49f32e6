"""A model's whole way on the command line: trained, frozen, compared, certified, shown."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from ibert_jax.analysis import correct_biases
from ibert_jax.cli import build_parser, main
from ibert_jax.commands import train
from ibert_jax.commands.texts import read_sample
from ibert_jax.models import IBertForSequenceClassification
from ibert_jax.quantize import calibrate
from ibert_jax.tokenizer import Tokenizer
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
    """The float model of a short training; the second stage has its own tests."""
    folder = tmp_path_factory.mktemp("trained")
    data = _write_rows(folder / "train.tsv", ROWS * 4)
    arguments = ["train", str(tiny_checkpoint), "--train", str(data), "--dev", str(data)]
    arguments += ["--output", str(folder / "run"), "--float-epochs", "12", "--qat-epochs", "0"]
    arguments += ["--learning-rate", "3e-3", "--batch-size", "16", "--length-buckets", "1"]
    assert main([*arguments, "--dropout", "0", "--attention-dropout", "0", "--traceback"]) == 0
    return folder / "run" / "float"


@pytest.fixture(scope="module")
def sentences(trained: Path) -> Path:
    """Text to calibrate on."""
    path = trained.parent.parent / "sentences.txt"
    path.write_text("".join(f"{text}\n" for text, _ in ROWS))
    return path


@pytest.fixture(scope="module")
def frozen(trained: Path, sentences: Path) -> Path:
    """The integer model of the trained one."""
    output = trained.parent.parent / "integer"
    assert main(["freeze", str(trained), str(output), "--calibration", str(sentences)]) == 0
    return output


@pytest.fixture(scope="module")
def quantized(trained: Path, sentences: Path) -> Path:
    """The trained model with the ranges that `frozen` was given, as a checkpoint."""
    output = trained.parent.parent / "quantized"
    model = IBertForSequenceClassification.from_pretrained(trained)
    tokenizer = Tokenizer.load(trained)
    args = build_parser().parse_args(["freeze", "", ""])
    rows = args.calibration_rows
    sample = read_sample(sentences, None, rows, model, tokenizer, None)
    batches = list(sample.batches(args.batch_size))
    correct_biases(calibrate(model, batches), batches).save_pretrained(output)
    tokenizer.save(output)
    return output


def test_options_are_those_of_the_library() -> None:
    """Every field has its flag, and no default differs."""
    args = build_parser().parse_args(["train", "M", "--train", "T", "--output", "O"])
    options = TrainOptions(model="M", train_files=("T",), output="O")
    given = train.fields(args)
    assert given.keys() == {field.name for field in dataclasses.fields(options)}
    assert TrainOptions(**given) == options


def test_patterns_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train", "M", "--train", "T", "--output", "O", "--rate-factors", "a.*=10", "b=0"]
    words += ["--bit-overrides", "encoder.layer.0.*:activation_bits=4"]
    options = TrainOptions(**train.fields(build_parser().parse_args(words)))
    assert options.rate_factors == (("a.*", 10.0), ("b", 0.0))
    assert options.bit_overrides == (("encoder.layer.0.*", {"activation_bits": 4}),)
    for wrong, said in (("a=b", "a pattern and a number"), ("a:weight_bits", "and its bits")):
        flag = "--bit-overrides" if ":" in wrong else "--rate-factors"
        with pytest.raises(SystemExit):
            build_parser().parse_args([*words, flag, wrong])
        assert said in capsys.readouterr().err


def test_the_three_lives_agree(
    trained: Path,
    quantized: Path,
    frozen: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = _write_rows(tmp_path / "dev.tsv", ROWS)
    models = [str(trained), str(quantized), str(frozen)]
    assert main(["eval", *models, "--data", str(data), "--json"]) == 0
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["accuracy"] == 1.0
    assert second["accuracy"] == third["accuracy"] >= 0.9
    answers = []
    for model in models[1:]:
        assert main(["predict", "--model", model, "--json", *(text for text, _ in ROWS)]) == 0
        answers.append(capsys.readouterr().out)
    assert answers[0] == answers[1], "the same integers, hence the same floats"


def test_freezing_needs_calibration(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["freeze", str(trained), str(tmp_path / "integer")]) == 2
    message = capsys.readouterr().err
    assert "never calibrated" in message
    assert "--calibration" in message
    assert not (tmp_path / "integer").exists()


def test_freezing_is_refused_before_anything_is_read(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def message(*arguments: str) -> str:
        assert main(["freeze", *arguments]) == 2
        return capsys.readouterr().err

    output = str(tmp_path / "integer")
    assert "beside --method" in message(str(trained), output, "--method", "mse")
    assert "nowhere.txt is none" in message(
        "no_such_model", output, "--calibration", str(tmp_path / "nowhere.txt")
    )
    (tmp_path / "file").touch()
    assert "to write" in message("no_such_model", str(tmp_path / "file" / "integer"))
    before = sorted(trained.iterdir())
    for same in (trained, trained / ".." / trained.name):
        assert "holds a checkpoint, which" in message(str(trained), str(same))
    assert sorted(trained.iterdir()) == before
    assert main(["certify", "--save"]) == 2
    assert "a model beside --save" in capsys.readouterr().err


def test_frozen_twice_is_refused(
    frozen: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["freeze", str(frozen), str(tmp_path / "again")]) == 2
    assert "is frozen already" in capsys.readouterr().err


def test_certify(frozen: Path, sentences: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["certify", str(frozen), "--batch-size", "2", "--sequence-length", "16"]
    command += ["--json", "--save", "--text", str(sentences)]
    assert main(command) == 0
    certificate = json.loads(capsys.readouterr().out)
    assert set(certificate["float_operations"].values()) == {0}
    assert (certificate["batch_size"], certificate["sequence_length"]) == (2, 16)
    assert certificate["overflow"]["problems"] == []
    assert all(0 <= share <= 1 for share in certificate["saturation"].values())
    assert "ibert.encoder.layer.0.input_act" in certificate["saturation"]
    assert json.loads((frozen / "certificate.json").read_text()) == certificate


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
    certificate, overflow, speed = lines[lines.index("") + 1 :]
    assert overflow.startswith("no overflow: ")
    assert certificate.startswith("integer-only: floating-point operations in jaxpr 0/")
    assert re.match(r"[\d,]+ tokens a second, text to label, on a warm run of 512", speed)


def test_entities_on_the_whole_way(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A task of another head: its table, labels and tokenizer travel with the model."""
    data = tmp_path / "train.conll"
    tags = {"good": "B-praise", "bad": "B-blame", "film": "O", "very": "O"}
    data.write_text(
        "\n".join("".join(f"{w}\t{tags[w]}\n" for w in text.split()) for text, _ in ROWS * 4)
    )
    (tmp_path / "task.toml").write_text('kind = "token_classification"\nmax_length = 12\n')
    run = tmp_path / "run"
    command = ["train", str(tiny_checkpoint), "--task", str(tmp_path / "task.toml")]
    command += ["--train", str(data), "--dev", str(data), "--output", str(run)]
    command += ["--float-epochs", "12", "--learning-rate", "3e-3", "--select-best", "--dropout"]
    command += ["0", "--attention-dropout", "0", "--batch-size", "48", "--length-buckets", "1"]
    assert main([*command, "--json", "--traceback"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["metric"] == ["f1"]
    assert summary["results"]["float"]["f1"] == 1.0
    integer = tmp_path / "integer"
    assert main(["freeze", str(run / "qat"), str(integer), "--no-certificate"]) == 0
    capsys.readouterr()
    models = [str(run / "float"), str(run / "qat"), str(integer)]
    assert main(["eval", *models, "--data", str(data), "--json"]) == 0
    first, second, third = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["f1"] == 1.0
    for name in ("f1", "accuracy", "precision", "recall"):
        assert second[name] == third[name] == summary["results"]["qat"][name]
    assert second["other_answers"] == third["other_answers"]
    assert not list(run.glob("best_*"))
