"""`ibert-jax freeze`: a checkpoint becomes an integer program."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from ibert_jax.commands import console
from ibert_jax.commands.options import add_batching, add_command, check_folder, positive
from ibert_jax.commands.texts import FORMATS, add_column, read_sample

METHODS = ("minmax", "moving-average", "percentile", "mse", "entropy")
"""As ``quantize.calibration`` has them; named here so that help needs no JAX."""

_EXAMPLES = """\
  ibert-jax freeze my_quantized_checkpoint my_integer_model
  ibert-jax freeze my_float_checkpoint my_integer_model --calibration sentences.txt
  ibert-jax freeze my_float_checkpoint my_integer_model --calibration sentences.txt \\
      --method mse --search --no-correct-biases --ranges
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "freeze",
        summary="turn a checkpoint into an integer model",
        examples=_EXAMPLES,
    )
    parser.add_argument("checkpoint", help="model directory or hub id, float or quantization-aware")
    parser.add_argument("output", help="directory to write the integer model and tokenizer to")
    parser.add_argument(
        "--calibration",
        metavar="FILE",
        help="sentences to measure ranges on; needed for a checkpoint that was never trained "
        f"quantization-aware: {FORMATS}",
    )
    add_column(parser)
    parser.add_argument(
        "--calibration-rows",
        type=positive,
        default=512,
        metavar="N",
        help="sentences of that file to use, from its start (default: %(default)s)",
    )
    parser.add_argument(
        "--method",
        default="minmax",
        choices=METHODS,
        help="how ranges follow from what is measured (default: %(default)s)",
    )
    parser.add_argument(
        "--percentile",
        type=float,
        default=99.99,
        metavar="P",
        help="of the absolute values, for that method (default: %(default)s)",
    )
    parser.add_argument(
        "--search",
        action="store_true",
        help="choose the channel factors by comparing quantized with float outputs",
    )
    parser.add_argument(
        "--correct-biases",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="after calibration, shift biases so that quantizing leaves the mean of every channel "
        "where it was (default: yes)",
    )
    parser.add_argument(
        "--ranges",
        action="store_true",
        help="print the range, the scale and the saturation of every activation",
    )
    parser.add_argument(
        "--no-certificate",
        dest="certificate",
        action="store_false",
        help="do not certify the integer model (`ibert-jax certify` can do it later)",
    )
    add_batching(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate where asked to, freeze, and write program and tokenizer."""
    _refuse(args)
    from ibert_jax.analysis import calibration_report, correct_biases
    from ibert_jax.inference import load_model
    from ibert_jax.quantize import calibrate
    from ibert_jax.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(args.checkpoint)
    model = load_model(args.checkpoint)
    if not hasattr(model, "leaves"):
        raise ValueError(f"expected a checkpoint, {args.checkpoint} is frozen already")
    batches: list[dict[str, Any]] = []
    if args.calibration is not None:
        if args.correct_biases:
            _check_uncorrected(model)  # before minutes are spent
        rows, longest = args.calibration_rows, args.max_length
        sample = read_sample(args.calibration, args.column, rows, model, tokenizer, longest)
        batches = list(sample.batches(args.batch_size))
        calibrate(
            model,
            console.progress(batches, what="calibration batches"),
            args.method,
            percentile=args.percentile,
            search=args.search,
        )
        if args.correct_biases:
            correct_biases(model, console.progress(batches, what="bias correction batches"))
    program = _frozen(model)
    certificate = certified(program, batches) if args.certificate else None
    program.save(args.output, certificate)
    tokenizer.save(args.output)
    size = sum(path.stat().st_size for path in Path(args.output).iterdir() if path.is_file())
    if args.ranges:
        known = None if certificate is None else certificate.saturation
        print(calibration_report(model, batches, saturated=known))
    print(f"integer model written to {args.output}, {size / 1e6:.1f} MB")
    if certificate is not None:
        print(certificate)
    return 0


def _refuse(args: argparse.Namespace) -> None:
    """Before minutes are spent: is there the text, is there a place for the model?"""
    if args.calibration is None:
        given = [name for name in ("column", "search") if getattr(args, name)]
        given += ["method"] if args.method != METHODS[0] else []
        if given:
            raise ValueError(
                f"expected --calibration beside --{given[0]}, which says how ranges are measured"
            )
    elif not Path(args.calibration).exists():
        raise FileNotFoundError(
            f"expected a file of sentences, {args.calibration} is none; check the path for a typo"
        )
    check_folder(args.output)
    if (Path(args.output) / "config.json").exists():
        raise ValueError(
            f"expected a folder of its own for the integer model, {args.output} holds a "
            "checkpoint, which would be hidden by it; name another"
        )


def certified(program: Any, batches: list[dict[str, Any]]) -> Any:
    """The program's certificate; saturation from the calibration batches of the commonest shape.

    Of a model that keeps operations in float on purpose, it says so.
    """
    from ibert_jax.proof import certify, examine

    shapes = Counter(batch["input_ids"].shape for batch in batches)
    common = [b for b in batches if b["input_ids"].shape == shapes.most_common(1)[0][0]]
    length = min(128, program.config.max_sequence_length)
    judge = certify if program.config.force_dequant == "none" else examine
    return judge(program, sequence_length=length, batches=common)


def _check_uncorrected(model: Any) -> None:
    """`check_uncorrected`, whose advice is put in this command's terms."""
    from ibert_jax.analysis.bias_correction import check_uncorrected

    try:
        check_uncorrected(model)
    except ValueError as error:
        raise ValueError(f"{error} (--no-correct-biases)") from None


def _frozen(model: Any) -> Any:
    """`freeze`, whose advice for an uncalibrated model is put in this command's terms."""
    from ibert_jax.frozen import freeze

    try:
        return freeze(model)
    except ValueError as error:
        if "never calibrated" not in str(error):
            raise
        raise ValueError(
            "expected --calibration FILE, sentences to measure ranges on, as the checkpoint was "
            f"never trained quantization-aware: {str(error).partition(';')[0]}"
        ) from None
