"""The results page: its options are the command line's, its figures are what the runs found."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import tasks
from ibert_jax.cli import build_parser
from ibert_jax.commands.train import fields
from ibert_jax.training import TrainOptions

POINTS = {  # of float_continued, float, integer_calibrated, integer_qat
    ("cola", 0): (0.50, 0.48, 0.47, 0.51),
    ("cola", 1): (0.52, 0.50, 0.50, 0.50),
    ("sst2", 0): (0.90, 0.90, 0.89, 0.90),
}


ERRORS = (0.0, 0.01, 0.02, 0.03)


def finished(folder: Path, task: str, seed: int) -> None:
    directory = folder / f"{task}-{seed}"
    directory.mkdir(parents=True)
    train, *_, evaluate = tasks.commands(task, seed, Path("D"), Path("M"), directory)
    options = TrainOptions(**fields(build_parser().parse_args(train)))
    (directory / "options.json").write_text(json.dumps(options.to_dict()))
    summary = {"metric": options.task.metric, "steps": {"float": 9}, "seconds": 1.0}
    (directory / "summary.json").write_text(json.dumps(summary))
    models = build_parser().parse_args(evaluate).model
    lines = [
        {
            "model": model,
            "examples": 10,
            "primary": points,
            "other_answers": 1,
            "difference_error": error,
        }
        for model, points, error in zip(models, POINTS[task, seed], ERRORS, strict=True)
    ]
    (directory / "eval.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.mark.parametrize("task", tasks.tables())
def test_options_are_of_the_command_line(task: str) -> None:
    for words in tasks.commands(task, 3, Path("D"), Path("M"), Path("R")):
        args = build_parser().parse_args(words)
    assert args.model == [f"R/{name}" for name in tasks.MODELS]


def test_the_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for task, seed in POINTS:
        finished(tmp_path / "runs", task, seed)
    (tmp_path / "runs" / "snli-0").mkdir()  # under way
    changed = tmp_path / "runs" / "cola-1" / "options.json"
    changed.write_text(changed.read_text().replace('"batch_size": 32', '"batch_size": 16'))
    runs = [tasks.read_run(path) for path in sorted((tmp_path / "runs").iterdir())]
    assert [one and one["task"] for one in runs] == ["cola", "cola", None, "sst2"]
    found = tasks.gather([one for one in runs if one])
    cola = found["tasks"]["cola"]["differences"]["QAT − float continued"]
    assert cola == {
        "mean": pytest.approx(-0.5),
        "standard_error": pytest.approx(1.5),
        "count": 2,
    }
    over = found["over_tasks"]["post-training − float"]
    assert over["mean"] == pytest.approx(-0.75)
    # Two runs of one task and one of another, each with an error of 3 points.
    assert found["error_over_examples"] == {
        "over_runs": pytest.approx(3 * 5**0.5 / 3),
        "over_tasks": pytest.approx(3 / 2**0.5),
    }
    page = tasks.markdown(found)
    assert "| cola | matthews | 10 | 0, 1 | 51.00 ± 1.00 | 49.00 ± 1.00 |" in page
    assert "Without a finished run: snli, wnut17, squad, commonsenseqa." in page
    assert '* cola, seed 1: {"batch_size": 16}' in page
    assert str(tmp_path) not in page + json.dumps(found)
