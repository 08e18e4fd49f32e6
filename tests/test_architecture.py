"""The rooms of the package import leftwards only, and each outside library has its own rooms.

Every import statement counts, wherever it stands: inside a function and under TYPE_CHECKING too.
"""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import ibert_jax
from ibert_jax.cli import build_parser

PACKAGE = Path(ibert_jax.__file__).parent

# A room may import those to its left. The specification stands alone.
ORDER = (
    "checks",
    "files",
    "settings",
    "quant_config",
    "config",
    "lines",
    "documents",
    "entities",
    "answers",
    "checkpoints",
    "tokenizer",
    "integer",
    "quantize",
    "layers",
    "models",
    "frozen",
    "deploy",
    "proof",
    "analysis",
    "training",
    "inference",
    "commands",
    "cli",
)

# Its files -> what they may import of each other.
SPECIFICATION: dict[str, set[str]] = {"spec": set(), "spec_network": {"spec"}}

# Files have their own readers: arithmetic that knew of them could not be reused elsewhere.
NEVER = {
    "integer": {"checkpoints", "tokenizer"},
    "quantize": {"checkpoints", "tokenizer"},
    "layers": {"checkpoints", "tokenizer"},
    "proof": {"tokenizer", "checkpoints"},
}

# Outside library -> the only rooms that may import it.
CONFINED = {
    "torch": set(),
    "transformers": {"tokenizer"},
    "tokenizers": {"tokenizer"},
    "optax": {"training"},
    "scipy": {"training"},
    "datasets": {"training"},
    "tensorboardX": {"training"},
    "pyarrow": {"training", "inference"},
    "onnx": {"deploy"},
    "orbax": {"training"},
    "flax": {"quantize", "layers", "models", "frozen", "analysis", "training", "inference"},
    "safetensors": {"checkpoints", "frozen", "deploy"},
    "huggingface_hub": {"checkpoints"},
}

# What the command line imports before it knows the command must not cost its user a second.
HEAVY = ("jax", "flax", "numpy", "optax", "orbax", "transformers", "tokenizers", "safetensors")


class Import(NamedTuple):
    """One imported module, absolute. inside: within a function, so only when that runs."""

    line: int
    module: str
    inside: bool


def imports(path: Path, package: Path) -> Iterator[Import]:
    """Every import in a file of the package `package` (whose parent is the import root)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)]
    inner = {id(node) for function in functions for node in ast.walk(function)}
    folder = path.parent.relative_to(package.parent).parts
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = folder[: len(folder) - node.level + 1] if node.level else ()
            module = ".".join((*base, *filter(None, [node.module])))
            # `from package import room` names the room only in its second half.
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield Import(node.lineno, name, id(node) in inner)


def room_of(path: Path, package: Path) -> str:
    """The room that a file belongs to: the folder or file directly inside the package."""
    return path.relative_to(package).parts[0].removesuffix(".py")


def complaints(package: Path) -> list[str]:
    """Every import that the rules above forbid, as `file:line: reason`."""
    found = []
    for path in sorted(package.rglob("*.py")):
        room = room_of(path, package)
        if room == "__init__":
            continue  # the public names come from everywhere, and load on first use
        for line, module, _ in imports(path, package):
            reason = _complaint(room, module.split("."), package.name)
            if reason:
                found.append(f"{path.relative_to(package.parent)}:{line}: {reason}")
    return found


def _complaint(room: str, module: list[str], package: str) -> str | None:
    if module[0] != package:
        allowed = CONFINED.get(module[0])
        if allowed is not None and room not in allowed:
            return f"{room} may not import {module[0]}"
        if room in SPECIFICATION and module[0] not in sys.stdlib_module_names:
            return f"{room} is plain Python, it may not import {module[0]}"
        return None
    target = module[1] if len(module) > 1 else ""
    if target not in (*ORDER, *SPECIFICATION) or target == room:
        return None  # a name of the package itself, such as its version
    if target in SPECIFICATION.get(room, ()):
        return None
    if room in SPECIFICATION or target in SPECIFICATION:
        return f"{room} may not import {target}: the specification stands alone"
    if ORDER.index(target) > ORDER.index(room) or target in NEVER.get(room, ()):
        return f"{room} may not import {target}"
    return None


def test_arrows_point_left() -> None:
    assert complaints(PACKAGE) == []


def test_every_room_is_known() -> None:
    rooms = {room_of(path, PACKAGE) for path in PACKAGE.rglob("*.py")}
    assert rooms <= {*ORDER, *SPECIFICATION, "__init__"}


def test_no_folder_deeper_than_two() -> None:
    deep = [p for p in PACKAGE.rglob("*.py") if len(p.relative_to(PACKAGE.parent).parts) > 3]
    assert deep == []


def test_command_line_is_light() -> None:
    files = [PACKAGE / "__init__.py", PACKAGE / "cli.py", *(PACKAGE / "commands").glob("*.py")]
    early = [
        f"{path.name}:{line}: {module}"
        for path in files
        for line, module, inside in imports(path, PACKAGE)
        if not inside and module.split(".")[0] in HEAVY
    ]
    assert early == []


def test_errors_of_the_library_speak_of_no_flags() -> None:
    """Who calls a function knows its arguments; the command line says its own flags."""
    (commands,) = [a.choices for a in build_parser()._actions if a.dest == "command"]
    assert isinstance(commands, dict)
    helps = "".join(command.format_help() for command in commands.values())
    flags = re.findall(r"--[a-z][a-z-]+", helps)
    assert "--train" in flags
    speaks = re.compile("|".join(rf"(?<![\w-]){flag}(?![\w-])" for flag in sorted(set(flags))))
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{text.lineno}: {text.value}"
        for path in sorted(PACKAGE.rglob("*.py"))
        if room_of(path, PACKAGE) not in ("commands", "cli")
        for error in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(error, ast.Raise)
        for text in ast.walk(error)
        if isinstance(text, ast.Constant) and speaks.search(str(text.value))
    ]
    assert found == []


def test_package_never_loads_torch() -> None:
    """Importing every module of the package leaves torch, where it is installed, untouched."""
    modules = [
        ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for path in PACKAGE.rglob("*.py")
        if path.name != "__init__.py"
    ]
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)\n"
    script += "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script, *modules], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("file", "text", "reason"),
    [
        ("integer/gelu.py", "from ibert_jax.layers import gelu", "integer may not import layers"),
        ("integer/gelu.py", "from ibert_jax import models", "integer may not import models"),
        ("integer/gelu.py", "from ..frozen.program import x", "integer may not import frozen"),
        ("integer/gelu.py", "import flax.nnx", "integer may not import flax"),
        ("layers/gelu.py", "def f():\n    import torch", "layers may not import torch"),
        ("frozen/program.py", "import optax", "frozen may not import optax"),
        ("spec.py", "import numpy as np", "spec is plain Python"),
        ("spec.py", "from ibert_jax.config import IBertConfig", "the specification stands alone"),
        ("spec_network.py", "import numpy as np", "spec_network is plain Python"),
        ("proof/divergence.py", "from ibert_jax import spec_network", "stands alone"),
        ("checks.py", "from ibert_jax.config import IBertConfig", "checks may not import config"),
    ],
)
def test_a_planted_wrong_arrow_is_named(tmp_path: Path, file: str, text: str, reason: str) -> None:
    path = tmp_path / "ibert_jax" / file
    path.parent.mkdir(parents=True)
    path.write_text("from __future__ import annotations\nimport math\n" + text + "\n")
    (found,) = complaints(tmp_path / "ibert_jax")
    assert found.startswith(f"ibert_jax/{file}:")
    assert reason in found


def test_right_arrows_pass(tmp_path: Path) -> None:
    path = tmp_path / "ibert_jax" / "frozen" / "program.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import jax\nfrom ibert_jax import __version__, checks\n"
        "from ibert_jax.integer.gelu import gelu\nfrom ibert_jax.frozen import other\n"
    )
    assert complaints(tmp_path / "ibert_jax") == []
