"""A long job's output: it appears complete or not at all, and goes on where a kill ended it.

The journal's last whole line says how many rows of the input have been dealt with, and how long
the two partial files were when they held the answers and problems of exactly those rows, which
were on the disk before the line was. Whoever goes on cuts both files to these lengths and begins
with the row after those, so no row is lost and none is there twice.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Self

from ibert_jax.files import lock

# Seconds between two lines of the journal: what a kill costs at most, besides loading the model.
_INTERVAL = 1.0


@dataclass(frozen=True)
class Progress:
    """How far a job has come.

    rows: of the input that were dealt with. answered, bad: of these. tokens, truncated: of the
    answered. answers_bytes, problems_bytes: lengths of the partial files. done: whether the input
    has ended.
    """

    rows: int = 0
    answered: int = 0
    bad: int = 0
    tokens: int = 0
    truncated: int = 0
    answers_bytes: int = 0
    problems_bytes: int = 0
    done: bool = False


class Output:
    """The answers and problems of a job, and its journal.

    answers, problems: where the finished files appear; problems not at all if there are none.
    While the job runs, `NAME.partial` and `NAME.journal` lie beside the answers. job: what must be
    the same for a job to be gone on with: a mapping of plain values. restart: begin anew, whatever
    an earlier job left. overwrite: whether a finished file may be replaced.

    Raises FileExistsError where a finished file is there already, ValueError where the journal is
    of another job, or another process writes it.
    """

    def __init__(
        self,
        answers: str | Path,
        problems: str | Path,
        job: Mapping[str, Any],
        *,
        restart: bool = False,
        overwrite: bool = False,
    ) -> None:
        self.answers, self.problems = Path(answers), Path(problems)
        self.job = dict(job)
        self.progress = Progress()
        self._partials = tuple(_beside(path, ".partial") for path in (self.answers, self.problems))
        self._journal_path = _beside(self.answers, ".journal")
        self._files: list[BinaryIO] = []
        self._written = 0.0
        self.resumed = False
        # Not truncated on opening: it is not ours before it is locked.
        self._journal = self._journal_path.open("a+b")
        try:
            _lock(self._journal, self._journal_path)
        except BaseException:
            self._journal.close()
            raise
        try:
            found = None if restart else self._read_journal()
            self.resumed = found is not None
            if found is None or not found.done:
                self._refuse_existing(overwrite)
            self._open(found)
        except BaseException:
            empty = os.fstat(self._journal.fileno()).st_size == 0
            self.close()
            if empty:
                self._journal_path.unlink()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def write(self, answers: bytes, problems: bytes, progress: Progress) -> None:
        """Add lines. progress: how far the job has come with them; its lengths are filled in."""
        for file, data in zip(self._files, (answers, problems), strict=True):
            file.write(data)
        self.progress = replace(
            progress,
            answers_bytes=self.progress.answers_bytes + len(answers),
            problems_bytes=self.progress.problems_bytes + len(problems),
        )
        if time.monotonic() - self._written >= _INTERVAL:
            self._commit()

    def finish(self) -> None:
        """Let the finished files appear. May be interrupted anywhere, and be called again then."""
        if not self.progress.done:
            self.progress = replace(self.progress, done=True)
            self._commit()
        for file in self._files:
            file.close()
        names = (self.answers, self.problems)
        # The answers last: once they are there, everything is.
        for partial, path in reversed(list(zip(self._partials, names, strict=True))):
            if path == self.problems and not self.progress.bad:
                partial.unlink(missing_ok=True)
                path.unlink(missing_ok=True)  # of an earlier job that was to be overwritten
            elif partial.exists():
                partial.replace(path)
            _sync_folder(path)
        self._journal.close()
        self._journal_path.unlink()
        _sync_folder(self.answers)

    def discard(self) -> None:
        """Leave nothing of the job behind."""
        self.close()
        for path in (self._journal_path, *self._partials):
            path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of the files; what was not committed will be computed again."""
        for file in (*self._files, self._journal):
            with suppress(OSError):
                file.close()

    def _refuse_existing(self, overwrite: bool) -> None:
        for path in (self.answers, self.problems):
            if path.exists() and not overwrite:
                raise FileExistsError(
                    f"expected a new file, {path} exists already; name another or allow it to be "
                    "overwritten"
                )

    def _read_journal(self) -> Progress | None:
        """What the journal says; None if it says nothing yet."""
        self._journal.seek(0)
        first, *lines = self._journal.read().split(b"\n")
        if not lines and self._header().startswith(first):
            return None  # killed before the first line was whole: nothing had been written
        try:
            job = dict(json.loads(first))
        except (ValueError, TypeError):
            raise ValueError(
                f"expected the journal of a job in {self._journal_path}, it holds something else; "
                "move it away, or restart the job"
            ) from None
        found, length = Progress(), len(first) + 1
        for line in lines[:-1]:  # what follows the last line break was never finished
            try:
                found = Progress(**json.loads(line))
            except (ValueError, TypeError):
                break
            length += len(line) + 1
        if job != self.job and not found.rows:
            return None  # nothing is lost
        if job != self.job:
            differing = ", ".join(k for k in self.job if job.get(k) != self.job[k]) or "version"
            raise ValueError(
                f"expected to go on with the job that {self._journal_path} tells of, but it "
                f"differs in: {differing}; give the same files and options, or restart it"
            )
        self._journal.truncate(length)
        return found

    def _header(self) -> bytes:
        return json.dumps(self.job).encode()

    def _open(self, found: Progress | None) -> None:
        """The partial files as long as the journal says; a new journal before new files."""
        if found is not None and found.done:  # killed between the renames: they alone are left
            self.progress = found
            return
        if found is None:
            self._journal.truncate(0)
            _sync(self._journal)
        self.progress = found or Progress()
        lengths = (self.progress.answers_bytes, self.progress.problems_bytes)
        for path, length in zip(self._partials, lengths, strict=True):
            file = path.open("r+b" if path.exists() else "w+b")
            self._files.append(file)
            if file.seek(0, os.SEEK_END) < length:
                raise ValueError(
                    f"expected at least {length} bytes in {path}, as {self._journal_path} says, "
                    "it was changed since; restart the job"
                )
            file.seek(length)
            file.truncate()
        if found is None:
            self._journal.write(self._header() + b"\n")
        self._commit()
        _sync_folder(self.answers)
        _sync_folder(self.problems)

    def _commit(self) -> None:
        """First the rows, then the line that tells of them."""
        for file in self._files:
            _sync(file)
        self._journal.write(json.dumps(asdict(self.progress)).encode() + b"\n")
        _sync(self._journal)
        self._written = time.monotonic()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    """Make names in the folder of a file outlast a loss of power, where the system can."""
    with suppress(OSError):  # Windows opens no folders
        folder = os.open(path.absolute().parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _lock(file: BinaryIO, path: Path) -> None:
    """One process at a time; a killed one lets go by itself."""
    lock(file.fileno(), path)
    if not path.exists() or not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise ValueError(f"another process has just finished {path}; try again")
