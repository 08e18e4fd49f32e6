"""What people see: tables that fit the terminal, and progress that stays out of the output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

_Item = TypeVar("_Item")


def printable(text: str) -> str:
    """The text on one line, without control characters (which could steer a terminal)."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def shortened(text: str, width: int) -> str:
    """The text on one line, cut to `width` characters with an ellipsis."""
    text = printable(text)
    return text if len(text) <= width else text[: max(width - 1, 0)] + "…"


def terminal_width() -> int:
    """Columns of the terminal; 100 where output goes elsewhere."""
    return shutil.get_terminal_size((100, 24)).columns


def format_table(header: Sequence[str], rows: Iterable[Sequence[str]], *, right: str = "") -> str:
    """Columns under a header, as wide as their widest cell.

    right: one character a column, ">" for those aligned to the right.
    """
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]
    signs = right.ljust(len(header), "<")
    lines = []
    for row in cells:
        aligned = [
            f"{cell:{sign}{width}}" for cell, sign, width in zip(row, signs, widths, strict=True)
        ]
        lines.append("  ".join(aligned).rstrip())
    return "\n".join(lines)


def progress(items: Iterable[_Item], *, total: int | None = None, what: str) -> Iterable[_Item]:
    """The items, counted on standard error while that is a terminal.

    Silent where the answers themselves go to the terminal: two writers there would only tangle.
    """
    from tqdm import tqdm

    bar: Any = tqdm(
        items,
        total=total,
        unit=f" {what}",
        file=sys.stderr,
        leave=False,
        disable=not sys.stderr.isatty() or sys.stdout.isatty(),
    )
    return bar


def note(message: str) -> None:
    """Say something on standard error."""
    print(f"ibert-jax: {message}", file=sys.stderr)
