"""Sweeps: which runs they are, and what is made of their results; finetune is tested elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ibert_jax.cli import main
from ibert_jax.training import TrainOptions, sweep, sweeping
from ibert_jax.training.stage import DivergedError

ACCURACY = {(0, 1e-5): 0.5, (1, 1e-5): 0.7, (0, 1e-3): 0.9}


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[TrainOptions]:
    """The options of the runs, whose accuracies are those above; the others diverge."""
    found: list[TrainOptions] = []

    def finetune(options: TrainOptions, **_: Any) -> dict[str, Any]:
        found.append(options)
        accuracy = ACCURACY.get((options.seed, options.learning_rate))
        if accuracy is None:
            raise DivergedError("expected a finite loss, got nan")
        results = {"float": accuracy, "qat": accuracy + 0.01}
        return {"results": {name: {"primary": value} for name, value in results.items()}}

    monkeypatch.setattr(sweeping, "finetune", finetune)
    return found


def test_a_sweep(
    started: list[TrainOptions], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["sweep", "model", "--train", "a.tsv", "--dev", "b.tsv", "--output", str(tmp_path)]
    arguments += ["--seeds", "0", "1", "--learning-rates", "1e-5", "1e-3", "--batch-size", "8"]
    assert main(arguments) == 0
    assert [(run.seed, run.learning_rate, run.batch_size) for run in started] == [
        (0, 1e-5, 8),
        (1, 1e-5, 8),
        (0, 1e-3, 8),
        (1, 1e-3, 8),
    ]
    folders = [Path(run.output) for run in started]
    assert folders[0] == tmp_path / "rate-1e-05-qat-5e-06-seed-0"
    assert len(set(folders)) == 4
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines[1] == "1e-05 5e-06 2 60.00 ± 14.14 61.00 ± 14.14"
    assert lines[2] == "0.001 5e-06 1 90.00 ± 0.00 91.00 ± 0.00"
    assert lines[-1] == "without rate-0.001-qat-5e-06-seed-1, which diverged"
    written = json.loads((tmp_path / "sweep.json").read_text())
    assert written["rates"][0]["stages"]["float"]["mean"] == pytest.approx(0.6)
    assert ["error" in run for run in written["runs"]] == [False, False, False, True]


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"seeds": []}, "seeds must be different"), ({"seeds": [-1]}, "seed must be an integer")],
)
def test_nothing_begins_where_a_run_makes_no_sense(
    started: list[TrainOptions], tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    options = TrainOptions(model="model", output=str(tmp_path), train_files=("a.tsv",))
    values = {"seeds": [0], "learning_rates": [1e-5], "qat_learning_rates": [1e-5], **changes}
    with pytest.raises(ValueError, match=said):
        sweep(options, **values)
    assert started == []
