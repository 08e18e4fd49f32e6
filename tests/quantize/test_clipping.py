"""Where to clip: against the answer by brute force, and against what must hold."""

from __future__ import annotations

import numpy as np
import pytest

from ibert_jax.quantize.clipping import (
    SHARES,
    entropy_share,
    percentile_share,
    squared_error_share,
)

BINS = 2048


def histogram(values: np.ndarray, bins: int = BINS) -> np.ndarray:
    return np.histogram(np.abs(values), bins, (0, np.abs(values).max()))[0]


@pytest.mark.parametrize("bits", [3, 4, 8])
def test_squared_error_is_the_smallest(bits: int) -> None:
    values = np.random.default_rng(0).standard_t(3, 40_000)
    largest = np.abs(values).max()

    def error(share: float) -> float:
        step = share * largest / (2 ** (bits - 1) - 1)
        limit = 2 ** (bits - 1) - 1
        rounded = np.clip(np.round(values / step), -limit, limit) * step
        return float(np.mean((rounded - values) ** 2))

    share = float(squared_error_share(histogram(values), bits))
    best = min(map(error, np.linspace(1 / 16, 1, 400)))
    assert error(share) <= best * 1.03
    assert share < 1


def test_channels_choose_for_themselves() -> None:
    rng = np.random.default_rng(1)
    heavy, even = rng.standard_t(2, 20_000), rng.uniform(-1, 1, 20_000)
    counts = np.stack([histogram(values, 256) for values in (heavy, even)])
    both = squared_error_share(counts, 4)
    assert [float(x) for x in both] == [float(squared_error_share(row, 4)) for row in counts]
    assert both[0] < 0.5
    assert both[1] > 0.9


@pytest.mark.parametrize("percentile", [90.0, 99.0, 100.0])
def test_percentile(percentile: float) -> None:
    values = np.random.default_rng(2).standard_normal(50_000)
    largest = np.abs(values).max()
    share = float(percentile_share(histogram(values), 8, percentile))
    inside = np.mean(np.abs(values) <= share * largest * (1 + 1e-12))
    assert percentile / 100 <= inside <= percentile / 100 + 0.002  # a bin more


def test_entropy_keeps_what_is_even_and_cuts_a_long_tail() -> None:
    rng = np.random.default_rng(3)
    assert float(entropy_share(histogram(rng.uniform(-1, 1, 400_000)), 8)) > 0.95
    tailed = np.append(rng.standard_normal(400_000), [60.0])
    share = float(entropy_share(histogram(tailed), 8))
    assert 3 < share * 60 < 30  # a lone outlier is given up, the bell is not


@pytest.mark.parametrize("method", list(SHARES))
def test_nothing_seen_changes_nothing(method: str) -> None:
    options = {"percentile": 99.9} if method == "percentile" else {}
    assert float(SHARES[method](np.zeros(BINS, np.int64), 8, **options)) == 1


def test_no_percentile_clips_at_less_than_a_sixteenth() -> None:
    counts = np.zeros(2048, np.int64)
    counts[0], counts[-1] = 10**6, 1
    assert float(percentile_share(counts, 8, 99.0)) == 1 / 16
