"""Files that appear complete or not at all, and JSON objects that are read with a sentence."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


def temporary_name(path: Path) -> Path:
    """A name beside ``path`` to write to before the rename that makes a file appear complete.

    Each thread has its own.
    """
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.tmp")


def is_temporary(name: str) -> bool:
    """Whether a file is called as ``temporary_name`` calls one: what a killed process left."""
    return name.startswith(".") and name.endswith(".tmp")


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file, text as UTF-8; what was there before stays until the new one is complete."""
    path = Path(path)
    with written_together([path]) as temporary:
        write_through(temporary, path, content)


def write_through(temporary: Mapping[Path, Path], path: Path, content: bytes | str) -> None:
    """Write one of ``written_together``, text as UTF-8, to the disk itself."""
    with naming(path), temporary[path].open("wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)
        file.flush()
        os.fsync(file.fileno())  # or a loss of power may leave the name without the content


@contextmanager
def written_together(paths: Iterable[Path]) -> Iterator[dict[Path, Path]]:
    """Temporary names for files that belong together: none changes before all are complete.

    At the end those that were written take their places, in this order, and the places of the
    others are empty. Where writing fails, all stay as they were.
    """
    temporary = {path: temporary_name(path) for path in paths}
    try:
        yield temporary
        for path in temporary:
            if path.is_dir():
                raise IsADirectoryError(f"expected to write the file {path}, a folder is there")
        for path, new in temporary.items():
            if new.exists():
                new.replace(path)
            else:
                path.unlink(missing_ok=True)
    finally:
        for new in temporary.values():
            new.unlink(missing_ok=True)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the system's errors name the file that is written: of a full disk they do not."""
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def alone_in(directory: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, so that another process that asks for it is refused; a killed one lets go.

    Args:
      patience: seconds to wait for another one that holds it.

    Raises:
      ValueError: another process, or another thread, holds it.
    """
    try:
        folder = os.open(directory, os.O_RDONLY)
    except PermissionError:  # Windows opens no folders
        yield
        return
    try:
        with suppress(OSError):  # a file system without locks
            lock(folder, directory, patience)
        yield
    finally:
        with suppress(OSError):
            unlock(folder)  # which to close it is not enough, where a child has it open, too
        os.close(folder)


def lock(descriptor: int, path: Path, patience: float = 0.0) -> None:
    """Lock an open file or folder until it is closed; on Windows, nothing.

    Args:
      patience: seconds to wait for another process, or thread, that has locked it.

    Raises:
      ValueError: another one has it locked still.
      OSError: the file system has no locks.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() >= until:
                raise ValueError(
                    f"expected to be alone in writing {path}, another process does so; wait for "
                    "it, or choose another place"
                ) from None
        time.sleep(0.02)


def unlock(descriptor: int) -> None:
    """Undo ``lock``."""
    try:
        import fcntl
    except ImportError:  # Windows
        return
    fcntl.flock(descriptor, fcntl.LOCK_UN)


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a file that holds one JSON object; every failure is one sentence naming the file."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; is {path.parent} a model directory?")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not valid JSON ({error}); the file may be truncated, copy it again"
        ) from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values
