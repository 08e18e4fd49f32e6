"""`ibert-jax train`: finetune a checkpoint for a task in float, then quantization-aware."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ibert_jax.commands.console import results_table
from ibert_jax.commands.options import add_command, positive
from ibert_jax.config import FORCE_DEQUANT
from ibert_jax.quant_config import SCHEMES

_EXAMPLES = """\
  ibert-jax train my_bert --train train.tsv --dev dev.tsv --output run
  ibert-jax train my_bert --train a.tsv b.csv --output run --labels bad good --float-epochs 3
  ibert-jax train my_bert --task squad --train train-v1.1.json --dev dev-v1.1.json --output run
  ibert-jax train my_bert --task mrpc --output run          (data from the Hugging Face hub)
  ibert-jax train my_bert --task my_task.toml --train train.conll --dev dev.conll --output run
  ibert-jax freeze run/qat my_integer_model

  ibert-jax train my_bert --task sst2 --train train.tsv --output run --weight-bits 4 \\
      --bit-overrides 'embeddings.*:weight_bits=8' --rate-factors 'classifier.*=10'

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
    add_options(parser)
    _number(parser, "--seed", int, 0, "of data order, dropout and a new head")
    _number(parser, "--learning-rate", float, 5e-5, "peak of the float stage's schedule")
    _number(parser, "--qat-learning-rate", float, 5e-6, "peak of the second stage's schedule")
    parser.set_defaults(run=run, goes_on=True)


def add_options(parser: argparse.ArgumentParser) -> None:
    """All but the seed and the learning rates, of which a sweep takes several."""
    parser.add_argument("model", help="checkpoint directory: I-BERT, RoBERTa or BERT, safetensors")
    _add_files(parser.add_argument_group("files"))
    _add_schedule(parser.add_argument_group("schedule"))
    _add_regularization(parser.add_argument_group("regularization"))
    _add_quantization(parser.add_argument_group("quantization"))
    _add_housekeeping(parser.add_argument_group("housekeeping"))


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
    others = ("command", "run", "goes_on", "json", "compile_cache", "traceback")
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
    _number(group, "--warmup", float, 0.1, "share of the float stage in which the rate rises")
    _number(group, "--qat-warmup", float, 0.0, "the same of the second stage")
    _number(group, "--batch-size", int, 32, "examples a step")
    _number(
        group,
        "--accumulate",
        int,
        1,
        "compute a batch in N equal parts, one after the other, which takes less memory; a step "
        "stays one step on the gradient of --batch-size examples",
    )
    group.add_argument(
        "--bfloat16",
        action="store_true",
        help="in the float stages, let GPUs and TPUs multiply matrices in bfloat16 (sums, "
        "weights and optimizer stay float32; CPUs compute as without)",
    )
    group.add_argument(
        "--devices",
        type=positive,
        metavar="N",
        help="local devices that share each batch (default: as many as can have equal shares); "
        "for several hosts see examples/many_hosts.py",
    )
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
    group.add_argument(
        "--rate-factors",
        nargs="+",
        type=pattern_and_number,
        default=(),
        metavar="PATTERN=X",
        help="factors of the learning rate for parameters by name, such as 'classifier.*=10' "
        "'embeddings.*=0'; the last pattern that matches counts",
    )


def _add_quantization(group: argparse._ArgumentGroup) -> None:
    kept = "default: the model's own"
    group.add_argument("--scheme", choices=SCHEMES, help=kept)
    group.add_argument(
        "--weight-bits", type=positive, metavar="N", help=f"of weights and tables, 2 to 8; {kept}"
    )
    group.add_argument(
        "--activation-bits", type=positive, metavar="N", help=f"of what enters a matmul; {kept}"
    )
    group.add_argument(
        "--bit-overrides",
        nargs="+",
        type=pattern_and_bits,
        default=(),
        metavar="PATTERN:SETTING=N",
        help="bits of leaves by their path, such as 'encoder.layer.0.*:activation_bits=4'; the "
        "last pattern that matches counts",
    )
    group.add_argument(
        "--momentum",
        type=float,
        metavar="X",
        help=f"of the ranges' moving average in training; -1, their running extremes; {kept}",
    )
    group.add_argument(
        "--freeze-ranges-after",
        type=int,
        metavar="N",
        help="steps of the quantization-aware stage after which its ranges stay (default: never)",
    )
    group.add_argument(
        "--force-dequant",
        choices=FORCE_DEQUANT,
        help=f"nonlinear functions left in float, for experiments; {kept}",
    )
    _number(group, "--calibration-sentences", int, 512, "training examples that fill the ranges")


def _add_housekeeping(group: argparse._ArgumentGroup) -> None:
    _number(group, "--checkpoint-every", int, 500, "steps between checkpoints")
    _number(group, "--keep-checkpoints", int, 2, "how many of the latest are kept")
    _number(group, "--log-every", int, 20, "steps between lines of the metrics file")
    group.add_argument(
        "--tensorboard",
        action="store_true",
        help="write the metrics for TensorBoard, too, to DIR/tensorboard (needs tensorboardX)",
    )
    group.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def pattern_and_number(text: str) -> tuple[str, float]:
    """An argparse type: PATTERN=X."""
    pattern, _, value = text.rpartition("=")
    try:
        return pattern, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"expected a pattern and a number, such as 'classifier.*=10', got {text!r}"
        ) from None


def pattern_and_bits(text: str) -> tuple[str, dict[str, int]]:
    """An argparse type: PATTERN:SETTING=N."""
    left, _, value = text.rpartition("=")
    pattern, _, setting = left.rpartition(":")
    if not pattern or not value.isdigit():
        raise argparse.ArgumentTypeError(
            "expected a pattern, a setting and its bits, such as "
            f"'encoder.layer.0.*:activation_bits=4', got {text!r}"
        )
    return pattern, {setting: int(value)}


def _number(group: Any, flag: str, kind: type, default: Any, text: str) -> None:
    """One numeric option; whether its value makes sense is for `TrainOptions` to say."""
    metavar = "N" if kind is int else "X"
    group.add_argument(
        flag, type=kind, default=default, metavar=metavar, help=f"{text} (default: %(default)s)"
    )
