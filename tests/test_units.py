"""Limits and states that no larger test reaches."""

from __future__ import annotations

import csv
import io

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax.documents import read_objects
from ibert_jax.inference import Source
from ibert_jax.integer import compiled
from ibert_jax.layers.activation import QUIETEST_CHANNEL, QuantAct
from ibert_jax.quantize.clipping import percentile_share
from ibert_jax.quantize.migration import balanced_exponents
from ibert_jax.quantize.schemes import ActivationFormat


class OneByte(io.BytesIO):
    def readline(self, size=None, /):
        return super().readline(1)


def test_a_number_may_go_on_in_what_is_read_next() -> None:
    for places in range(4):
        head = '{"n": '
        text = head + " " * (2**16 - len(head) - places) + '123, "data": [{"a": 1}]}'
        assert list(read_objects(OneByte(text.encode()), "a.json")) == [{"a": 1}]


def test_a_long_cell_of_csv(tmp_path) -> None:
    before = csv.field_size_limit(2**17)
    try:
        path = tmp_path / "rows.csv"
        path.write_text("text\n" + "good " * 40_000 + "\n")
        assert [len(row.cells[0]) for row in Source(path)] == [200_000]
    finally:
        csv.field_size_limit(before)


def test_a_silent_channel_keeps_a_share_of_the_widest() -> None:
    act = QuantAct(ActivationFormat(8, "channel"), 3)
    act.x_min[...] = jnp.asarray([-8.0, 0.0, -1.0], jnp.float32)
    act.x_max[...] = jnp.asarray([2.0, 0.0, 1.0], jnp.float32)
    np.testing.assert_array_equal(act.covered(), np.float32([8, 8 * QUIETEST_CHANNEL, 1]))
    assert act.scale()[1] * 127 >= 8 * QUIETEST_CHANNEL


def test_no_percentile_clips_at_less_than_a_sixteenth() -> None:
    counts = np.zeros(2048, np.int64)
    counts[0], counts[-1] = 10**6, 1
    assert float(percentile_share(counts, 8, 99.0)) == 1 / 16


def test_channel_factors_stay_within_twelve_octaves() -> None:
    absolute = np.float32([2.0**-30, 1, 1, 1, 2.0**30])
    found = balanced_exponents(absolute, [np.ones((2, 5), np.float32)], 1.0)
    np.testing.assert_array_equal(found, [-12, 0, 0, 0, 12])


MINIMUM = "jax_persistent_cache_min_compile_time_secs"


def test_the_cache_rests_until_the_last_program_is_done() -> None:
    before, cache = getattr(jax.config, MINIMUM), compiled._Cache()
    cache.pause()
    cache.pause()
    cache.resume()
    assert getattr(jax.config, MINIMUM) == float("inf")
    cache.resume()
    assert getattr(jax.config, MINIMUM) == before


def test_the_cache_rests_until_the_outermost_program_is_compiled() -> None:
    before = getattr(jax.config, MINIMUM)
    with compiled.own_program():
        compiled.keep_out_of_cache()
        with compiled.own_program():
            pass
        assert getattr(jax.config, MINIMUM) == float("inf")
    assert getattr(jax.config, MINIMUM) == before
