"""Contenders in processes of their own, which wait to be asked."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
import threading
from typing import Any

DEFAULTS = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "2"}
"""Of the environment: several processes share a GPU's memory."""


class Worker:
    """A process of a script. Its errors go to a file, of which the end is told if it dies."""

    def __init__(self, script: str, *arguments: str, **environment: str) -> None:
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115, it lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, script, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**DEFAULTS, **os.environ, **environment},
        )

    def ask(self, line: str = "", patience: float = math.inf) -> dict[str, Any]:
        """The next answer, after a line if there is one to say.

        A process that has none after ``patience`` seconds is killed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        alarm = threading.Timer(min(patience, threading.TIMEOUT_MAX), self._process.kill)
        alarm.daemon = True
        alarm.start()
        try:
            if line:
                self._process.stdin.write(line + "\n")
                self._process.stdin.flush()
            for said in self._process.stdout:
                if said.startswith("{"):
                    return json.loads(said)
        except BrokenPipeError:
            pass
        finally:
            alarm.cancel()
        self._errors.seek(0)
        last = [x.strip() for x in self._errors.read().splitlines() if x.strip()]
        raise RuntimeError(last[-1][:500] if last else f"it ended with {self._process.wait()}")

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
