"""What people see: tables that fit the terminal, and progress that stays out of the output."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self, TypeVar

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


_COUNTS = ("correct", "total")
_AS_THEY_ARE = ("perplexity",)


def results_table(what: str, results: Mapping[str, Mapping[str, float]]) -> str:
    """Measures by name, a row each: shares in percent, counts and perplexity as they are.

    what: the header of the names. `primary` is left out.
    """
    columns = [name for name in next(iter(results.values())) if name != "primary"]
    rows = [
        (name, *(measure(column, found[column]) for column in columns))
        for name, found in results.items()
    ]
    return format_table((what, *columns), rows, right="<" + ">" * len(columns))


def measure(name: str, value: float) -> str:
    """One measure as people read it."""
    if name in _COUNTS:
        return str(value)
    return f"{value:.3f}" if name in _AS_THEY_ARE else f"{100 * value:.2f}"


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


class ByteProgress:
    """How much of a file has been read, on standard error while that is a terminal.

    total: bytes of the file; None where nobody knows.
    """

    def __init__(self, total: int | None) -> None:
        self._total = total
        self._bar: Any = None

    def show(self, position: int, rows: int, tokens_per_second: float) -> None:
        """Say how far the job has come. position: of `total`."""
        from tqdm import tqdm

        if self._bar is None:  # begins where the job begins: what was read over tells no speed
            self._bar = tqdm(
                total=self._total,
                initial=position,
                bar_format="{percentage:3.0f}%|{bar}| {desc}, {remaining} left"
                if self._total
                else "{desc}",
                file=sys.stderr,
                leave=False,
                disable=not sys.stderr.isatty(),
            )
        if self._bar.disable:
            return
        said = f"{rows:,} rows, {tokens_per_second:,.0f} tokens a second"
        self._bar.set_description_str(said, refresh=False)
        self._bar.update(position - self._bar.n)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


def note(message: str) -> None:
    """Say something on standard error."""
    print(f"ibert-jax: {message}", file=sys.stderr)
