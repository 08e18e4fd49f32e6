"""The operations of a jaxpr and of every jaxpr inside it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.extend import core, source_info_util

import ibert_jax
from ibert_jax.proof.operations import JAXPR, Operation, is_float_type

_ROOT = str(Path(ibert_jax.__file__).parents[1]) + os.sep


def walk_jaxpr(closed: core.ClosedJaxpr) -> Iterator[Operation]:
    """Yields the inputs, constants, equations and outputs of `closed`, inner jaxprs included.

    The body of a loop, of a branch, of a custom derivative's primal or of a Pallas kernel is
    visited once for each equation that holds it. Derivative rules are not visited: they do not run.
    """
    for var in closed.jaxpr.invars:
        yield _boundary("input", var)
    yield from _walk(closed.jaxpr, ())
    for var in closed.jaxpr.outvars:
        yield _boundary("output", var)


def _boundary(name: str, var: Any) -> Operation:
    return Operation(JAXPR, name, (), (element_type(var.aval),), lambda: "the program's boundary")


def _walk(jaxpr: Any, path: tuple[str, ...]) -> Iterator[Operation]:
    for var in jaxpr.constvars:
        where = "/".join(path) or "closed over by the program"
        yield Operation(JAXPR, "constant", (), (element_type(var.aval),), lambda w=where: w)
    for eqn in jaxpr.eqns:
        name = eqn.primitive.name
        operands = [element_type(var.aval) for var in eqn.invars]
        operands += [kind for value in eqn.params.values() for kind in _inexact(value)]
        results = tuple(element_type(var.aval) for var in eqn.outvars)
        where = partial(_where, eqn, path)
        yield Operation(JAXPR, name, tuple(operands), results, where, _opaque(eqn))
        step = eqn.params.get("name")
        inner = (*path, f"{name}[{step}]" if isinstance(step, str) else name)
        for sub in inner_jaxprs(eqn.params):
            yield from _walk(sub, inner)


def _opaque(eqn: Any) -> str | None:
    """The function that writes a Pallas kernel's instructions itself; None of other equations."""
    if eqn.primitive.name != "inline_mgpu_p":
        return None
    function = eqn.params["mgpu_fn"]
    return f"{function.__module__}.{function.__qualname__}"


def element_type(aval: Any) -> str:
    """The element type of an abstract value, or its own text where it holds none (a token)."""
    dtype = getattr(aval, "dtype", None)
    if dtype is None:
        dtype = getattr(getattr(aval, "inner_aval", None), "dtype", None)  # a Pallas reference
    return str(aval) if dtype is None else str(dtype)


def inner_jaxprs(value: Any) -> Iterator[Any]:
    """Every (open) jaxpr anywhere inside an equation's parameters."""
    if isinstance(value, core.ClosedJaxpr):
        yield value.jaxpr
    elif isinstance(value, core.Jaxpr):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from inner_jaxprs(item)
    elif isinstance(value, (tuple, list)):
        for item in value:
            yield from inner_jaxprs(item)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        for item in dataclasses.fields(value):
            yield from inner_jaxprs(getattr(value, item.name, None))


def _inexact(value: Any) -> Iterator[str]:
    """Element types of floating-point numbers and arrays that hide in a parameter."""
    if isinstance(value, dict):
        value = tuple(value.values())
    if isinstance(value, (tuple, list)):
        for item in value:
            yield from _inexact(item)
    elif isinstance(value, (float, complex)):
        yield str(np.result_type(value))
    elif isinstance(value, (np.ndarray, np.generic, jax.Array)) and is_float_type(str(value.dtype)):
        yield str(value.dtype)


def _where(eqn: Any, path: tuple[str, ...]) -> str:
    return place_of(eqn, "/".join(path))


def place_of(eqn: Any, path: str) -> str:
    """Source line and calls of an equation; files of this package relative to its folder."""
    # The equations of a cached inner jit carry no line of their own; its name must do.
    line = source_info_util.summarize(eqn.source_info).removeprefix(_ROOT)
    return " in ".join(filter(None, [line, path]))
