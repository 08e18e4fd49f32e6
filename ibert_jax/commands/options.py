"""What the commands share: types of arguments, and where compiled programs are kept."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

_OFF = ("off", "none", "0", "")


def add_command(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    *,
    summary: str,
    examples: str,
) -> argparse.ArgumentParser:
    """A subcommand. summary: one sentence; examples: the end of its help."""
    return commands.add_parser(
        name,
        help=summary,
        description=summary[0].upper() + summary[1:] + ".",
        epilog="examples:\n" + examples,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_shared(parser: argparse.ArgumentParser) -> None:
    """The options that every command has, at the end of its help."""
    shared = parser.add_argument_group("all commands")
    shared.add_argument(
        "--compile-cache",
        metavar="DIR",
        default=os.environ.get("IBERT_JAX_CACHE"),
        help="folder that keeps compiled programs for the next run, or 'off' "
        "(default: IBERT_JAX_CACHE, else ibert_jax in the user's cache folder)",
    )
    shared.add_argument(
        "--traceback", action="store_true", help="on an error, show where in the code it arose"
    )


def add_batching(parser: argparse.ArgumentParser, *, batch_size: int = 32) -> None:
    """How sentences are grouped and where they are cut."""
    parser.add_argument(
        "--batch-size",
        type=positive,
        default=batch_size,
        metavar="N",
        help="sentences computed together (default: %(default)s)",
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        metavar="N",
        help="tokens a sentence is cut to (default: what model and tokenizer allow)",
    )


def check_folder(output: str) -> None:
    """Raise ValueError, before minutes are spent, for what cannot be a folder to write to."""
    folder = Path(output).absolute()
    place = next(path for path in (folder, *folder.parents) if path.exists())
    if not place.is_dir() or not os.access(place, os.W_OK):
        raise ValueError(
            f"expected a folder to write {folder} to, {place} is none, or not yours; name another"
        )


def positive(text: str) -> int:
    """An argparse type: an integer of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def use_compile_cache(setting: str | None) -> None:
    """Keep what XLA compiles on disk, so that the next start takes a fraction of the time.

    setting: a folder, or "off"; None for the default folder. JAX's own JAX_COMPILATION_CACHE_DIR,
    where set, is left as it is, and so is a folder that cannot be written: a cache is never worth
    an error.
    """
    if setting is None and os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    if setting is not None and setting.lower() in _OFF:
        return
    folder = _default_cache() if setting is None else Path(setting)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return
    if not os.access(folder, os.W_OK):
        return
    import jax

    jax.config.update("jax_compilation_cache_dir", str(folder))
    # The default of one second would leave out most of a small model's programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def _default_cache() -> Path:
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "ibert_jax" / "compiled"
