"""What the README points to is there, and its pictures are drawn from the committed figures."""

from __future__ import annotations

import ast
import json
import re
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

ROOT = Path(__file__).parents[1]
sys.path.append(str(ROOT / "benchmarks"))
import plot  # noqa: E402

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md")])
SPEED = ROOT / "benchmarks" / "results" / "cpu.json"


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    targets = re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)|src(?:set)?=\"([^\":]+)\"", text)
    named = [name for pair in targets for name in pair if name]
    missing = [name for name in named if not (page.parent / name).exists()]
    assert not missing
    # Paths in code: `tests/proof`, `benchmarks/equality.py`.
    paths = re.findall(
        r"`((?:tests|benchmarks|notebooks|conversion|ibert_jax|docs)/[\w./-]*)`", text
    )
    assert not [path for path in paths if "NAME" not in path and not (ROOT / path).exists()]


@pytest.mark.parametrize("path", sorted(ROOT.glob("docs/*.svg")), ids=lambda path: path.name)
def test_pictures_are_whole_and_legible_in_the_dark(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "<title" in text, "for those who do not see it"


def test_speed_is_drawn_from_the_record() -> None:
    entry = {"median": 0.5, "ours_is_faster_by": 2.0, "first": 1.0, "seconds": [0.5], "peak_mib": 9}
    ours = {**entry, "median": 0.25, "ours_is_faster_by": 1.0, "seconds": [0.25]}
    contenders = {plot.OURS: ours, "slow": entry}
    case = {"tokens": 1000, "contenders": contenders}
    record = {"cpu": "a <fast> one", "threads": 2, "layers": 12, "versions": {"jax": "0.10"}}
    svg = plot.draw({**record, "cases": {"8x128": case, plot.MIXED: {**case, "contenders": {}}}})
    texts = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert {"8 × 128", "mixed", "4,000", "2,000 ×2.00", "slow"} <= set(texts)
    told = plot.described({**record, "cases": {"8x128": case}})
    assert "| sentences × tokens | ours | slow |" in told
    assert "| 8 × 128 | with oneDNN | 2.00 |" in told
    assert plot.BLOCK.search((ROOT / "README.md").read_text(encoding="utf-8"))
    if SPEED.exists():
        drawn = (ROOT / "docs" / "speed.svg").read_text(encoding="utf-8")
        record = json.loads(SPEED.read_text(encoding="utf-8"))
        assert drawn == plot.draw(record)
        assert plot.described(record) in (ROOT / "README.md").read_text(encoding="utf-8")


def _messages() -> list[str]:
    """Every string of the package, what is filled in as an ellipsis."""
    found = []
    for path in ROOT.glob("ibert_jax/**/*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else "…" for p in node.values]
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_errors_that_the_readme_explains_are_real() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").split("## When something")[1]
    table = section.split("\n## ")[0]
    quoted = re.findall(r"^\| `(.+?)` \|", table, re.MULTILINE)
    assert len(quoted) > 5
    messages = _messages()
    for said in quoted:
        pattern = re.compile(".*".join(map(re.escape, said.split("…"))))
        assert any(map(pattern.search, messages)), said
