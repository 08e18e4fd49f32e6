"""How far a stage is: a bar on a terminal, now and then a line in a log."""

from __future__ import annotations

import time
from typing import Any, TextIO

_SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Counts steps and shows loss, learning rate, sentences a second and the time left.

    Args:
      what: the name of the stage.
      total: steps in the whole stage. done: those of an earlier, interrupted process.
      stream: where to show it; a bar where it is a terminal, else a line every 30 seconds.
    """

    def __init__(self, what: str, *, total: int, done: int, stream: TextIO) -> None:
        self._stream, self._what, self._total = stream, what, total
        self._done = self._done_before = done
        self._started = self._told = time.monotonic()
        self._bar: Any = None
        if stream.isatty():
            from tqdm import tqdm

            self._bar = tqdm(
                desc=what,
                total=total,
                initial=done,
                unit="step",
                file=stream,
                dynamic_ncols=True,
                smoothing=0.05,
            )

    def advance(self) -> None:
        """One step more is done."""
        self._done += 1
        if self._bar is not None:
            self._bar.update()

    def show(self, *, loss: float, rate: float, speed: float) -> None:
        """Tell the recent mean loss, the learning rate and the sentences a second."""
        facts = f"loss {loss:.4f}, rate {rate:.2e}, {speed:.0f} sentences/s"
        if self._bar is not None:
            self._bar.set_postfix_str(facts, refresh=False)
            return
        now = time.monotonic()
        if now - self._told >= _SECONDS_BETWEEN_LINES or self._done == self._total:
            self._told = now
            per_step = (now - self._started) / max(self._done - self._done_before, 1)
            left = _duration(per_step * (self._total - self._done))
            self.note(f"{self._what}: step {self._done}/{self._total}, {facts}, {left} left")

    def note(self, message: str) -> None:
        """Say something without breaking the bar."""
        if self._bar is not None:
            self._bar.write(message, file=self._stream)
        else:
            print(message, file=self._stream, flush=True)

    def close(self) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
