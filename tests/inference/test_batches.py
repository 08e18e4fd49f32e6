"""Columns in, columns out, here and in actors of Ray."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ibert_jax.inference import BatchPredictor, Predictor, default_directory

TEXTS = ["good film", "very bad", "film " * 30, "", "good good bad"]


def test_columns(tiny_checkpoint: Path) -> None:
    predictor = BatchPredictor(tiny_checkpoint, columns=["review"], batch_size=8, max_length=16)
    rows = [*TEXTS, None]
    batch = {"review": np.asarray(rows, object), "id": np.arange(6)}
    answers = predictor(batch)
    assert list(answers)[:2] == ["review", "id"]
    expected = Predictor.load(tiny_checkpoint, batch_size=8, max_length=16)(TEXTS)
    assert answers["label"].tolist() == [*(each.label for each in expected), ""]
    assert answers["score"][:5].tolist() == [each.score for each in expected]
    assert np.isnan(answers["score"][5])
    assert json.loads(answers["probabilities"][0]) == expected[0].probabilities
    assert answers["truncated"].tolist() == [False, False, True, False, False, False]
    assert answers["problem"].tolist() == [
        *[""] * 5, "expected the text to be a string, got NoneType"
    ]  # fmt: skip
    with pytest.raises(ValueError, match="expected columns review, got text"):
        predictor({"text": batch["review"]})
    with pytest.raises(ValueError, match="other names than label"):
        predictor({**batch, "label": batch["id"]})


def test_vectors(tiny_checkpoint: Path) -> None:
    predictor = BatchPredictor(tiny_checkpoint, task="model", batch_size=8, max_length=16)
    answers = predictor({"text": np.asarray(["good", 3], object)})
    assert (answers["vector"].shape, answers["vector"].dtype) == ((2, 32), np.float32)
    assert np.isfinite(answers["vector"][0]).all()
    assert np.isnan(answers["vector"][1]).all()


RAY = """
import json, sys
import ray
from ibert_jax.inference import BatchPredictor
# Two for the actors; the repartitioning needs another, or nobody ever begins.
ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
texts = json.loads(sys.argv[2])
rows = ray.data.from_items([{"id": n, "text": text} for n, text in enumerate(texts)])
answers = rows.repartition(4).map_batches(
    BatchPredictor,
    fn_constructor_kwargs={"directory": sys.argv[1], "batch_size": 4, "max_length": 16},
    batch_size=8,
    compute=ray.data.ActorPoolStrategy(size=2),
)
print(json.dumps(sorted(answers.take_all(), key=lambda row: row["id"])))
"""


@pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs Ray: pip install 'ibert-jax[ray]'"
)
def test_two_actors_of_ray() -> None:
    """The same rows as one process, to the last digit: the program is the frozen one.

    In a process of its own: Ray warns, and opens sockets.
    """
    texts = [text + " film" * (n % 4) for n in range(8) for text in TEXTS]
    directory = default_directory()
    done = subprocess.run(
        [sys.executable, "-c", RAY, str(directory), json.dumps(texts)],
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    here = BatchPredictor(directory, batch_size=4, max_length=16)
    expected = here({"id": np.arange(len(texts)), "text": np.asarray(texts, object)})
    assert [list(row) for row in found] == [list(expected)] * len(texts)
    for name, column in expected.items():
        assert [row[name] for row in found] == column.tolist()
