"""The metrics as curves in TensorBoard."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_OWN_PLACE = ("time", "stage", "step")
_EVENTS = "events.out.tfevents.*"


class Board:
    """An event file that says what `metrics.jsonl` says, a curve for each measure of a stage.

    It is written anew from the lines that a resumed run keeps, so that nothing is in it twice.

    Args:
      directory: of the event file; those of earlier processes are removed.
      lines: of the metrics so far.

    Raises ValueError where tensorboardX is not installed.
    """

    def __init__(self, directory: Path, lines: Iterable[Mapping[str, Any]]) -> None:
        try:
            from tensorboardX import SummaryWriter
        except ImportError:
            raise ValueError(
                "writing logs for TensorBoard needs tensorboardX; install it, as by "
                "pip install 'ibert-jax[tensorboard]', or leave the option tensorboard out"
            ) from None
        for old in directory.glob(_EVENTS):
            old.unlink()
        self._writer = SummaryWriter(str(directory))
        for line in lines:
            self.add(line)

    def add(self, line: Mapping[str, Any]) -> None:
        """Add the numbers of a line of the metrics."""
        for name, value in line.items():
            if name not in _OWN_PLACE and isinstance(value, int | float):
                place = f"{line['stage']}/{name}"
                self._writer.add_scalar(place, value, line["step"], walltime=line["time"])

    def close(self) -> None:
        """Write what is left."""
        self._writer.close()
