"""The public names exist, load on first use, and are the same for people and type checkers."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

import ibert_jax


@pytest.mark.parametrize("name", ibert_jax.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(ibert_jax, name)
    assert name in dir(ibert_jax)
    if name != "__version__":
        home = importlib.import_module(ibert_jax._HOMES[name])
        assert value is getattr(home, name)
        offered = getattr(home, "__all__", [name])  # a plain file offers all that it defines
        assert name in offered, f"{home.__name__} should offer {name} too"
        assert value.__doc__, "a public name without a docstring"


def test_names_agree() -> None:
    """The three lists in __init__.py name the same things."""
    tree = ast.parse(Path(ibert_jax.__file__).read_text())
    (block,) = [node for node in tree.body if isinstance(node, ast.If)]
    typed = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert typed == ibert_jax._HOMES
    assert set(ibert_jax.__all__) == {*ibert_jax._HOMES, "__version__"}


def test_unknown_names_are_refused() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'IBertForPoetry'"):
        _ = ibert_jax.IBertForPoetry
