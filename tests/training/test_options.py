"""Options and the run directory: what is refused, and in which words."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ibert_jax.files import temporary_name
from ibert_jax.training.metrics import MetricsLog
from ibert_jax.training.options import TrainOptions
from ibert_jax.training.rundir import RunDirectory
from ibert_jax.training.tasks import Task

TAGS_OF_THE_HUB = Task(name="tags", kind="token_classification", hub=("some/data",))


def make_options(**changes: Any) -> TrainOptions:
    return TrainOptions(**{"model": "m", "train_files": ("t.tsv",), "output": "o", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_files": ()}, "train_files must name at least one file"),
        ({"train_files": (), "task": TAGS_OF_THE_HUB}, "labels must be named for tags of the hub"),
        ({"labels": ("a", "a")}, "labels must differ"),
        ({"select_best": True}, "select_best needs a dev_file"),
        ({"task": "nonsense"}, "expected a task's name .*wikitext2.* got 'nonsense'"),
        ({"task": 5}, "expected a task's name .* got '5'"),
        ({"batch_size": 0}, "batch_size must be an integer of at least 1, got 0"),
        ({"float_epochs": 1.5}, "float_epochs must be an integer of at least 0, got 1.5"),
        ({"seed": -1}, "seed must be an integer of at least 0"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number, got 0.0"),
        ({"qat_learning_rate": float("nan")}, "qat_learning_rate must be a positive number"),
        ({"dropout": 1.0}, "dropout must be at least 0 and less than 1, got 1.0"),
        ({"float_epochs": 0, "qat_epochs": 0}, "must not both be 0"),
        ({"seed": -1, "warmup": 2}, "seed must .*; warmup must"),
        ({"continue_float": True, "qat_epochs": 0}, "continue_float goes on for qat_epochs"),
        ({"learning_rate": "1e-5"}, "learning_rate must be a positive number, got '1e-5'"),
        ({"warmup": "0.1", "clip_norm": None}, "clip_norm must .* got None; warmup must .* '0.1'"),
        ({"float_epochs": None}, "float_epochs must be an integer of at least 0, got None"),
        ({"bfloat16": "no"}, "bfloat16 must be True or False, got 'no'"),
        ({"model": 3}, "model must be a path, got 3"),
        ({"train_files": None}, "train_files must be a tuple of strings, got None"),
        ({"rate_factors": 10}, "rate_factors must map patterns of names to values, got 10"),
        ({"scheme": "int4"}, "TrainOptions: scheme must be one of channel, reference, got 'int4'"),
        ({"weight_bits": 9}, "TrainOptions: weight_bits must be an integer between 2 and 8, got 9"),
        ({"activation_bits": True}, "activation_bits must be an integer, got True"),
        ({"momentum": 7, "seed": -1}, "seed must .*; momentum must be a number between 0 and"),
        ({"bit_overrides": {"a.*": 4}}, "overrides must map patterns of leaf paths to settings"),
        ({"bit_overrides": {"a.*": {"bits": 4}}}, r"overrides of 'a\.\*' know .* got 'bits'"),
        ({"force_dequant": "tanh"}, "force_dequant must be one of none, .* got 'tanh'"),
        ({"max_length": 0}, "max_length must be an integer at least 3, got 0"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make_options(**changes)


@pytest.mark.parametrize("name", ["train_files", "labels"])
def test_one_string_is_not_a_tuple(name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be a tuple, .*; write \('bad',\)"):
        make_options(**{name: "bad"})


def test_paths_become_strings() -> None:
    options = make_options(model=Path("m"), output=Path("o"), dev_file=Path("d.tsv"))
    assert options == make_options(dev_file="d.tsv")


def test_numbers_of_numpy_become_pythons() -> None:
    numbers = {"batch_size": np.int64(4), "max_length": np.int32(9), "warmup": np.float32(0.5)}
    tables = {"rate_factors": {"a.*": 2}, "bit_overrides": {"a.*": {"weight_bits": 4}}}
    options = make_options(
        **numbers,
        rate_factors={"a.*": np.int8(2)},
        bit_overrides={"a.*": {"weight_bits": np.int8(4)}},
    )
    wanted = make_options(batch_size=4, max_length=9, warmup=0.5, **tables)
    assert options.to_dict() == wanted.to_dict()
    with pytest.raises(ValueError, match="batch_size must be an integer of at least 1, got True"):
        make_options(batch_size=True)


def test_a_run_is_continued_with_its_own_options_only(tmp_path: Path) -> None:
    output = str(tmp_path / "run")
    for seed in (0, 1, 0):  # nothing had come of the ones before
        with RunDirectory(make_options(output=output, seed=seed)).begin():
            pass
    (tmp_path / "run" / "metrics.jsonl").touch()
    RunDirectory(make_options(output=output, log_every=3, checkpoint_every=7, dev_file="d.tsv"))
    with pytest.raises(ValueError, match=r"other options: seed was 0 and is 1; choose another"):
        RunDirectory(make_options(output=output, seed=1))


def test_a_run_is_alone_in_its_folder(tmp_path: Path) -> None:
    options = make_options(output=str(tmp_path / "run"))
    with RunDirectory(options).begin():
        another = RunDirectory(options).begin()
        with pytest.raises(ValueError, match="another process does so"):
            another.__enter__()
    with RunDirectory(options).begin():
        pass


def test_only_what_differs_is_told() -> None:
    told = make_options(text_column="comment").differences(make_options().to_dict())
    assert told[0] == "task.text was 'sentence' and is 'comment'"


def test_a_run_killed_as_it_began_begins_anew(tmp_path: Path) -> None:
    temporary_name(tmp_path / "options.json").touch()
    assert RunDirectory(make_options(output=str(tmp_path))).summary() is None


def test_foreign_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ValueError, match="holds other files"):
        RunDirectory(make_options(output=str(tmp_path)))
    with pytest.raises(NotADirectoryError, match="is a file"):
        RunDirectory(make_options(output=str(tmp_path / "thesis.tex")))


def test_a_resumed_log_tells_every_step_once(tmp_path: Path) -> None:
    path, stages = tmp_path / "metrics.jsonl", ("float", "qat")
    with MetricsLog(path, (0, 0), stages) as log:
        for stage, step in (("float", 10), ("float", 20), ("qat", 10), ("qat", 20)):
            log.write(stage=stage, step=step, loss=0.5)
    whole = path.read_text().splitlines()
    path.write_text("\n".join(whole) + '\n{"time": 17, "sta')
    with MetricsLog(path, (1, 10), stages):
        pass
    assert path.read_text().splitlines() == whole[:3]
