"""`ibert-jax train`: finetune a checkpoint in float, then quantization-aware."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ibert_jax.commands import console
from ibert_jax.commands.options import add_command, positive

_EXAMPLES = """\
  ibert-jax train my_bert --train train.tsv --dev dev.tsv --output run
  ibert-jax train my_bert --train a.tsv b.csv --output run --labels bad good --float-epochs 3
  ibert-jax freeze run/qat my_integer_model

a run that was interrupted continues when the same command is given again; --output then holds
float/ and qat/ (models with their tokenizer), metrics.jsonl and summary.json
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments: the fields of `TrainOptions`, with its defaults."""
    parser = add_command(
        commands,
        "train",
        summary="finetune a checkpoint on labelled sentences, in float and then quantization-aware",
        examples=_EXAMPLES,
    )
    parser.add_argument("model", help="checkpoint directory: I-BERT, RoBERTa or BERT, safetensors")
    _add_files(parser.add_argument_group("files"))
    _add_schedule(parser.add_argument_group("schedule"))
    _add_regularization(parser.add_argument_group("regularization and quantization"))
    _add_housekeeping(parser.add_argument_group("housekeeping"))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Train, and print where the models are and what accuracy each reached."""
    from ibert_jax.training import TrainOptions, finetune

    summary = finetune(TrainOptions(**fields(args)))
    if args.json:
        print(json.dumps(summary))
        return 0
    if summary["accuracy"]:
        rows = [
            (stage, f"{100 * found['accuracy']:.2f}%", f"{found['correct']}/{found['total']}")
            for stage, found in summary["accuracy"].items()
        ]
        print(console.format_table(("stage", "accuracy", "correct"), rows, right="<>>"))
    for stage in summary["steps"]:
        print(f"{stage} model written to {Path(args.output) / stage}")
    return 0


def fields(args: argparse.Namespace) -> dict[str, Any]:
    """The parsed arguments under the names of `TrainOptions`."""
    others = ("command", "run", "json", "compile_cache", "traceback")
    values = {name: value for name, value in vars(args).items() if name not in others}
    for name in ("train_files", "labels"):
        values[name] = None if values[name] is None else tuple(values[name])
    return values


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--train",
        dest="train_files",
        nargs="+",
        required=True,
        metavar="FILE",
        help="labelled sentences: .tsv (quotes mean nothing), .csv or .jsonl, UTF-8",
    )
    group.add_argument(
        "--dev", dest="dev_file", metavar="FILE", help="labelled sentences for evaluation only"
    )
    group.add_argument(
        "--output", required=True, metavar="DIR", help="the run's directory, models included"
    )
    group.add_argument(
        "--text-column", default="sentence", metavar="NAME", help="default: %(default)s"
    )
    group.add_argument(
        "--label-column",
        default="label",
        metavar="NAME",
        help="a label is a name or an index (default: %(default)s)",
    )
    group.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="label names in the order of their indices (default: those of the model)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    _number(group, "--float-epochs", int, 2, "passes over the data in float; 0 leaves them out")
    _number(group, "--qat-epochs", int, 1, "passes quantization-aware; 0 leaves them out")
    _number(group, "--learning-rate", float, 5e-5, "peak of the float stage's schedule")
    _number(group, "--qat-learning-rate", float, 5e-6, "peak of the second stage's schedule")
    _number(group, "--warmup", float, 0.1, "share of the float stage in which the rate rises")
    _number(group, "--qat-warmup", float, 0.0, "the same of the second stage")
    _number(group, "--batch-size", int, 32, "sentences a step")
    _number(group, "--max-length", int, 128, "tokens at which a sentence is cut")
    _number(group, "--length-buckets", int, 8, "sentence lengths that are compiled, at most")
    group.add_argument(
        "--max-steps",
        type=positive,
        metavar="N",
        help="end each stage after so many steps, for trying things out",
    )


def _add_regularization(group: argparse._ArgumentGroup) -> None:
    _number(group, "--weight-decay", float, 0.01, "AdamW's, not on biases and LayerNorm")
    _number(group, "--clip-norm", float, 1.0, "the largest global norm of a gradient")
    kept = "default: the model's own"
    group.add_argument("--dropout", type=float, metavar="X", help=kept)
    group.add_argument("--attention-dropout", type=float, metavar="X", help=kept)
    group.add_argument("--scheme", choices=("channel", "reference"), help=kept)
    _number(group, "--calibration-sentences", int, 512, "training sentences that fill the ranges")


def _add_housekeeping(group: argparse._ArgumentGroup) -> None:
    _number(group, "--seed", int, 0, "of data order, dropout and a new classification head")
    _number(group, "--checkpoint-every", int, 500, "steps between checkpoints")
    _number(group, "--keep-checkpoints", int, 2, "how many of the latest are kept")
    _number(group, "--log-every", int, 20, "steps between lines of the metrics file")
    group.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def _number(group: argparse._ArgumentGroup, flag: str, kind: type, default: Any, text: str) -> None:
    """One numeric option; whether its value makes sense is for `TrainOptions` to say."""
    metavar = "N" if kind is int else "X"
    group.add_argument(
        flag, type=kind, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
    )
