"""Every notebook runs top to bottom, and what is committed is what the run gives.

Those that train a model or take times print numbers that differ from machine to machine; their
metadata says so (`"numbers": "vary"`). Of these all but the numbers is compared, and the claims
that matter are assertions in their cells.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import nbformat
import pytest
from nbformat import NotebookNode

FOLDER = Path(__file__).parents[2] / "notebooks"
LARGEST = 400_000
"""Bytes of a committed notebook."""


@pytest.fixture(scope="module", params=sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


@pytest.fixture(scope="module")
def committed(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


@pytest.fixture(scope="module")
def executed(path: Path) -> NotebookNode:
    """The notebook after a run; a cell that raises fails the test here, with its traceback."""
    specification = importlib.util.spec_from_file_location("refresh", FOLDER / "refresh.py")
    assert specification is not None and specification.loader is not None
    refresh = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(refresh)
    return refresh.executed(path)


def outputs(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for cell in notebook.cells for output in cell.get("outputs", [])]


def printed(notebook: NotebookNode, stream: str) -> list[str]:
    return [output.text for output in outputs(notebook) if output.get("name") == stream]


def plots(notebook: NotebookNode) -> list[NotebookNode]:
    return [output for output in outputs(notebook) if "image/png" in output.get("data", {})]


def test_there_are_notebooks() -> None:
    assert list(FOLDER.glob("*.ipynb"))


def test_runs_top_to_bottom(executed: NotebookNode) -> None:
    assert outputs(executed)
    assert not [output for output in outputs(executed) if output.output_type == "error"]
    assert "Warning" not in "".join(printed(executed, "stderr"))


def test_committed_outputs_are_those_of_the_run(
    committed: NotebookNode, executed: NotebookNode
) -> None:
    told, found = printed(committed, "stdout"), printed(executed, "stdout")
    if committed.metadata.get("ibert_jax", {}).get("numbers") == "vary":
        told, found = map(_without_numbers, told), map(_without_numbers, found)
    assert list(told) == list(found)
    assert len(plots(committed)) == len(plots(executed)) > 0


def _without_numbers(text: str) -> str:
    """With `#` for every number and hash, and one space for several: widths go with numbers."""
    return re.sub(r"[ ]+", " ", re.sub(r"-?\b\d[\w.,]*(?:e[-+]\d+)?|\b[0-9a-f]{12}\b", "#", text))


def test_committed_outputs_are_clean_and_light(path: Path, committed: NotebookNode) -> None:
    assert not [output for output in outputs(committed) if output.output_type == "error"]
    assert not printed(committed, "stderr")
    assert path.stat().st_size < LARGEST
