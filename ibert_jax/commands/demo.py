"""`ibert-jax demo`: the model inside the package, its certificate and its speed."""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor

from ibert_jax.commands import console
from ibert_jax.commands.options import add_command

_EXAMPLES = """\
  ibert-jax demo
"""

_SENTENCES = (
    "a warm, funny and quietly moving film",
    "the plot makes no sense and the jokes fall flat",
    "one of the best performances of the year",
    "i wanted to leave after twenty minutes",
    "it is not without charm, but it never comes alive",
    "gorgeous to look at and impossible to forget",
    "a tired sequel that nobody asked for",
    "far from the disaster that i had feared, it is a delight",
)

# Enough rows for a figure that does not jump about, few enough to wait for.
_TIMED_ROWS = 512


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "demo",
        summary="classify a few sentences with the integer model inside the package, "
        "certify it and time it",
        examples=_EXAMPLES,
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print sentences with labels, its certificate, and tokens a second."""
    from ibert_jax.frozen.storage import CERTIFICATE_FILE
    from ibert_jax.inference import Predictor, default_directory, load_classifier
    from ibert_jax.proof import Certificate, certify
    from ibert_jax.tokenizer import Tokenizer

    directory = default_directory()
    program = load_classifier(directory)
    carried = Certificate.from_json((directory / CERTIFICATE_FILE).read_text(encoding="utf-8"))
    # Both compile the program, each in one thread: side by side they take half the time.
    longest = min(128, program.config.max_sequence_length)
    census = ThreadPoolExecutor(1).submit(certify, program, sequence_length=longest, overflow=False)
    predictor = Predictor(program, Tokenizer.load(directory))
    # The sentences several times over: the first batch compiles, all of them are timed.
    rows = list(_SENTENCES) * (_TIMED_ROWS // len(_SENTENCES))
    answers = predictor(rows[: predictor.batch_size])[: len(_SENTENCES)]
    print(
        console.format_table(
            ("label", "probability", "sentence"),
            [(a.label, f"{a.score:.4f}", a.text) for a in answers],
            right="<>",
        )
    )
    print()
    print(census.result())
    # What no input can overflow no device can: the model carries that proof, checked by its hash.
    print(carried.overflow)
    predictor.reset_statistics()
    predictor(rows)
    speed = predictor.statistics
    print(
        f"{speed.tokens_per_second:,.0f} tokens a second, text to label, on a warm run of "
        f"{speed.rows} sentences ({speed.tokens:,} real tokens in {speed.seconds:.2f} s)"
    )
    return 0
