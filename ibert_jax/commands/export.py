"""`ibert-jax export`: an integer model as files that run without this package."""

from __future__ import annotations

import argparse
from pathlib import Path

from ibert_jax.commands.options import add_command, check_folder

_EXAMPLES = """\
  ibert-jax export my_integer_model exported
  ibert-jax export my_integer_model exported --format jax onnx
"""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "export",
        summary="write an integer model as a file that runs with JAX alone, or with ONNX Runtime, "
        "with vectors to check it by",
        examples=_EXAMPLES,
    )
    parser.add_argument("model", help="integer model")
    parser.add_argument("output", help="directory to write to")
    parser.add_argument(
        "--format",
        dest="formats",
        nargs="+",
        choices=("jax", "onnx"),
        default=["jax"],
        help="one or both of jax (StableHLO) and onnx; default: jax",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, and say how large it is."""
    check_folder(args.output)
    from ibert_jax.deploy import export
    from ibert_jax.frozen import IntegerModel

    try:
        export(IntegerModel.load(args.model), args.output, args.formats)
    except ModuleNotFoundError as error:  # an optional package, not a bug
        raise ValueError(str(error)) from None
    size = sum(path.stat().st_size for path in Path(args.output).iterdir() if path.is_file())
    print(f"exported to {args.output}, {size / 1e6:.1f} MB")
    return 0
