"""`ibert-jax certify`: prove that an integer model computes in integers, and overflows nowhere."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from typing import Any

from ibert_jax.commands import console
from ibert_jax.commands.options import add_command, positive
from ibert_jax.commands.texts import FORMATS, add_column, read_sample

_EXAMPLES = """\
  ibert-jax certify my_integer_model --save
  ibert-jax certify my_integer_model --batch-size 1 --sequence-length 512
"""


_SENTENCES = 512


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "certify",
        summary="prove that an integer model computes in integers alone and that none overflows, "
        "or name the operation that does not",
        examples=_EXAMPLES,
    )
    parser.add_argument(
        "model", nargs="?", help="integer model (default: the one inside the package)"
    )
    parser.add_argument("--batch-size", type=positive, default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--sequence-length",
        type=positive,
        metavar="N",
        help="default: 128, or what the model's positions allow",
    )
    parser.add_argument(
        "--text",
        metavar="FILE",
        help=f"the share of saturated activations is measured on its first {_SENTENCES} sentences: "
        f"{FORMATS}",
    )
    add_column(parser)
    parser.add_argument(
        "--json",
        action="store_true",
        help="the whole certificate: every operation counted, every tensor's range and bits, "
        "every clip",
    )
    parser.add_argument(
        "--save",
        action="store_true",
        help="write certificate.json beside the model; loading the model then checks its hash",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the certificate; 1 where an operation breaks it, which is then named."""
    from ibert_jax.frozen import IntegerModel
    from ibert_jax.frozen.storage import save_certificate
    from ibert_jax.inference import default_directory
    from ibert_jax.proof import CertificateError, certify

    if args.save and args.model is None:
        raise ValueError("expected a model beside --save; the package's own has its certificate")
    directory = args.model or default_directory()
    program = IntegerModel.load(directory)
    length = args.sequence_length or min(128, program.config.max_sequence_length)
    try:
        batches = _batches(args, directory, program, length)
        certificate = certify(program, args.batch_size, length, batches=batches)
    except CertificateError as error:
        console.note(f"not certified: {error}")
        return 1
    if args.save:
        save_certificate(certificate, directory)
    print(certificate.to_json() if args.json else certificate)
    return 0


def _batches(args: argparse.Namespace, directory: Any, program: Any, length: int) -> Iterable[Any]:
    """The program's arguments for the text, in one shape."""
    if args.text is None:
        return ()
    from ibert_jax.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(directory)
    sample = read_sample(args.text, args.column, _SENTENCES, program, tokenizer, length)
    return sample.batches(args.batch_size, length)
