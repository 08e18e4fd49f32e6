"""A file of rows in, a file of answers out."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from ibert_jax.checkpoints import locate
from ibert_jax.files import naming
from ibert_jax.inference.journal import Output, Progress
from ibert_jax.inference.predictor import Predictor
from ibert_jax.inference.results import INPUTS, Refused, Result, record
from ibert_jax.inference.sources import Row, Source
from ibert_jax.lines import COMPRESSED

# Of a file's beginning and end, enough to tell it from another of the same size.
_SAMPLE = 2**16

_BREAKS = re.compile(r"[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]")

_HASHED = ("*.safetensors", "config.json", "integer_model.json", "tokenizer*.json", "vocab.*")


def predict_file(
    predictor: Predictor,
    source: Source,
    output: str | Path,
    *,
    problems: str | Path | None = None,
    model: str | Path | None = None,
    inputs: bool = True,
    restart: bool = False,
    overwrite: bool = False,
    report: Callable[[Progress, Source], None] | None = None,
) -> Progress:
    """Answer every row of a source, in its order, into a file that appears complete or not at all.

    Each good row gives one row of output, which begins with its line number, `line`. Each bad one
    gives an object in `problems`, `line` and `reason`, and does not stop the job. A job that was
    killed goes on when it is called again in the same way, and ends with the same bytes; one that
    reads a stream begins anew.

    Args:
      output: .tsv (quotes mean nothing) or .csv for a table, what is not a plain value as JSON in
        its cell; else JSON lines.
      problems: where bad rows are told of; by default `output` with ".bad.jsonl" behind its name.
      model: the directory, or the id on the hub, that the predictor was loaded from, so that a job
        is not gone on with by another model.
      inputs: whether to repeat the texts in the answers.
      restart: begin anew, whatever an earlier job left.
      overwrite: whether finished files may be replaced.
      report: called after every window with how far the job has come.

    Returns:
      How far it came, over all runs.

    Raises:
      FileExistsError: the output is there already.
      FileNotFoundError, IsADirectoryError: there is no folder for a file to be written, or one in
        its place.
      ValueError: another job's partial output is there; not a single row could be answered; two
        of input, output and problems are one file; a kept column is called as a field of the
        answers.
    """
    output = Path(output)
    problems = output.with_name(output.name + ".bad.jsonl") if problems is None else Path(problems)
    _refuse_places(source, output, problems)
    refuse_kept(predictor, source, inputs=inputs)
    job = _job(predictor, source, model, inputs)
    new = restart or source.size is None
    with naming(output):
        opened = Output(output, problems, job, restart=new, overwrite=overwrite)
    with opened as out:
        if not out.progress.done:
            try:
                reason = _run(predictor, source, out, _formatter(output), inputs, report)
            except Exception:
                if not out.progress.rows:
                    out.discard()
                raise
            if not out.progress.answered:
                rows = out.progress.rows
                out.discard()
                said = f"none of the {rows} rows could be answered; the first: {reason}"
                raise ValueError(f"{source.name}: {said}" if rows else f"{source.name} is empty")
        with naming(output):
            out.finish()
        return out.progress


def refuse_kept(predictor: Predictor, source: Source, *, inputs: bool = True) -> None:
    """Raise ValueError for a column to be kept that is called as a field of the answers.

    inputs: whether those repeat the texts.
    """
    names = ["line", *(field.name for field in fields(predictor.task.result))]
    taken = {name for name in names if inputs or name not in INPUTS}
    for name in source.described()["keep"]:
        if name in taken:
            raise ValueError(
                f"expected columns to keep of other names than the answers' fields, got {name!r}; "
                f"rename the column in {source.name}, or do not keep it"
            )


def _refuse_places(source: Source, output: Path, problems: Path) -> None:
    """Refuse to write where something else is read or written, or what a name only promises."""
    if output.suffix.lower() in (*COMPRESSED, ".parquet"):
        raise ValueError(
            f"expected an output ending in .jsonl, .tsv or .csv, got {output}: answers are written "
            "as plain text"
        )
    places = {"the output": output, "the file of bad rows": problems}
    for what, path in places.items():
        if path.is_dir():
            raise IsADirectoryError(
                f"expected a file for {what}, {path} is a folder; name one in it"
            )
        if not path.parent.is_dir():
            raise FileNotFoundError(
                f"expected a folder for {what}, {path.parent} is none; make it, or name another"
            )
    if source.path is not None:
        places["the input"] = source.path
    seen: dict[Path, str] = {}
    for what, path in places.items():
        other = seen.setdefault(path.resolve(), what)
        if other != what:
            raise ValueError(f"expected {other} and {what} to be two files, both are {path}")


def _run(
    predictor: Predictor,
    source: Source,
    out: Output,
    formatter: Callable[[Row, Result, bool, bool], str],
    inputs: bool,
    report: Callable[[Progress, Source], None] | None,
) -> str:
    """Answer what has not been answered yet; returns what was wrong with the first bad row."""
    waiting: deque[Row] = deque()
    first_reason = ""
    for results in predictor.stream(_asked(predictor, source, out.progress.rows, waiting)):
        answers: list[str] = []
        bad: list[str] = []
        tokens = truncated = 0
        for result in results:
            row = waiting.popleft()
            if isinstance(result, Refused):
                first_reason = first_reason or f"line {row.number}: {result.reason}"
                bad.append(json.dumps({"line": row.number, "reason": result.reason}) + "\n")
                continue
            tokens += result.tokens
            truncated += result.truncated
            answers.append(formatter(row, result, inputs, not (answers or out.progress.answered)))
        done = out.progress
        done = replace(
            done,
            rows=done.rows + len(results),
            answered=done.answered + len(answers),
            bad=done.bad + len(bad),
            tokens=done.tokens + tokens,
            truncated=done.truncated + truncated,
        )
        lines = "".join(answers).encode(errors="backslashreplace"), "".join(bad).encode()
        with naming(out.answers):
            out.write(*lines, done)
        if report is not None:
            report(out.progress, source)
    return first_reason


def _asked(
    predictor: Predictor, source: Source, skipped: int, waiting: deque[Row]
) -> Iterator[Any]:
    """What the predictor is to answer; the rows wait for their answers meanwhile."""
    for row in itertools.islice(source, skipped, None):
        waiting.append(row)
        if row.cells is None:
            yield Refused(row.problem or "no value")
            continue
        try:
            asked = predictor.task.row(row.cells)
        except (TypeError, ValueError) as error:
            asked = Refused(str(error))
        yield asked


def _formatter(output: Path) -> Callable[[Row, Result, bool, bool], str]:
    """How a row of output is written: from the row, its result, whether to repeat the texts, and
    whether it is the first."""
    delimiter = {".tsv": "\t", ".csv": ","}.get(output.suffix.lower())

    def as_json(row: Row, result: Result, inputs: bool, first: bool) -> str:
        del first
        values = {"line": row.number, **row.kept, **record(result, inputs=inputs)}
        # ASCII only: no separator inside a text can then be taken for the end of a line.
        return json.dumps(values, default=str) + "\n"

    def as_table(row: Row, result: Result, inputs: bool, first: bool) -> str:
        values = {"line": row.number, **row.kept, **record(result, inputs=inputs)}
        lines = [[*values]] if first else []
        lines.append([_cell(value) for value in values.values()])
        if delimiter == "\t":  # as it is read here: quotes mean nothing
            return "".join("\t".join(map(_one_line, cells)) + "\n" for cells in lines)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(lines)
        return text.getvalue()

    return as_json if delimiter is None else as_table


def _cell(value: Any) -> str:
    return str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _one_line(cell: str) -> str:
    """A space for each tab and line break, for which a table of cells between tabs has no place."""
    return _BREAKS.sub(" ", cell)


def _job(
    predictor: Predictor, source: Source, model: str | Path | None, inputs: bool
) -> dict[str, Any]:
    """What decides the output's bytes, as plain values."""
    task = predictor.task
    own = [field.name for field in fields(task) if field.name not in ("config", "tokenizer")]
    return {
        "version": 1,
        "input": source.fingerprint(_SAMPLE),
        "columns": source.described(),
        "model": None if model is None else _hash_of(locate(model)),
        "task": task.head,
        "options": {name: getattr(task, name) for name in own},
        "batch_size": predictor.batch_size,
        "inputs": inputs,
    }


def _hash_of(directory: Path) -> str:
    """A hash of the files that decide a model's answers."""
    digest = hashlib.sha256()
    for path in sorted({path for pattern in _HASHED for path in directory.glob(pattern)}):
        with path.open("rb") as file:
            digest.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
