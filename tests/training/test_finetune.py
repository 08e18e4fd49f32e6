"""Whole runs on a tiny model: what they leave, and that one killed ends like one that was not."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibert_jax.checkpoints import read_checkpoint
from ibert_jax.config import IBertConfig
from ibert_jax.models import IBertForSequenceClassification, IBertModel
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training import (
    TrainOptions,
    batches_of,
    evaluate,
    finetune,
    load_task,
    read_examples,
    task_of,
)
from ibert_jax.training.prepare import check_model, load_model

_SCRIPT = """
import json, sys
import jax
jax.config.update("jax_numpy_dtype_promotion", "strict")
from ibert_jax.training import TrainOptions, finetune
finetune(TrainOptions(**json.loads(sys.argv[1])))
"""

MakeOptions = Callable[..., TrainOptions]


@pytest.fixture(scope="module")
def make_options(model_directory: Path, train_file: Path, dev_file: Path) -> MakeOptions:
    def make(output: Path, **changes: Any) -> TrainOptions:
        values: dict[str, Any] = {
            "model": str(model_directory),
            "train_files": (str(train_file),),
            "dev_file": str(dev_file),
            "output": str(output),
            "float_epochs": 4,
            "qat_epochs": 2,
            "continue_float": True,
            "learning_rate": 1e-2,
            "qat_learning_rate": 1e-3,
            "batch_size": 16,
            "length_buckets": 1,
            # Not a multiple of log_every: a checkpoint's step is told of, too.
            "checkpoint_every": 18,
            "log_every": 5,
            "bfloat16": True,
            "rate_factors": {"classifier.*": 2},
            "freeze_ranges_after": 0,
        }
        return TrainOptions(**{**values, **changes})

    return make


class Process:
    """A training process; what it compiles is there for the next one."""

    def __init__(self, options: TrainOptions, cache: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _SCRIPT, json.dumps(options.to_dict())],
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",  # half the time to compile
                "JAX_COMPILATION_CACHE_DIR": str(cache),
                "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
                "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
            },
        )

    def finish(self) -> str:
        """Wait for it; returns what it said."""
        _, said = self._process.communicate()
        assert self._process.returncode == 0, said
        return said

    def kill_when(self, condition: Callable[[], bool]) -> str:
        """kill -9 as soon as the condition holds; returns what it had said."""
        while not condition():
            assert self._process.poll() is None, f"it ended too early: {self.finish()}"
            time.sleep(0.005)
        os.kill(self._process.pid, signal.SIGKILL)
        _, said = self._process.communicate()
        assert self._process.returncode == -signal.SIGKILL
        return said


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def finished(
    make_options: MakeOptions, cache: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The directory of an uninterrupted run."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    Process(make_options(output), cache).finish()
    return output


def tensors(directory: Path) -> dict[str, np.ndarray]:
    found = read_checkpoint(directory, "sequence_classification")
    return {**found.tensors, **found.ranges}


def test_the_run_learns_and_leaves_its_record(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    accuracy = {name: one["accuracy"] for name, one in summary["results"].items()}
    assert list(accuracy) == ["float", "calibrated", "qat", "float_continued"]
    assert accuracy["float"] >= 0.9
    assert accuracy["qat"] >= 0.9
    assert accuracy["float_continued"] >= 0.9
    lines = [json.loads(line) for line in (finished / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps if line["stage"] == "float"][:5] == [5, 10, 15, 18, 20]
    assert steps[0]["loss"] > 0.4 > steps[-1]["loss"]
    assert all(line["learning_rate"] > 0 < line["sentences_per_second"] for line in steps)
    assert sum("dev_accuracy" in line for line in lines) == 5  # 3 in float, 1 in each of the others
    assert not list(finished.glob("**/*tmp*"))


@pytest.mark.parametrize("stage", ["float", "qat", "float_continued"])
def test_the_saved_models_score_as_told(stage: str, finished: Path, dev_file: Path) -> None:
    model = IBertForSequenceClassification.from_pretrained(finished / stage)
    model.quantize(stage == "qat")
    tokenizer = Tokenizer.load(finished / stage)
    task = task_of(model.config)
    assert task is not None
    data = batches_of(
        read_examples([dev_file], task, model.config.label2id),
        tokenizer=tokenizer,
        config=model.config,
        task=task,
        batch_size=30,
        buckets=1,
    )
    told = json.loads((finished / "summary.json").read_text())["results"][stage]
    assert evaluate(model, data, task).measures["correct"] == told["correct"]


def test_ranges_stay_where_asked_for(finished: Path) -> None:
    """`freeze_ranges_after` is 0 here; that they move otherwise is for test_step to show."""
    for name in ("float", "float_continued"):
        assert not read_checkpoint(finished / name, "sequence_classification").ranges
    before, after = (
        read_checkpoint(finished / name, "sequence_classification").ranges
        for name in ("calibrated", "qat")
    )
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(value, after[name], err_msg=name)


def test_a_finished_run_is_not_repeated(finished: Path, make_options: MakeOptions) -> None:
    before = {path: path.stat().st_mtime_ns for path in (finished / "qat").iterdir()}
    shown = io.StringIO()
    summary = finetune(make_options(finished), stream=shown)
    assert "finished" in shown.getvalue()
    assert summary == json.loads((finished / "summary.json").read_text())
    assert before == {path: path.stat().st_mtime_ns for path in (finished / "qat").iterdir()}


def has_saved(output: Path, number: int) -> Callable[[], bool]:
    """Whether a run has so many checkpoints behind it."""

    def condition() -> bool:
        folder = output / "checkpoints"
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return any(name.isdigit() and int(name) >= number for name in names)

    return condition


def told(output: Path) -> list[dict[str, Any]]:
    """The metrics but for the clock."""
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    clock = ("time", "sentences_per_second", "tokens_per_second")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def count_scalars(directory: Path) -> int:
    """How many scalars TensorBoard would find; none of them may be there twice."""
    event_pb2: Any = pytest.importorskip("tensorboardX.proto.event_pb2")
    (file,) = directory.iterdir()
    content, found, place = file.read_bytes(), [], 0
    while place < len(content):  # records of: length, checksum, event, checksum
        (length,) = struct.unpack_from("<Q", content, place)
        event = event_pb2.Event.FromString(content[place + 12 : place + 12 + length])
        found += [(value.tag, event.step) for value in event.summary.value]
        place += 16 + length
    assert len(set(found)) == len(found)
    return len(found)


def test_killed_in_every_stage_it_ends_the_same(
    finished: Path, make_options: MakeOptions, cache: Path, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    options = make_options(output, tensorboard=True)
    # 6 checkpoints in float, 3 in each of the other stages.
    Process(options, cache).kill_when(has_saved(output, 2))
    assert not (output / "float").exists()
    said = Process(options, cache).kill_when(has_saved(output, 7))
    assert "continuing the float stage after step" in said
    assert not (output / "qat").exists()
    said = Process(options, cache).kill_when(has_saved(output, 10))
    assert "continuing the qat stage after step" in said
    said = Process(options, cache).finish()
    assert "continuing the float_continued stage after step" in said
    mine, theirs = (json.loads((d / "summary.json").read_text()) for d in (output, finished))
    assert mine["results"] == theirs["results"]
    lines, expected_lines = (told(directory) for directory in (output, finished))
    assert lines == expected_lines
    measures = [line for line in lines for name in line if name not in ("stage", "step", "data")]
    # And the speeds, sentences' and tokens'.
    assert count_scalars(output / "tensorboard") == len(measures) + 2 * sum(
        "loss" in line for line in lines
    )
    for stage in ("float", "qat", "float_continued"):
        found, expected = tensors(output / stage), tensors(finished / stage)
        assert found.keys() == expected.keys()
        for name, value in found.items():
            np.testing.assert_array_equal(value, expected[name], err_msg=name, strict=True)


def test_bits_as_asked_for(make_options: MakeOptions, tmp_path: Path) -> None:
    options = make_options(
        tmp_path / "run",
        weight_bits=4,
        bit_overrides={"classifier.*": {"weight_bits": 8}},
        force_dequant="gelu",
        momentum=-1,
    )
    config = load_model(options).config
    quantization = config.quantization
    bits = [quantization.width("weight_bits", path) for path in ("encoder.x", "classifier.dense")]
    assert bits == [4, 8]
    assert (quantization.momentum, config.force_dequant) == (-1, "gelu")
    assert config.problem_type == "single_label_classification"  # whatever the checkpoint was
    assert TrainOptions(**options.to_dict()) == options  # JSON has lists, which mean the same


def test_patterns_without_effect_are_refused_before_training(
    make_options: MakeOptions, tmp_path: Path
) -> None:
    for changes, said in (
        ({"rate_factors": {"decoder.*": 2.0}}, r"'decoder\.\*' matches no parameter"),
        ({"bit_overrides": {"decoder.*": {"weight_bits": 4}}}, r"'decoder\.\*' matches no leaf"),
    ):
        options = make_options(tmp_path / next(iter(changes)), **changes)
        with pytest.raises(ValueError, match=said):
            finetune(options, stream=io.StringIO())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"dropout": 0.3}, "dropout=0.3 where the model has 0.1"),
        ({"weight_bits": 4, "scheme": "reference"}, "scheme='reference' .*; weight_bits=4 where"),
        ({"bit_overrides": {"embeddings.*": {"weight_bits": 4}}}, r"bit_overrides=.* has \(\)"),
        ({"labels": ("bad", "good")}, "labels=.* where the model has .*'negative', 'positive'"),
        ({"task": "stsb"}, "expected a model with num_labels=1 for regression, got 2"),
        ({"task": "ner"}, "IBertForTokenClassification, got IBertForSequenceClassification"),
    ],
)
def test_options_that_a_given_model_contradicts(
    changes: dict[str, Any], said: str, make_options: MakeOptions, tmp_path: Path
) -> None:
    model = IBertForSequenceClassification.from_pretrained(make_options(tmp_path).model)
    with pytest.raises(ValueError, match=said):
        finetune(make_options(tmp_path / "run", **changes), model=model, stream=io.StringIO())
    assert not (tmp_path / "run").exists()


def test_options_that_a_given_model_agrees_with(make_options: MakeOptions, tmp_path: Path) -> None:
    overrides = {"embeddings.*": {"weight_bits": 4}}
    changes = {"dropout": 0.2, "weight_bits": 7, "bit_overrides": overrides}
    options = make_options(tmp_path, labels=("negative", "positive"), **changes)
    check_model(options, load_model(options))


def test_a_head_for_other_labels(make_options: MakeOptions, tmp_path: Path) -> None:
    options = make_options(tmp_path / "run", labels=("a", "b", "c"))
    with pytest.raises(ValueError, match=r"num_labels=3, .*, got 2; start from .* without a head"):
        load_model(options)
    IBertModel.from_pretrained(options.model).save_pretrained(tmp_path)
    again = dataclasses.replace(options, model=str(tmp_path))
    assert load_model(again).config.label2id == {"a": 0, "b": 1, "c": 2}


def test_a_loss_that_is_not_finite_ends_the_run(make_options: MakeOptions, tmp_path: Path) -> None:
    changes = {"learning_rate": 1e30, "max_steps": 5, "qat_epochs": 0, "continue_float": False}
    options = make_options(tmp_path / "run", **changes)
    with pytest.raises(ValueError, match=r"expected a finite loss, got nan .*lower its learning"):
        finetune(options, stream=io.StringIO())


def test_a_tokenizer_of_another_model_is_refused(
    make_options: MakeOptions, model_directory: Path, tmp_path: Path
) -> None:
    foreign = Tokenizer.load(model_directory)
    foreign.backend.add_tokens([f"new{i}" for i in range(3)])
    data = tmp_path / "train.tsv"
    data.write_text("sentence\tlabel\nnew2 film\t1\n")
    options = make_options(tmp_path / "run", train_files=(str(data),), dev_file=None)
    with pytest.raises(ValueError, match="the tokenizer belongs to another model"):
        finetune(options, tokenizer=foreign, stream=io.StringIO())


def test_a_model_that_pads_with_a_word_is_refused(tokenizer: Tokenizer) -> None:
    config, task = IBertConfig(pad_token_id=4), load_task("classification")
    with pytest.raises(ValueError, match=r"that of its tokenizer, 1 \(\[PAD\]\), got 4 \(good\)"):
        batches_of([], tokenizer=tokenizer, config=config, task=task, batch_size=1)
