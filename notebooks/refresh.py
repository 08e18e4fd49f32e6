"""Run the notebooks and write them back with their outputs, kept light.

    python notebooks/refresh.py [notebooks/2_inside_the_kernels.ipynb ...]

Without arguments, all of them. Plots are stored with 64 colours, a third of the size; times and
versions are left out, so that a second run on the same sources changes nothing that is printed.
"""

from __future__ import annotations

import base64
import io
import os
import sys
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode
from PIL import Image

HERE = Path(__file__).parent
COLOURS = 64


def executed(path: Path) -> NotebookNode:
    """The notebook after a run in a kernel of its own, in its folder, on this checkout.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell raised.
    """
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as settings:
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE.parent),  # this checkout and not another that is installed
            "IPYTHONDIR": settings,  # nobody's own settings
            "JAX_NUMPY_DTYPE_PROMOTION": "strict",  # as in the tests
            "JAX_NUMPY_RANK_PROMOTION": "raise",
        }
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": str(path.parent)}},
        )
        client.execute(env=environment)
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def lighten(notebook: NotebookNode) -> None:
    """Store every plot with a palette."""
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data["image/png"] = _with_palette(data["image/png"])


def _with_palette(png: str) -> str:
    image = Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB")
    stored = io.BytesIO()
    image.quantize(COLOURS, dither=Image.Dither.NONE).save(stored, "PNG", optimize=True)
    return base64.b64encode(stored.getvalue()).decode()


def main() -> None:
    for path in [Path(name).resolve() for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb")):
        notebook = executed(path)
        lighten(notebook)
        nbformat.write(notebook, path)
        print(f"{path.name}: {path.stat().st_size // 1000} kB")


if __name__ == "__main__":
    main()
