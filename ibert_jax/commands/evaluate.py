"""`ibert-jax eval`: the accuracy of one or more models on the same sentences, in one run."""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ibert_jax.commands import console
from ibert_jax.commands.options import add_batching, add_command

if TYPE_CHECKING:
    from ibert_jax.inference import Predictor

_EXAMPLES = """\
  ibert-jax eval my_checkpoint my_integer_model --data dev.tsv
  ibert-jax eval my_integer_model --data reviews.tsv --text-column review --json
"""


@dataclass(frozen=True)
class _Result:
    """One model's answers. predicted: label indices, in the order of the sentences."""

    model: str
    predicted: list[int]
    correct: int
    tokens_per_second: float


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "eval",
        summary="compare the accuracy of models, float or integer, on the same sentences",
        examples=_EXAMPLES,
    )
    parser.add_argument("model", nargs="+", help="model directories; the first is the baseline")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="labelled sentences: .tsv (quotes mean nothing), .csv or .jsonl, UTF-8; labels are "
        "the model's names or indices",
    )
    parser.add_argument("--text-column", default="sentence", metavar="NAME")
    parser.add_argument("--label-column", default="label", metavar="NAME")
    parser.add_argument("--json", action="store_true", help="one JSON object a model and line")
    add_batching(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print each model's accuracy and its difference to the first model's."""
    from ibert_jax.inference import Predictor
    from ibert_jax.training import read_examples

    predictors = [
        Predictor.load(model, batch_size=args.batch_size, max_length=args.max_length)
        for model in args.model
    ]
    label2id = predictors[0].config.label2id
    for model, predictor in zip(args.model, predictors, strict=True):
        if dict(predictor.config.label2id) != dict(label2id):
            raise ValueError(
                f"expected models with the same labels, {args.model[0]} has "
                f"{', '.join(label2id)} and {model} has {', '.join(predictor.config.label2id)}"
            )
    data = read_examples(
        [args.data], label2id, text_column=args.text_column, label_column=args.label_column
    )
    results = [
        _evaluate(model, predictor, data.texts, data.labels)
        for model, predictor in zip(args.model, predictors, strict=True)
    ]
    if args.json:
        _print_json(results, len(data.texts))
    else:
        _print_table(results, len(data.texts))
    return 0


def _evaluate(model: str, predictor: Predictor, texts: list[str], labels: list[int]) -> _Result:
    """Answer every sentence with one model."""
    answers = console.progress(predictor.predict(texts), total=len(texts), what="sentences")
    label2id = predictor.config.label2id
    predicted = [label2id[answer.label] for answer in answers]
    correct = sum(mine == right for mine, right in zip(predicted, labels, strict=True))
    return _Result(model, predicted, correct, predictor.statistics.tokens_per_second)


def _differences(results: list[_Result]) -> list[int]:
    """How many sentences each model answers otherwise than the first."""
    first = results[0].predicted
    return [
        sum(mine != base for mine, base in zip(result.predicted, first, strict=True))
        for result in results
    ]


def _print_table(results: list[_Result], total: int) -> None:
    base = results[0].correct
    rows = [
        (
            result.model,
            f"{100 * result.correct / total:.2f}%",
            f"{result.correct}/{total}",
            f"{100 * (result.correct - base) / total:+.2f}",
            str(changed),
        )
        for result, changed in zip(results, _differences(results), strict=True)
    ]
    header = ("model", "accuracy", "correct", "points to first", "other answers")
    print(console.format_table(header, rows, right="<>>>>"))


def _print_json(results: list[_Result], total: int) -> None:
    base = results[0].correct
    for result, changed in zip(results, _differences(results), strict=True):
        record = {
            "model": result.model,
            "sentences": total,
            "correct": result.correct,
            "accuracy": result.correct / total,
            "difference": (result.correct - base) / total,
            "other_answers": changed,
            "tokens_per_second": result.tokens_per_second,
        }
        print(json.dumps(record))
