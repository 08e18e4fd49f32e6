"""`ibert-jax eval`: how well one or more models do their task, on the same examples, in one run."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ibert_jax.commands import console
from ibert_jax.commands.options import add_batching, add_command, positive

_EXAMPLES = """\
  ibert-jax eval my_checkpoint my_integer_model --data dev.tsv
  ibert-jax eval run/float run/qat my_integer_model --data dev-v1.1.json
  ibert-jax eval my_integer_model --data reviews.tsv --text-column review --json

a model's difference to the first one is told with its standard error over the examples (paired
bootstrap): what is within two of them may be chance
"""

_COMPARED = ("classification", "token_classification", "question_answering", "multiple_choice")
"""Kinds whose answers are the same or not."""


@dataclass(frozen=True)
class _Result:
    """One model's answers and measures, how much they differ from the first's, how fast it was.

    answers: one for each of `source`.
    """

    model: str
    answers: list[Any]
    source: Sequence[Any] = field(repr=False)
    measures: dict[str, float]
    primary: float
    tokens_per_second: float
    difference: float = 0.0
    difference_error: float = 0.0
    other_answers: int = 0


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "eval",
        summary="compare models, float or integer, on the same labelled examples",
        examples=_EXAMPLES,
    )
    parser.add_argument("model", nargs="+", help="model directories; the first is the baseline")
    parser.add_argument(
        "--data",
        required=True,
        metavar="FILE",
        help="labelled examples, UTF-8, as for `ibert-jax train`; labels are the model's names or "
        "indices",
    )
    parser.add_argument(
        "--task",
        metavar="NAME",
        help="a task's name or file (default: the one that the first model was trained for, or "
        "classification)",
    )
    kept = "default: the task's"
    parser.add_argument("--text-column", metavar="NAME", help=kept)
    parser.add_argument("--label-column", metavar="NAME", help=kept)
    parser.add_argument("--max-examples", type=positive, metavar="N", help="read the first N only")
    parser.add_argument("--json", action="store_true", help="one JSON object a model and line")
    add_batching(parser)
    parser.set_defaults(run=run)


def _refuse_other_answers(name: str, config: Any) -> None:
    """Refuse to take for one label of several what a model says otherwise."""
    if config.problem_type == "multi_label_classification":
        raise ValueError(
            f"expected a classifier of one label a text, {name} gives independent ones, which are "
            "not measured here"
        )
    if config.num_labels == 1:
        raise ValueError(
            f"expected a classifier, {name} gives one number; name its task, such as --task stsb, "
            'or a file with kind = "regression"'
        )


def run(args: argparse.Namespace) -> int:
    """Print each model's measures and their difference to the first model's."""
    from ibert_jax.inference import load_model
    from ibert_jax.tokenizer import Tokenizer
    from ibert_jax.training import KINDS, load_task, read_examples, task_of

    task = load_task(args.task) if args.task else None
    head = None if task is None else KINDS[task.kind].head.head
    models = [load_model(args.model[0], head)]
    task = task or task_of(models[0].config) or load_task("classification")
    if args.task is None and task.kind == "classification":
        _refuse_other_answers(args.model[0], models[0].config)
    task = task.replace(text=args.text_column, label=args.label_column)
    head = KINDS[task.kind].head.head
    models += [load_model(model, head) for model in args.model[1:]]
    if head != _head(models[0]):
        models[0] = load_model(args.model[0], head)
    labels = models[0].config.label2id
    for name, model in zip(args.model, models, strict=True):
        if dict(model.config.label2id) != dict(labels):
            raise ValueError(
                f"expected models with the same labels, {args.model[0]} has "
                f"{', '.join(labels)} and {name} has {', '.join(model.config.label2id)}"
            )
    examples = read_examples([args.data], task, labels, limit=args.max_examples)
    results = [
        _evaluate(name, model, Tokenizer.load(name), examples, task, args)
        for name, model in zip(args.model, models, strict=True)
    ]
    names = [models[0].config.id2label[index] for index in range(len(labels))]
    first = results[0]
    results[1:] = [_beside(first, result, task, names) for result in results[1:]]
    print(_json(results, len(examples)) if args.json else _table(results, task))
    return 0


def _head(model: Any) -> str:
    """The name of the head of a model or a program."""
    return getattr(model, "kind", type(model)).head


def _evaluate(
    name: str, model: Any, tokenizer: Any, examples: list[Any], task: Any, args: argparse.Namespace
) -> _Result:
    """Answer every example with one model."""
    from ibert_jax.training import batches_of, evaluate

    data = batches_of(
        examples,
        tokenizer=tokenizer,
        config=model.config,
        task=task,
        batch_size=args.batch_size,
        # A length is worth compiling where some batches have it.
        buckets=min(8, max(1, len(examples) // (8 * args.batch_size))),
        max_length=args.max_length,
    )
    if data.examples.truncated:
        console.note(f"{name}: {data.examples.truncated} of {len(examples)} examples were cut")
    started = time.perf_counter()
    found = evaluate(model, data, task)
    speed = len(data.examples.tokens) / (time.perf_counter() - started)
    if task.kind == "classification" and len(found.answers) > 1 == len(set(found.answers)):
        console.note(
            f"{name}: all {len(found.answers)} answers are "
            f"{model.config.id2label[int(found.answers[0])]!r}; a model that "
            "tells nothing apart agrees with any other such model"
        )
    return _Result(name, found.answers, data.examples.source, found.measures, found.primary, speed)


def _beside(first: _Result, result: _Result, task: Any, names: list[str]) -> _Result:
    """The same result, held against the first model's."""
    from ibert_jax.training import difference_error

    if len(first.source) != len(result.source):
        raise ValueError(
            f"expected models that cut the text alike, got {len(first.source)} pieces from "
            f"{first.model} and {len(result.source)} from {result.model}: compare models of one "
            "tokenizer and length, or give --max-length"
        )
    pairs = zip(result.answers, first.answers, strict=True)
    return replace(
        result,
        difference=result.primary - first.primary,
        difference_error=difference_error(
            first.answers, result.answers, result.source, task, names
        ),
        other_answers=sum(mine != base for mine, base in pairs),
    )


def _table(results: list[_Result], task: Any) -> str:
    first = results[0]
    compared = task.kind in _COMPARED
    columns = [*first.measures]
    # Shares are told in percent, so a difference of theirs is one of points.
    unit = 1 if task.metric == ("perplexity",) else 100
    rows = []
    for result in results:
        cells = [console.measure(name, result.measures[name]) for name in columns]
        difference = f"{unit * result.difference:+.2f} ± {unit * result.difference_error:.2f}"
        others = [str(result.other_answers)] if compared else []
        rows.append((result.model, *cells, difference, *others))
    header = ("model", *columns, "to first", *(["other answers"] if compared else []))
    return console.format_table(header, rows, right="<" + ">" * (len(header) - 1))


def _json(results: list[_Result], total: int) -> str:
    records = [
        {
            "model": result.model,
            "examples": total,
            **result.measures,
            "primary": result.primary,
            "difference": result.difference,
            "difference_error": result.difference_error,
            "other_answers": result.other_answers,
            "tokens_per_second": result.tokens_per_second,
        }
        for result in results
    ]
    return "\n".join(json.dumps(record) for record in records)
