"""The model inside the package is complete, small enough, and right about plain cases."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ibert_jax.cli import main
from ibert_jax.inference import Predictor, default_directory

PLAIN = {
    "a wonderful film, moving and very funny": "positive",
    "the best movie i have seen this year": "positive",
    "an awful, boring waste of time": "negative",
    "the worst script of the decade": "negative",
}


def test_files() -> None:
    files = {path.name: path.stat().st_size for path in default_directory().iterdir()}
    wanted = {
        "integer_model.safetensors",
        "integer_model.json",
        "tokenizer.json",
        "MODEL_CARD.md",
    }
    assert wanted <= files.keys()
    assert sum(files.values()) <= 25_000_000


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor.default(batch_size=8)


def test_plain_cases(predictor: Predictor) -> None:
    answers = predictor(list(PLAIN))
    assert {answer.text: answer.label for answer in answers} == PLAIN
    assert all(answer.score > 0.8 for answer in answers)


def test_command_line_uses_it(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = tmp_path / "sentences"
    text.write_text("".join(f"{sentence}\n" for sentence in PLAIN))
    assert main(["predict", "--json", "--batch-size", "8", "--file", str(text)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["text"]: record["label"] for record in records} == PLAIN
