"""What a run leaves for its reader: JSON lines as it goes, a summary at the end."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from ibert_jax.files import write_whole
from ibert_jax.training.board import Board


def write_json(path: Path, values: dict[str, Any]) -> None:
    """Write a JSON object; the file appears complete or not at all."""
    write_whole(path, json.dumps(values, indent=2, ensure_ascii=False) + "\n")


class MetricsLog:
    """A file of JSON lines, each with `time` (seconds since the epoch), `stage` and `step`.

    Opening it for a resumed run drops the lines of steps that will be done again, and a last line
    that was cut short, so that every step is told once.

    Args:
      path: the file; its folder exists.
      position: (number of the stage, step) from which the run continues.
      stages: the names of the stages in their order.
      board: a folder for TensorBoard, which then holds the same lines as curves.
    """

    def __init__(
        self,
        path: Path,
        position: tuple[int, int],
        stages: tuple[str, ...],
        *,
        board: Path | None = None,
    ) -> None:
        kept = [
            line
            for line in _complete_lines(path)
            if (stages.index(line["stage"]), line["step"]) <= position
        ]
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = None if board is None else Board(board, kept)

    def write(self, *, stage: str, step: int, **values: Any) -> None:
        """Append a line; it is in the file when this returns."""
        line = {"time": round(time.time(), 3), "stage": stage, "step": step, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._board is not None:
            self._board.add(line)

    def __enter__(self) -> MetricsLog:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the files."""
        self._file.close()
        if self._board is not None:
            self._board.close()


def _complete_lines(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    lines = []
    for text in path.read_text("utf-8", errors="replace").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            break
    return lines
