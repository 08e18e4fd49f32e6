"""`ibert-jax train`: finetune a checkpoint for a task in float, then quantization-aware."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ibert_jax.commands.console import results_table
from ibert_jax.commands.options import add_command, positive

_EXAMPLES = """\
  ibert-jax train my_bert --train train.tsv --dev dev.tsv --output run
  ibert-jax train my_bert --train a.tsv b.csv --output run --labels bad good --float-epochs 3
  ibert-jax train my_bert --task squad --train train-v1.1.json --dev dev-v1.1.json --output run
  ibert-jax train my_bert --task mrpc --output run          (data from the Hugging Face hub)
  ibert-jax train my_bert --task my_task.toml --train train.conll --dev dev.conll --output run
  ibert-jax freeze run/qat my_integer_model

a run that was interrupted continues when the same command is given again; --output then holds
float/, calibrated/ and qat/ (models with their tokenizer), metrics.jsonl and summary.json. A
task's file is a table of what its data mean; ibert_jax/training/tasks.toml has those with a name
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments: the fields of `TrainOptions`, with its defaults."""
    parser = add_command(
        commands,
        "train",
        summary="finetune a checkpoint for a task, in float and then quantization-aware",
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
    if summary["results"]:
        print(results_table("stage", summary["results"]))
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
        "--task",
        metavar="NAME",
        help="what the data are and how answers are measured: a name (cola, sst2, mrpc, qqp, stsb, "
        "mnli, snli, qnli, rte, wnli, wnut17, conll2003, ner, squad, commonsenseqa, swag, "
        "wikitext2) or a .toml or .json file (default: classification, of single sentences)",
    )
    group.add_argument(
        "--train",
        dest="train_files",
        nargs="+",
        default=(),
        metavar="FILE",
        help="labelled examples, UTF-8: .tsv (quotes mean nothing), .csv, .jsonl, .json, .parquet, "
        ".conll or plain text (default: the task's data set from the Hugging Face hub)",
    )
    group.add_argument(
        "--dev", dest="dev_file", metavar="FILE", help="labelled examples for evaluation only"
    )
    group.add_argument(
        "--output", required=True, metavar="DIR", help="the run's directory, models included"
    )
    kept = "default: the task's"
    group.add_argument("--text-column", metavar="NAME", help=kept)
    group.add_argument("--label-column", metavar="NAME", help=f"holds names or indices; {kept}")
    group.add_argument(
        "--max-train-examples", type=positive, metavar="N", help="read no more than the first N"
    )
    group.add_argument(
        "--max-dev-examples", type=positive, metavar="N", help="the same for evaluation"
    )
    group.add_argument(
        "--labels",
        nargs="+",
        metavar="NAME",
        help="label names in the order of their indices (default: the task's, or the model's)",
    )


def _add_schedule(group: argparse._ArgumentGroup) -> None:
    _number(group, "--float-epochs", int, 2, "passes over the data in float; 0 leaves them out")
    _number(group, "--qat-epochs", int, 1, "passes quantization-aware; 0 leaves them out")
    _number(group, "--learning-rate", float, 5e-5, "peak of the float stage's schedule")
    _number(group, "--qat-learning-rate", float, 5e-6, "peak of the second stage's schedule")
    _number(group, "--warmup", float, 0.1, "share of the float stage in which the rate rises")
    _number(group, "--qat-warmup", float, 0.0, "the same of the second stage")
    _number(group, "--batch-size", int, 32, "examples a step")
    group.add_argument(
        "--max-length",
        type=int,
        metavar="N",
        help="tokens at which an example is cut; questions have windows of so many (default: the "
        "task's, 128 or, for questions, 384)",
    )
    _number(group, "--length-buckets", int, 8, "lengths that are compiled, at most")
    group.add_argument(
        "--continue-float",
        action="store_true",
        help="as a third run, go on in float as long as quantization-aware, for a fair comparison",
    )
    group.add_argument(
        "--select-best",
        action="store_true",
        help="end each stage with its best epoch on --dev (default: with the last step's weights, "
        "nothing is chosen)",
    )
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
    _number(group, "--calibration-sentences", int, 512, "training examples that fill the ranges")


def _add_housekeeping(group: argparse._ArgumentGroup) -> None:
    _number(group, "--seed", int, 0, "of data order, dropout and a new head")
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
