"""The command line as its users meet it: answers, files, pipes, and what it says to bad input."""

from __future__ import annotations

import io
import json
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from tokenizers import Tokenizer as Backend

import ibert_jax
from ibert_jax.cli import build_parser, main
from ibert_jax.config import IBertConfig
from ibert_jax.models import IBertForMaskedLM, IBertForSequenceClassification

from .conftest import WORDS

SENTENCES = ("good film", "very bad film", "very very good", "film bad")


@pytest.fixture(scope="module")
def answers(tiny_checkpoint: Path) -> list[dict[str, float]]:
    """The probabilities of SENTENCES, computed one by one without batching or padding."""
    model = IBertForSequenceClassification.from_pretrained(tiny_checkpoint)
    model.eval()
    rows = []
    for sentence in SENTENCES:
        ids = [0, *(WORDS.index(word) for word in sentence.split()), 2]
        logits = model(np.asarray([ids], np.int32)).logits[0]
        values = np.asarray(jax.nn.softmax(logits), np.float64)
        rows.append(dict(zip(("negative", "positive"), values.tolist(), strict=True)))
    return rows


def _records(capsys: pytest.CaptureFixture[str]) -> list[dict]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def _fails(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail as a user error; returns its one line on standard error."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("ibert-jax: error: ")
    assert "Traceback" not in err
    return err


def _stdin(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def test_predict_arguments_as_json(
    tiny_checkpoint: Path, answers: list[dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(tiny_checkpoint), "--json", *SENTENCES]) == 0
    records = _records(capsys)
    assert [record["text"] for record in records] == list(SENTENCES)
    assert [record["line"] for record in records] == [1, 2, 3, 4]
    for record, expected in zip(records, answers, strict=True):
        assert record["probabilities"] == pytest.approx(expected, abs=1e-5)
        assert record["label"] == max(expected, key=expected.__getitem__)
        assert record["score"] == record["probabilities"][record["label"]]
        assert record["truncated"] is False


def test_predict_table(
    tiny_checkpoint: Path, answers: list[dict[str, float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["predict", "--model", str(tiny_checkpoint), "good film", "good\x1b[31m\tfilm"]) == 0
    )
    header, first, second = capsys.readouterr().out.splitlines()
    label = max(answers[0], key=answers[0].__getitem__)
    assert header.split() == ["label", "score", "sentence"]
    assert first.split() == [label, f"{answers[0][label]:.4f}", "good", "film"]
    assert second.endswith("good [31m film"), "control characters may not steer the terminal"


def test_predict_file_and_standard_input_agree(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = b"\xef\xbb\xbfgood film\r\n\n\xc3\xa9 \xe2\x80\xa8 bad\n"
    (tmp_path / "file").write_bytes(data)
    command = ["predict", "--model", str(tiny_checkpoint), "--json"]
    assert main([*command, "--file", str(tmp_path / "file")]) == 0
    from_file = _records(capsys)
    assert [record["line"] for record in from_file] == [1, 3]
    assert [record["text"] for record in from_file] == ["good film", "é \u2028 bad"]
    _stdin(monkeypatch, data)
    assert main(command) == 0
    assert _records(capsys) == from_file


def test_predict_says_what_it_cut(
    tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", "--model", str(tiny_checkpoint), "--json", "good " * 40, "bad"]) == 0
    out, err = capsys.readouterr()
    assert [json.loads(line)["truncated"] for line in out.splitlines()] == [True, False]
    assert "1 of 2 sentences were longer than 32 tokens" in err


def test_eval(
    tiny_checkpoint: Path,
    answers: list[dict[str, float]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    truth = ["positive", "negative", "positive", "negative"]
    data = tmp_path / "dev.tsv"
    rows = [f"{text}\t{label}\n" for text, label in zip(SENTENCES, truth, strict=True)]
    data.write_text("sentence\tlabel\n" + "".join(rows))
    right = sum(
        max(row, key=row.__getitem__) == label for row, label in zip(answers, truth, strict=True)
    )
    other = tmp_path / "other"
    shutil.copytree(tiny_checkpoint, other)
    assert main(["eval", str(tiny_checkpoint), str(other), "--data", str(data), "--json"]) == 0
    for record in _records(capsys):
        assert (record["correct"], record["examples"]) == (right, 4)
        assert record["accuracy"] == right / 4
        same = record["difference"], record["difference_error"], record["other_answers"]
        assert same == (0, 0, 0)
    assert main(["eval", str(tiny_checkpoint), str(other), "--data", str(data)]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    cells = first.split()
    assert cells[:4] == [str(tiny_checkpoint), f"{25 * right:.2f}", str(right), "4"]
    assert cells[-4:] == ["+0.00", "±", "0.00", "0"]
    assert second.split()[0] == str(other)


def test_eval_of_what_fills_masks(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Lines are joined and cut anew: answers belong to the pieces, fewer than the lines."""
    backend = Backend.from_file(str(tiny_checkpoint / "tokenizer.json"))
    backend.add_special_tokens(["[MASK]"])
    for seed, (name, positions) in enumerate((("one", 34), ("other", 34), ("shorter", 18))):
        config = IBertConfig(
            vocab_size=len(WORDS) + 1,
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=positions,
            initializer_range=0.3,
        )
        model = IBertForMaskedLM(config, rngs=nnx.Rngs(seed))
        model.save_pretrained(tmp_path / name)
        backend.save(str(tmp_path / name / "tokenizer.json"))
    data = tmp_path / "dev.txt"
    data.write_text("".join(f"{text}\n" for text in SENTENCES * 30))
    command = ["--task", "wikitext2", "--data", str(data)]
    models = [str(tmp_path / name) for name in ("one", "one", "other")]
    assert main(["eval", *models, *command, "--json"]) == 0
    first, same, other = _records(capsys)
    assert first["examples"] == 120
    assert 1 < first["perplexity"] < 100
    assert (same["difference"], same["difference_error"]) == (0, 0)
    assert same["perplexity"] == first["perplexity"] != other["perplexity"]
    assert other["difference_error"] > 0
    message = _fails(capsys, "eval", models[0], tmp_path / "shorter", *command)
    assert re.search(r"cut the text alike, got \d+ pieces from .* give --max-length", message)


def test_bad_texts(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    predict = ("predict", "--model", tiny_checkpoint)
    empty = tmp_path / "empty"
    empty.write_bytes(b"")
    assert f"{empty} holds none" in _fails(capsys, *predict, "--file", empty)
    latin = tmp_path / "latin"
    latin.write_bytes(b"good film\ncaf\xe9\n")
    assert f"line 2 of {latin}" in _fails(capsys, *predict, "--file", latin)
    assert "does not exist" in _fails(capsys, *predict, "--file", tmp_path / "absent")
    assert "is a folder" in _fails(capsys, *predict, "--file", tmp_path)
    assert "empty argument (number 2)" in _fails(capsys, *predict, "good", " ")
    assert "not UTF-8" in _fails(capsys, *predict, "caf\udce9")
    assert "got both" in _fails(capsys, *predict, "good", "--file", empty)
    _stdin(monkeypatch, b"")
    assert "standard input holds none" in _fails(capsys, *predict)


def test_bad_model_directories(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a directory" in _fails(capsys, "predict", "--model", tmp_path / "absent", "good")
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        broken = tmp_path / name.split(".")[0]
        shutil.copytree(tiny_checkpoint, broken)
        (broken / name).unlink()
        message = _fails(capsys, "predict", "--model", broken, "good")
        assert name in message
        whole = (tiny_checkpoint / name).read_bytes()
        (broken / name).write_bytes(whole[: len(whole) // 2])
        assert name in _fails(capsys, "predict", "--model", broken, "good")
    run = tmp_path / "run"  # as `ibert-jax train` leaves it
    shutil.copytree(tiny_checkpoint, run / "qat")
    message = _fails(capsys, "predict", "--model", run, "good")
    assert f"{run} holds a training run; give {run / 'qat'}" in message


def test_encoder_without_head_is_refused(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = IBertConfig.from_json_file(tiny_checkpoint / "config.json")
    ibert_jax.IBertModel(config, rngs=nnx.Rngs(0)).save_pretrained(tmp_path)
    shutil.copy(tiny_checkpoint / "tokenizer.json", tmp_path)
    shutil.copy(tiny_checkpoint / "config.json", tmp_path)  # which declares a classifier
    message = _fails(capsys, "predict", "--model", tmp_path, "good")
    assert "an encoder without one" in message


def test_unknown_label(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\ngood\tpositive\nbad\tneutral\n")
    assert "got 'neutral' in line 3" in _fails(capsys, "eval", tiny_checkpoint, "--data", data)


def test_a_model_that_tells_nothing_apart_is_named(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\ngood\tpositive\ngood\tnegative\n")
    assert main(["eval", str(tiny_checkpoint), "--data", str(data)]) == 0
    assert f"ibert-jax: {tiny_checkpoint}: all 2 answers are '" in capsys.readouterr().err


def test_traceback_is_there_for_those_who_ask(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        main(["predict", "--traceback", "--model", str(tmp_path / "absent"), "good"])


@pytest.mark.parametrize("arguments", [["predict", "--batch-size", "0"], [], ["nonsense"]])
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: ibert-jax" in capsys.readouterr().err


def test_every_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    (commands,) = [a for a in build_parser()._actions if a.dest == "command"]
    assert commands.choices is not None
    for name in commands.choices:
        with pytest.raises(SystemExit) as stopped:
            main([str(name), "--help"])
        assert stopped.value.code == 0
        assert f"examples:\n  ibert-jax {name}" in capsys.readouterr().out


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ibert_jax.cli", *arguments]


def test_help_comes_at_once() -> None:
    """Less than a second of a core, however busy the machine is with something else."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(_command("--help"), capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "predict" in done.stdout
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1.0


def test_import_loads_no_jax() -> None:
    script = "import sys, ibert_jax; sys.exit('jax' in sys.modules or 'numpy' in sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_closed_pipe_is_no_error(tiny_checkpoint: Path) -> None:
    """`ibert-jax predict ... | head -1` ends quietly however much is left to say."""
    with subprocess.Popen(
        _command("predict", "--model", str(tiny_checkpoint), "--json"),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        process.stdin.write(b"good film\n" * 3000)  # answers of far more than a pipe holds
        process.stdin.close()
        assert json.loads(process.stdout.readline())["text"] == "good film"
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_compile_cache(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What one run compiled lies on disk for the next."""
    cache = tmp_path / "cache"
    done = subprocess.run(
        _command("predict", "--model", str(tiny_checkpoint), "--compile-cache", str(cache), "good"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    assert list(cache.iterdir())


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"num_labels": 1}, "gives one number"),
        ({"problem_type": "multi_label_classification"}, "gives independent ones"),
    ],
)
def test_what_is_no_one_label_is_not_scored_as_such(
    tiny_checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    setting: dict[str, Any],
    said: str,
) -> None:
    config = IBertConfig.from_json_file(tiny_checkpoint / "config.json").replace(**setting)
    model = ibert_jax.IBertForSequenceClassification(config, rngs=nnx.Rngs(0))
    model.save_pretrained(tmp_path / "model")
    shutil.copy(tiny_checkpoint / "tokenizer.json", tmp_path / "model")
    data = tmp_path / "dev.tsv"
    data.write_text("sentence\tlabel\ngood\t0\n")
    assert said in _fails(capsys, "eval", tmp_path / "model", "--data", data)
