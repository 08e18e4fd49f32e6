"""The best weights of a stage, kept while it goes on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ibert_jax.training.metrics import write_json
from ibert_jax.training.state import Arrays, Skeleton


class BestModel:
    """A model of the best epoch so far, in a folder of its own, for runs that are cut short too.

    Args:
      model: gives the names and the configuration; its arrays are overwritten by `take`.
      directory: where to keep it. rising: whether more is better.
    """

    def __init__(self, model: Any, directory: Path, *, rising: bool) -> None:
        self._model, self._skeleton = model, Skeleton(model)
        self._directory, self._score = directory, directory / "score.json"
        self._rising = rising

    def judge(self, params: Arrays, others: Arrays, score: float) -> None:
        """Keep these arrays if none before were better or as good."""
        if self._score.is_file():
            best = json.loads(self._score.read_text("utf-8"))["score"]
            if (score <= best) if self._rising else (score >= best):
                return
        # The score says that the model beside it is whole.
        self._score.unlink(missing_ok=True)
        self._skeleton.put_into(self._model, params, others)
        self._model.save_pretrained(self._directory)
        write_json(self._score, {"score": score})

    def take(self) -> None:
        """Give the model the best arrays."""
        kept = type(self._model).from_pretrained(self._directory)
        self._model.load_tensors({**kept.tensors()})

    def forget(self) -> None:
        """Remove the folder: the model has its place elsewhere."""
        shutil.rmtree(self._directory, ignore_errors=True)
