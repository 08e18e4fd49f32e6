"""`ibert-jax sensitivity`: which leaf costs how much when it is quantized."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ibert_jax.commands import console
from ibert_jax.commands.freeze import METHODS
from ibert_jax.commands.options import add_batching, add_command, positive
from ibert_jax.commands.texts import FORMATS, add_column, read_sample

_EXAMPLES = """\
  ibert-jax sensitivity my_checkpoint --text sentences.txt --group kind
  ibert-jax sensitivity my_checkpoint --text sentences.txt --leaves 'encoder.layer.0.*' \\
      --plot sensitivity.png
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "sensitivity",
        summary="measure which leaf costs how much when it is quantized",
        examples=_EXAMPLES,
    )
    parser.add_argument("checkpoint", help="model directory, float or quantization-aware")
    parser.add_argument(
        "--text",
        metavar="FILE",
        required=True,
        help="the model is calibrated on these sentences, unless its checkpoint holds ranges, and "
        f"its outputs are compared on the last of them: {FORMATS}",
    )
    add_column(parser)
    parser.add_argument(
        "--calibration-rows",
        type=positive,
        default=512,
        metavar="N",
        help="sentences to use, from the file's start (default: %(default)s)",
    )
    parser.add_argument(
        "--rows",
        type=positive,
        default=64,
        metavar="N",
        help="of those, the sentences to compare outputs on (default: %(default)s)",
    )
    parser.add_argument("--method", default="minmax", choices=METHODS, help="of calibration")
    parser.add_argument(
        "--group",
        default="leaf",
        choices=("leaf", "kind", "layer"),
        help="what is quantized together (default: %(default)s)",
    )
    parser.add_argument(
        "--leaves", default="*", metavar="PATTERN", help="leaves in question (default: all)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--plot", metavar="FILE", help="draw the table, too: .png, .svg or .pdf")
    add_batching(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Calibrate where needed, sweep, print."""
    if args.plot:
        _refuse_unwritable(Path(args.plot))

    from ibert_jax.analysis import sensitivity
    from ibert_jax.inference import load_model
    from ibert_jax.quantize import calibrate
    from ibert_jax.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(args.checkpoint)
    model = load_model(args.checkpoint)
    if not hasattr(model, "leaves"):
        raise ValueError(f"expected a checkpoint, {args.checkpoint} is frozen already")
    rows, longest = args.calibration_rows, args.max_length
    sample = read_sample(args.text, args.column, rows, model, tokenizer, longest)
    if not model.config.quant_mode:
        calibrate(model, sample.batches(args.batch_size), args.method)

    def progress(items: Any) -> Any:
        return console.progress(items, what=f"{args.group}s")

    chosen = sample.last(args.rows).of_one_shape(args.batch_size)  # the sweep is compiled once
    found = sensitivity(model, chosen, group=args.group, leaves=args.leaves, progress=progress)
    if args.plot:
        found.plot().savefig(args.plot)
    print(json.dumps(found.to_dict()) if args.json else found)
    return 0


def _refuse_unwritable(path: Path) -> None:
    """Before minutes are spent: is there matplotlib, and a place for the plot?"""
    if path.suffix not in (".png", ".svg", ".pdf") or not path.parent.is_dir():
        raise ValueError(f"expected a .png, .svg or .pdf in a folder that exists, got {path}")
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ValueError(
            "--plot needs matplotlib, which is not installed: pip install 'ibert-jax[notebooks]'"
        ) from None
