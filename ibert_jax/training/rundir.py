"""The run directory: what a run was asked to do, and what it leaves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ibert_jax.files import alone_in, is_temporary
from ibert_jax.training.metrics import write_json
from ibert_jax.training.options import TrainOptions


class RunDirectory:
    """The files of one run.

    Attributes:
      path: the directory. metrics, checkpoints, tensorboard: places in it.

    Nothing is written before `begin`: options that turn out to be wrong leave nothing behind.

    Raises:
      NotADirectoryError: the path is a file.
      ValueError: the directory holds a run with other options, or something else altogether.
    """

    def __init__(self, options: TrainOptions) -> None:
        self.path = Path(options.output)
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.tensorboard = self.path / "tensorboard"
        self._asked = options
        self._options, self._summary = self.path / "options.json", self.path / "summary.json"
        if self.path.exists() and not self.path.is_dir():
            raise NotADirectoryError(f"expected a folder for the run, {self.path} is a file")
        found = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
        found = {name for name in found if not is_temporary(name)}  # of a run killed as it began
        if self._options.name in found:
            if found != {self._options.name}:  # else that run never came to anything
                self._compare(options)
        elif found:
            raise ValueError(
                f"expected a new folder, or one that holds a run, {self.path} holds other files; "
                "choose another output"
            )

    @contextmanager
    def begin(self) -> Iterator[None]:
        """Make the directory, keep the options in it, and hold it against other processes."""
        self.path.mkdir(parents=True, exist_ok=True)
        with alone_in(self.path):
            write_json(self._options, self._asked.to_dict())
            yield

    def _compare(self, options: TrainOptions) -> None:
        differences = options.differences(_read(self._options))
        if differences:
            raise ValueError(
                f"{self.path} holds a run with other options: {'; '.join(differences)}; "
                "choose another output, or delete that folder"
            )

    def summary(self) -> dict[str, Any] | None:
        """The summary of a finished run; None while there is none."""
        return _read(self._summary) if self._summary.exists() else None

    def write_summary(self, values: dict[str, Any]) -> None:
        """Call the run finished."""
        write_json(self._summary, values)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"expected JSON in {path}, could not read it ({error})") from None
    return values
