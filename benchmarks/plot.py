"""Draw the README's picture of the speed table from the figures that `cpu.py --record` wrote.

    python benchmarks/plot.py [benchmarks/results/cpu.json]

writes docs/speed.svg, and the lines of the README between its two `speed` comments.
A column of bars for each case, a row for each contender; a bar is tokens a second, beside it how
many times slower than the integer program with oneDNN (the median over rounds of the ratios, as
recorded). SVG by hand, so that it follows the reader's light or dark colours and needs no library.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import textwrap
from html import escape
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
OURS, CLASSIFIER, MIXED = "ibert_jax int8", "ibert_jax classifier", "mixed"  # as in cpu.py
FORMS = {
    OURS: "with oneDNN",
    "ibert_jax, XLA alone": "XLA alone",
    CLASSIFIER: "a classifier, with oneDNN",
    "ibert_jax classifier, XLA alone": "a classifier, XLA alone",
}
"""What the README calls the integer program's forms."""

COMPARED = (
    "OpenVINO int8",
    "ONNX Runtime int8",
    "JAX bfloat16",
    "JAX float32",
    "HF IBert quant_mode",
)
"""The contenders that the README tells of in numbers; the picture has all."""

BLOCK = re.compile(r"(<!-- speed -->)(.*?)(<!-- /speed -->)", re.DOTALL)
"""The README's lines that are made here."""

_NAMES, _COLUMN, _ROW, _TOP = 168, 184, 24, 74  # pixels
_LONGEST = 80  # of a bar

_STYLE = """
text { font: 13px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif; fill: #1f2328 }
.head { font-weight: 600 }
.quiet { font-size: 12px; fill: #59636e }
.bar { fill: #afb8c1 }
.ours { fill: #0969da }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .quiet { fill: #9198a1 }
  .bar { fill: #656c76 }
  .ours { fill: #4493f8 }
}
"""


def draw(record: dict[str, Any]) -> str:
    """The SVG of what `cpu.py --record` wrote: `cases`, each `tokens` and `contenders`."""
    cases = record["cases"]
    names = list(dict.fromkeys(name for case in cases.values() for name in case["contenders"]))
    height = _TOP + _ROW * len(names) + 34
    width = _NAMES + _COLUMN * len(cases)
    title = (
        f"Speed on {record['cpu']}, {record['threads']} threads, {record['layers']} layers "
        "of RoBERTa-base: tokens a second, and how many times slower than ibert_jax"
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_STYLE}</style>",
        _text(0, 18, "Tokens a second; × times slower than ibert_jax", "head"),
    ]
    for row, name in enumerate(names):
        parts.append(_text(_NAMES - 10, _TOP + _ROW * row + 15, name, end=True))
    for column, (case, found) in enumerate(cases.items()):
        parts += _column(_NAMES + _COLUMN * column, case, found, names)
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    about = f"{record['cpu']}, {record['threads']} threads; {versions}"
    parts += [_text(0, height - 8, about, "quiet"), "</svg>"]
    return "\n".join(parts) + "\n"


def described(record: dict[str, Any]) -> str:
    """The README's lines: the picture, and a table of how it compares with those most in use."""
    cases = record["cases"]
    named = {name for case in cases.values() for name in case["contenders"]}
    others = [name for name in COMPARED if name in named] or sorted(named - {*FORMS})
    rows = [["sentences × tokens", "ours", *others], ["---"] * (len(others) + 2)]
    for case, found in cases.items():
        for form, said in FORMS.items():
            if form in found["contenders"]:
                ratios = [_faster_by(found["contenders"], form, name) for name in others]
                rows.append([_said(case), said, *ratios])
    words = (
        f"RoBERTa-base, {record['layers']} layers, on {record['cpu']}, {record['threads']} threads:"
        " so many times as fast as each of the others, the median over interleaved rounds."
    )
    if MIXED in cases:
        words += (
            f" {MIXED.capitalize()} are 256 sentences of SST-2, sorted by length, in batches of 16,"
            " where only real tokens count."
        )
    if CLASSIFIER in named:
        words += (
            " All compute the last hidden state of every token but for our classifiers, which"
            " compute of it what their logits need."
        )
    return "\n".join(
        [
            '<img src="docs/speed.svg" width="860" alt="Tokens a second of each contender">',
            "",
            *textwrap.wrap(words, 100),
            "",
            *(f"| {' | '.join(row)} |" for row in rows),
        ]
    )


def _faster_by(contenders: dict[str, Any], ours: str, other: str) -> str:
    """So many times as fast: the median over the rounds of their ratios."""
    if other not in contenders:
        return ""
    rounds = zip(contenders[other]["seconds"], contenders[ours]["seconds"], strict=True)
    return f"{statistics.median(a / b for a, b in rounds):.2f}"


def _column(left: int, case: str, found: dict[str, Any], names: list[str]) -> list[str]:
    """The bars of one case."""
    rates = {name: found["tokens"] / e["median"] for name, e in found["contenders"].items()}
    most = max(rates.values(), default=1.0)
    parts = [_text(left, 46, _said(case), "head"), _text(left, 63, _told(case), "quiet")]
    for row, name in enumerate(names):
        if name not in rates:  # it could not be run here
            continue
        top, length = _TOP + _ROW * row, _LONGEST * rates[name] / most
        kind = "ours" if name in FORMS else "bar"
        parts.append(
            f'<rect class="{kind}" x="{left}" y="{top + 3}" width="{length:.1f}" height="16"/>'
        )
        ratio = found["contenders"][name].get("ours_is_faster_by")
        label = f"{rates[name]:,.0f}"
        if name != OURS and ratio is not None:
            label += f" ×{ratio:.2f}"
        parts.append(_text(round(left + length + 5), top + 15, label, "quiet"))
    return parts


def _said(case: str) -> str:
    return case if case == MIXED else case.replace("x", " × ")


def _told(case: str) -> str:
    return "text, sorted by length" if case == MIXED else "sentences × tokens"


def _text(x: int, y: int, text: str, kind: str = "", *, end: bool = False) -> str:
    attributes = (f' class="{kind}"' if kind else "") + (' text-anchor="end"' if end else "")
    return f'<text x="{x}" y="{y}"{attributes}>{escape(text)}</text>'


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, nargs="?", default=HERE / "results" / "cpu.json")
    parser.add_argument("--root", type=Path, default=HERE.parent, help="where README.md is")
    options = parser.parse_args()
    record = json.loads(options.record.read_text(encoding="utf-8"))
    picture, readme = options.root / "docs" / "speed.svg", options.root / "README.md"
    picture.write_text(draw(record), encoding="utf-8")
    text = readme.read_text(encoding="utf-8")
    readme.write_text(BLOCK.sub(lambda m: f"{m[1]}\n{described(record)}\n{m[3]}", text), "utf-8")
    print(f"{picture} and the lines of {readme} made from {options.record}")


if __name__ == "__main__":
    main()
