"""Tasks as tables: the built-in ones, those of files, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ibert_jax.training.kinds import KINDS
from ibert_jax.training.tasks import KINDS as NAMES
from ibert_jax.training.tasks import METRICS, Task, built_in_tasks, load_task

GLUE = ("cola", "sst2", "mrpc", "qqp", "stsb", "mnli", "qnli", "rte", "wnli")


def test_built_in() -> None:
    tasks = built_in_tasks()
    assert {*GLUE, "snli", "wnut17", "squad", "commonsenseqa", "wikitext2"} <= tasks.keys()
    assert {task.kind for task in tasks.values()} == set(NAMES) == set(KINDS) == set(METRICS)
    assert all(tasks[name].hub == ("nyu-mll/glue", name) for name in GLUE)
    assert tasks["cola"].metric == ("matthews",)
    assert tasks["squad"].max_length == 384
    assert (tasks["squad"].text, tasks["squad"].pair) == ("question", "context")


def test_the_same_table_as_toml_and_json(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('kind = "regression"\npair = "other"\nmetric = "pearson"\n')
    (tmp_path / "mine.json").write_text(
        json.dumps({"kind": "regression", "pair": "other", "metric": ["pearson"]})
    )
    one, two = (load_task(tmp_path / f"mine.{end}") for end in ("toml", "json"))
    assert one == two
    assert one.name == "mine"
    assert Task.from_dict(one.to_dict()) == one


def test_one_number_that_counts() -> None:
    task = load_task("mrpc")
    assert task.primary({"accuracy": 0.5, "f1": 0.7, "matthews": 0.0}) == pytest.approx(0.6)
    assert task.rising
    assert not load_task("wikitext2").rising


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kind = 'nonsense'", "kind must be one of classification, .* got 'nonsense'"),
        ("text = 'a'", "got no kind"),
        ("kind = 'classification'\nlable = 'a'", "unknown fields lable"),
        ("kind = 'regression'\nmetric = 'f1'", "metric must be among pearson, spearman"),
        ("kind = 'classification'\nlayout = 'xml'", "layout must be one of tsv,"),
        ("kind = 'multiple_choice'", "choices must be given for multiple_choice"),
        ("kind = 'classification'\nlabels = ['a', 'a']", "labels must differ"),
        ("kind = 'masked_lm'\nmask_probability = 1", "mask_probability must be between"),
        ("kind = 'masked_lm'\nmask_probability = 'a'", "mask_probability must be .*, got 'a'"),
        ("kind = 'masked_lm'\nmax_length = 'a'", "max_length must be an integer, got 'a'"),
        ("kind = 'masked_lm'\nmax_length = 0", "max_length must be an integer at least 3, got 0"),
        ("kind = 'question_answering'\nmax_length = 7", "max_length must .* at least 8, got 7"),
        ("kind = 'question_answering'\nstride = -3", "stride must be .* at least 0, got -3"),
        ("kind = ['regression']", r"kind must be a string, got \['regression'\]"),
        ("kind = 'regression'\ntext = 1\nmetric = 2", "text must be a string.*; metric must be a"),
        ("kind = ", "could not read it"),
    ],
)
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.toml").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_task(tmp_path / "a.toml")
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(ValueError, match="got a list"):
        load_task(tmp_path / "a.json")
