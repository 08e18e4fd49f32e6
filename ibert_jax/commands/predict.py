"""`ibert-jax predict`: label sentences from arguments, a file or standard input."""

from __future__ import annotations

import argparse
import itertools
import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from ibert_jax.commands import console
from ibert_jax.commands.options import add_batching, add_command
from ibert_jax.lines import Line, decode_lines, not_blank, read_lines

if TYPE_CHECKING:
    from ibert_jax.inference import Prediction

_EXAMPLES = """\
  ibert-jax predict "a moving, funny film" "two hours I will never get back"
  ibert-jax predict --file reviews.txt --json > answers.jsonl
  cut -f2 reviews.tsv | ibert-jax predict --model my_integer_model
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands, "predict", summary="label sentences, one a line", examples=_EXAMPLES
    )
    parser.add_argument("sentence", nargs="*", help="sentences; none: read standard input")
    parser.add_argument(
        "--file", metavar="FILE", help="read sentences from a UTF-8 text file, one a line"
    )
    parser.add_argument(
        "--model",
        metavar="DIR",
        help="integer model or checkpoint (default: the sentiment model inside the package)",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="one JSON object a line: line, text, label, score, probabilities, tokens, truncated",
    )
    add_batching(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Answer every sentence in order; blank lines are skipped."""
    lines = _sentences(args)
    # A file that is missing or empty should not first cost the time to load a model.
    first = next(lines)

    from ibert_jax.inference import Predictor

    options = {"batch_size": args.batch_size, "max_length": args.max_length}
    predictor = (
        Predictor.default(**options)
        if args.model is None
        else Predictor.load(args.model, **options)
    )
    labels = predictor.config.id2label.values()
    numbers: deque[int] = deque()
    texts = _numbered(itertools.chain((first,), lines), numbers)
    shown = console.progress(predictor.predict(texts), what="sentences")
    if args.json:
        _print_json(shown, numbers)
    else:
        _print_table(shown, label_width=max(5, *map(len, labels)))
    done = predictor.statistics
    if done.truncated:
        console.note(
            f"{done.truncated} of {done.rows} sentences were longer than {predictor.max_length} "
            "tokens and were cut there"
        )
    return 0


def _sentences(args: argparse.Namespace) -> Iterator[Line]:
    """The sentences of whichever source was given."""
    if args.sentence and args.file:
        raise ValueError("expected sentences or --file, got both; give one of the two")
    if args.sentence:
        for number, text in enumerate(args.sentence, 1):
            if not text.strip():
                raise ValueError(f"expected a sentence, got an empty argument (number {number})")
        return (Line(number, text) for number, text in enumerate(args.sentence, 1))
    if args.file and args.file != "-":
        return not_blank(read_lines(args.file), args.file)
    if sys.stdin.isatty():
        console.note("reading sentences from the terminal, one a line; end with Ctrl-D")
    return not_blank(decode_lines(sys.stdin.buffer, "standard input"), "standard input")


def _numbered(lines: Iterable[Line], numbers: deque[int]) -> Iterator[str]:
    """The texts; their line numbers wait in `numbers` until the answers take them."""
    for line in lines:
        numbers.append(line.number)
        yield line.text


def _print_json(predictions: Iterable[Prediction], numbers: deque[int]) -> None:
    for prediction in predictions:
        record = {
            "line": numbers.popleft(),
            "text": prediction.text,
            "label": prediction.label,
            "score": prediction.score,
            "probabilities": prediction.probabilities,
            "tokens": prediction.tokens,
            "truncated": prediction.truncated,
        }
        # ASCII only: no separator inside a text can then be taken for the end of a line.
        print(json.dumps(record))


def _print_table(predictions: Iterable[Prediction], *, label_width: int) -> None:
    """Rows as they come: the columns' widths are known beforehand."""
    space = max(20, console.terminal_width() - label_width - 11)
    header = f"{'label':<{label_width}}  {'score':>7}  sentence"
    for index, prediction in enumerate(predictions):
        if index == 0:  # not before there is an answer: nothing may precede an error
            print(header)
        text = console.shortened(prediction.text, space)
        print(f"{prediction.label:<{label_width}}  {prediction.score:>7.4f}  {text}")
