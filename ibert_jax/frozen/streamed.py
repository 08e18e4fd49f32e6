"""A batch in streams, for CPUs: as many programs of fewer rows as there are cores, side by side."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.frozen.parts import SHARED
from ibert_jax.integer.compiled import jit_program
from ibert_jax.integer.streams import dispatch, streams

LEAST = 128
"""Tokens of a stream, at least: each reads, and arranges, all weights for itself."""


def streams_of(inputs: Mapping[str, Any]) -> int:
    """Into how many streams of equally many rows a batch is cut: one a core, or 1.

    Args:
        inputs: of the program, by name: ``attention_mask`` [..., T] among them.
    """
    count, shape = streams(), inputs["attention_mask"].shape
    if count == 1:  # where a shape may be of symbols, too
        return 1
    return count if shape[0] % count == 0 and math.prod(shape) >= count * LEAST else 1


def in_streams(
    function: Callable[[dict[str, Any]], Any], inputs: Mapping[str, Any], count: int
) -> Any:
    """``function`` of arrays [B, ...] by name, in so many streams; so are its results.

    ``count`` divides B.
    """

    rows = {
        name: [array] * count if name == SHARED else np.split(np.asarray(array), count)
        for name, array in inputs.items()
    }

    def dispatched(stream: int) -> Future[Any]:
        return dispatch(stream, function, {name: cut[stream] for name, cut in rows.items()})

    # The first is waited for until it is dispatched: it may have to be compiled, once for all.
    first = dispatched(0).result()
    others = [dispatched(stream) for stream in range(1, count)]
    return _joined(first, *(other.result() for other in others))


@jit_program
def _joined(*results: Any) -> Any:
    """Results of the same structure, joined along their rows."""
    return jax.tree.map(lambda *rows: jnp.concatenate(rows), *results)
