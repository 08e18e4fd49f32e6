"""The command `ibert-jax`.

Answers go to standard output; progress, notes and errors to standard error. Exit codes: 0 done,
1 not certified, 2 wrong usage or input (with one sentence that says what to change), 130
interrupted.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ibert_jax import __version__
from ibert_jax.commands import (
    certify,
    demo,
    evaluate,
    export,
    freeze,
    info,
    options,
    predict,
    sensitivity,
    sweep,
    train,
)

# Spelled out for Windows, which knows no quotas.
_FULL = ("ENOSPC", "EDQUOT", "EFBIG")
_COMMANDS = (demo, predict, train, sweep, evaluate, freeze, sensitivity, certify, export, info)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands; importing and building it touches neither JAX nor Flax."""
    parser = argparse.ArgumentParser(
        prog="ibert-jax",
        description="Train, quantize, freeze, prove and run integer-only BERT and RoBERTa.",
        epilog="'ibert-jax COMMAND --help' explains a command; start with 'ibert-jax demo'",
    )
    parser.add_argument("--version", action="version", version=f"ibert-jax {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in _COMMANDS:
        command.add(commands)
    for each in commands.choices.values():
        options.add_shared(each)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return the exit code. argv: the arguments after the program's name."""
    args = build_parser().parse_args(argv)
    _quieten()
    try:
        with _logged():
            options.use_compile_cache(args.compile_cache)
            code = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (head, say) has seen enough; what is left to flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(f"ibert-jax: interrupted{_going_on(args)}", file=sys.stderr)
        return 130
    except (ValueError, OSError) as error:
        if args.traceback or _is_bug(error):
            raise
        advice = _going_on(args) if _is_full(error) else ""
        print(f"ibert-jax: error: {_sentence(error)}{advice}", file=sys.stderr)
        return 2
    return code


def _is_bug(error: Exception) -> bool:
    """Whether a library complains about this program's code, which no change of input can mend."""
    return type(error).__module__.split(".")[0] in ("jax", "jaxlib", "flax")


def _is_full(error: Exception) -> bool:
    """Whether a disk is full, or a file as large as it may be."""
    return isinstance(error, OSError) and errno.errorcode.get(error.errno or 0) in _FULL


def _going_on(args: argparse.Namespace) -> str:
    """What to say of a command that was cut short, if it goes on when it is given again."""
    return "; the same command goes on from there" if getattr(args, "goes_on", False) else ""


def _sentence(error: Exception) -> str:
    """The error as a person should read it."""
    if isinstance(error, OSError) and _is_full(error):
        written = error.filename or "what is written"
        return f"expected room for {written}, there is no more ({error.strerror}); make some"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)


@contextmanager
def _logged() -> Iterator[None]:
    """Show the package's warnings as notes, whatever a library does to the root logger."""
    log, handler = logging.getLogger(__package__), logging.StreamHandler()
    handler.setFormatter(logging.Formatter("ibert-jax: %(message)s"))
    log.addHandler(handler)
    log.propagate = False
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.propagate = True


def _quieten() -> None:
    """Spare people the libraries' own chatter; an output that cannot hold a sign gets an escape."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")


if __name__ == "__main__":
    sys.exit(main())
