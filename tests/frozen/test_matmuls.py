"""No matmul of an encoder falls back to 32-bit operands, several times as slow, on CPU."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import ibert_jax as ib
from ibert_jax.inference import default_directory
from ibert_jax.models import layer_stack
from ibert_jax.proof.census import census
from ibert_jax.proof.operations import HLO

ENCODER = 10
"""Query, key, value, output, two of the feed-forward; scores, their zero point; row sums, context:
the layers are scanned, so that each stands once in the program."""
LAYERS = 6
AS_IN_BASE = {384: 768, 1536: 3072}
"""Sizes of the embedded model -> those of BERT-base, of as many heads."""


def enlarged(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(tuple(AS_IN_BASE.get(n, n) for n in array.shape), array.dtype)


@pytest.mark.parametrize(
    ("size", "batch", "length", "whole"),
    [("own", 1, 32, True), ("base", 8, 128, True), ("base", 8, 128, False)],
)
def test_encoder_stays_8_bit(
    size: str,
    batch: int,
    length: int,
    whole: bool,
    vectorized: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    expected = ENCODER
    if size == "base":
        monkeypatch.setattr(layer_stack, "LARGE", 2**19)  # as many matrices apart as in BERT-base
    program: Any = ib.IntegerModel.load(default_directory())
    if size == "base":
        program = dataclasses.replace(jax.tree.map(enlarged, program), whole_layers=whole)
        # The last layer by itself, where it is for the first token alone.
        expected += 2 * (LAYERS - 1) if whole else 2 * (LAYERS - 2) + ENCODER
    ids = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    found = census(lambda p, ids: p.integers(ids, attention_mask=ids), program, ids)
    matmuls = {kind: n for kind, n in found.operations[HLO].items() if kind.startswith("dot")}
    fast = matmuls.pop(f"dot ({'uint8' if vectorized else 'int8'}, int8) -> int32")
    assert fast >= expected
    # What is left: the head's two products of a single row, or of two columns.
    assert fast + sum(matmuls.values()) == expected + 2
