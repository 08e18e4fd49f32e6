"""`ibert-jax predict`: answer rows from arguments, a file or standard input."""

from __future__ import annotations

import argparse
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any

from ibert_jax.commands import console
from ibert_jax.commands.options import add_batching, add_command, positive

if TYPE_CHECKING:
    from ibert_jax.inference import Predictor, Row, Source

_EXAMPLES = """\
  ibert-jax predict "a moving, funny film" "two hours I will never get back"
  ibert-jax predict --file reviews.txt --json > answers.jsonl
  cut -f2 reviews.tsv | ibert-jax predict --model my_integer_model
  ibert-jax predict --file reviews.csv.gz --column review --output answers.jsonl
  ibert-jax predict --model my_nli --file pairs.tsv --column premise --column hypothesis \\
      --keep id --output answers.tsv

with --output, rows that cannot be read are told of in a file of their own, and a job that was
killed goes on when the same command is given again
"""

_OPTIONS = ("top_k", "overlap", "no_answer", "normalize")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "predict",
        summary="label texts, find entities or answers, fill masks, choose, embed: as the model's "
        "head does",
        examples=_EXAMPLES,
    )
    parser.add_argument("sentence", nargs="*", help="sentences; none: read standard input")
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="integer model or checkpoint (default: the sentiment model inside the package)",
    )
    parser.add_argument(
        "--task",
        metavar="HEAD",
        help="head to read a checkpoint for: sequence_classification, token_classification, "
        "question_answering, multiple_choice, masked_lm, or model for sentence vectors (default: "
        "the one it has)",
    )
    rows = parser.add_argument_group("what is read")
    rows.add_argument(
        "--file",
        metavar="FILE",
        help="UTF-8 text, one sentence a line, or .tsv, .csv, .jsonl, .json, .parquet, .conll "
        "(of which the words are read); also as .gz, .bz2 or .xz",
    )
    rows.add_argument(
        "--format",
        choices=("text", "tsv", "csv", "jsonl", "json", "parquet", "conll"),
        help="how to read the file or standard input (default: as the file's name says, else text)",
    )
    rows.add_argument(
        "--column",
        "--text-column",
        action="append",
        default=[],
        metavar="NAME",
        help="column to read, given again for the second of a pair, the context of a question or "
        "each choice (default: sentence, text, question and context, ...)",
    )
    rows.add_argument(
        "--keep",
        action="append",
        default=[],
        metavar="NAME",
        help="column to hand on to the output; may be given again",
    )
    written = parser.add_argument_group("what is written")
    written.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: line, text, label, score, probabilities, tokens, truncated",
    )
    written.add_argument(
        "--output",
        metavar="FILE",
        help="write there, all or nothing: a table if it ends in .tsv or .csv, else JSON lines",
    )
    written.add_argument(
        "--bad-rows",
        metavar="FILE",
        help="where rows that cannot be read are told of (default: OUTPUT.bad.jsonl)",
    )
    written.add_argument("--no-text", action="store_true", help="do not repeat the texts")
    written.add_argument(
        "--restart", action="store_true", help="do not go on with a job that was killed"
    )
    written.add_argument("--overwrite", action="store_true", help="replace finished files")
    answers = parser.add_argument_group("what is answered")
    answers.add_argument(
        "--top-k", type=positive, metavar="N", help="candidates a mask, or answers a question"
    )
    answers.add_argument(
        "--overlap",
        type=positive,
        metavar="N",
        help="tokens that the stretches of a long text share",
    )
    answers.add_argument(
        "--no-answer",
        action="store_true",
        default=None,
        help="a context may hold no answer",
    )
    answers.add_argument(
        "--normalize",
        action="store_true",
        default=None,
        help="sentence vectors of length 1 (they are means over tokens)",
    )
    add_batching(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer every row in order."""
    if args.sentence and args.file:
        raise ValueError("expected sentences or --file, got both; give one of the two")
    if args.bad_rows and not args.output:
        raise ValueError("expected --output beside --bad-rows; without it a bad row is an error")
    for name in ("restart", "overwrite"):
        if getattr(args, name) and not args.output:
            raise ValueError(f"expected --output beside --{name}; without it no file is written")
    if args.sentence:
        for name in ("format", "column", "keep"):
            if getattr(args, name):
                raise ValueError(f"expected --file beside --{name}, got sentences; leave it out")
        if args.output:
            raise ValueError("expected --file beside --output, got sentences; put them in a file")
        return _show(args, _arguments(args.sentence), None)

    from ibert_jax.inference import Source

    named = None if args.file in (None, "-") else args.file
    if named is None and sys.stdin is None:
        raise ValueError("expected sentences, --file or standard input, which is closed; give one")
    if named is None and sys.stdin.isatty():
        console.note("reading sentences from the terminal, one a line; end with Ctrl-D")
    source = Source(
        named,
        stream=None if named else sys.stdin.buffer,
        format="jsonl" if args.format == "json" else args.format,  # which it is, is seen
        columns=args.column,
        keep=args.keep,
    )
    if args.output:
        args.goes_on = source.size is not None
        return _write(args, source)
    return _show(args, _strict(source), source)


def _show(args: argparse.Namespace, rows: Iterator[Row], source: Source | None) -> int:
    """Answer rows on standard output; a bad row is an error, a blank one is skipped."""
    from ibert_jax.inference.job import refuse_kept

    if source is None or source.format == "text":
        # A file that is missing or empty should not first cost the time to load a model.
        rows = chain([next(rows)], rows)
    predictor = _predictor(args)
    if source is not None:
        source.known = predictor.task.columns
        if args.json:  # what is kept is shown nowhere else
            refuse_kept(predictor, source, inputs=not args.no_text)
    waiting: deque[Row] = deque()
    answers = predictor.predict(_asked(predictor, rows, waiting, source))
    shown = console.progress(answers, what="sentences")
    if args.json:
        _print_json(shown, waiting, inputs=not args.no_text)
    else:
        _print_table(shown, list(predictor.config.id2label.values()))
    done = predictor.statistics
    _note_truncated(done.truncated, done.rows, predictor.max_length)
    return 0


def _write(args: argparse.Namespace, source: Source) -> int:
    """Answer a file into a file."""
    from ibert_jax.inference import default_directory, predict_file

    predictor = _predictor(args)
    source.known = predictor.task.columns
    with console.ByteProgress(source.size) as bar:
        done = predict_file(
            predictor,
            source,
            args.output,
            problems=args.bad_rows,
            model=args.model or default_directory(),
            inputs=not args.no_text,
            restart=args.restart,
            overwrite=args.overwrite,
            report=lambda done, source: bar.show(
                source.position, done.rows, predictor.statistics.tokens_per_second
            ),
        )
    console.note(
        f"{done.answered:,} of {done.rows:,} rows answered in {args.output}, "
        f"{predictor.statistics.tokens_per_second:,.0f} tokens a second"
    )
    if done.bad:
        told = args.bad_rows or f"{args.output}.bad.jsonl"
        console.note(f"{done.bad:,} rows could not be read; {told} says which and why")
    _note_truncated(done.truncated, done.answered, predictor.max_length)
    return 0


def _predictor(args: argparse.Namespace) -> Predictor:
    from ibert_jax.inference import Predictor, default_directory

    options = {name: getattr(args, name) for name in _OPTIONS if getattr(args, name) is not None}
    try:
        return Predictor.load(
            args.model or default_directory(),
            task=args.task,
            batch_size=args.batch_size,
            max_length=args.max_length,
            **options,
        )
    except TypeError as error:
        if "has no option" not in str(error):
            raise
        raise ValueError(str(error)) from None


def _note_truncated(truncated: int, rows: int, length: int) -> None:
    if truncated:
        console.note(
            f"{truncated} of {rows} sentences were longer than {length} tokens and were cut there"
        )


def _arguments(sentences: list[str]) -> Iterator[Row]:
    """The command line's own arguments as rows."""
    from ibert_jax.inference import Row

    for number, text in enumerate(sentences, 1):
        if not text.strip():
            raise ValueError(f"expected a sentence, got an empty argument (number {number})")
    return (Row(number, (text,), {}, None) for number, text in enumerate(sentences, 1))


def _strict(source: Source) -> Iterator[Row]:
    """The rows of a source with something on them; what cannot be read is an error.

    Raises ValueError, at the end, where there was none at all.
    """
    found, empty = False, 0
    for row in source:
        if row.empty:
            empty += 1
            continue
        if row.problem is not None:
            raise _bad(row, row.problem, source)
        found = True
        yield row
    if not found:
        raise ValueError(f"expected at least one sentence, {source.name} holds none")
    if empty:
        console.note(
            f"{empty} of the rows of {source.name} hold no text and have no answer; --json gives "
            "each answer's line"
        )


def _bad(row: Row, problem: str, source: Source | None) -> ValueError:
    """The error that says which row cannot be answered. source: None for the arguments."""
    if source is None:
        return ValueError(f"sentence {row.number}: {problem}")
    return ValueError(
        f"line {row.number} of {source.name}: {problem}; mend it, or give --output, with which "
        "bad rows are told of and left out"
    )


def _asked(
    predictor: Predictor, rows: Iterable[Row], waiting: deque[Row], source: Source | None
) -> Iterator[Any]:
    """What the predictor is to answer; the rows wait in `waiting` until the answers take them."""
    for row in rows:
        asked = predictor.task.row(row.cells or ())
        try:
            predictor.task.check(asked)
        except (TypeError, ValueError) as error:
            raise _bad(row, str(error), source) from None
        waiting.append(row)
        yield asked


def _print_json(results: Iterable[Any], waiting: deque[Row], *, inputs: bool) -> None:
    from ibert_jax.inference import record

    for result in results:
        row = waiting.popleft()
        values = {"line": row.number, **row.kept, **record(result, inputs=inputs)}
        # ASCII only: no separator inside a text can then be taken for the end of a line.
        print(json.dumps(values, default=str))


def _print_table(results: Iterable[Any], labels: list[str]) -> None:
    """Rows as they come: the columns' widths are known beforehand."""
    from ibert_jax.inference import Prediction

    width = max(5, *map(len, labels))
    space = max(20, console.terminal_width() - width - 11)
    for index, result in enumerate(results):
        classified = isinstance(result, Prediction)
        if index == 0:  # not before there is an answer: nothing may precede an error
            print(f"{'label':<{width}}  {'score':>7}  sentence" if classified else "answer")
        if classified:
            text = console.shortened(result.text, space)
            print(f"{result.label:<{width}}  {result.score:>7.4f}  {text}")
        else:
            print(console.shortened(_brief(result), console.terminal_width()))


def _brief(result: Any) -> str:
    """A result in a line, for people; --json has all of it."""
    from ibert_jax.inference import Answer, Choice, Embedding, Entities

    if isinstance(result, Entities):
        found = (f"{e.text} ({e.label} {e.score:.4f})" for e in result.entities)
        return ", ".join(found) or "no entity"
    if isinstance(result, Answer):
        return f"{result.answer or 'no answer'} ({result.score:.4f})"
    if isinstance(result, Choice):
        return f"{result.choice} ({result.score:.4f})"
    if isinstance(result, Embedding):
        return " ".join(f"{number:.4f}" for number in result.vector)
    return result.filled
