"""Where to clip an activation: from a histogram of what it was to a range narrower than all of it.

A histogram counts absolute values relative to some range: bin b of B counts those in
[b / B, (b + 1) / B). The answer is a share of that range. Narrow integers then have finer steps
for what is common, and what is rare saturates; whether that is a gain is the question that
each method answers in its own way.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

_NARROWEST = 1 / 16
"""No method clips at less than this share of the range."""


def percentile_share(counts: np.ndarray, bits: int, percentile: float) -> np.ndarray:
    """The share of the range that ``percentile`` percent of the values lie in.

    Args:
        counts: [..., B].
        bits: of no effect.

    Returns:
        float64 [...], in (0, 1]; 1 where nothing was counted.
    """
    del bits
    cumulated = np.cumsum(counts, axis=-1)
    needed = cumulated[..., -1:] * (percentile / 100)
    first = np.argmax(cumulated >= needed, axis=-1)
    share = np.maximum((first + 1) / counts.shape[-1], _NARROWEST)
    return np.where(cumulated[..., -1] == 0, 1.0, share)


def squared_error_share(counts: np.ndarray, bits: int) -> np.ndarray:
    """The share at which rounding and saturation together have the smallest mean square.

    Arguments and result as for ``percentile_share``.
    """
    shares, cost = _costs(counts.shape[-1], bits)
    error = counts @ cost.T
    # From the widest down, so that of equals the widest is taken.
    best = np.argmin(error[..., ::-1], axis=-1)
    return shares[::-1][best]


def _costs(bins: int, bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Candidate shares [K], and the mean squared error [K, B] of a value of each bin.

    Values are taken to lie evenly within their bin, so that the error is an integral over it,
    exact also where a bin is wider than a step.
    """
    shares = np.linspace(_NARROWEST, 1, 121)
    edges = np.linspace(0, 1, bins + 1)
    step = (shares / (2 ** (bits - 1) - 1))[:, None]
    inside = np.minimum(edges, shares[:, None])
    whole = np.round(inside / step)
    integral = whole * step**3 / 12 + (inside - whole * step) ** 3 / 3
    integral += (edges - inside) ** 3 / 3
    return shares, np.diff(integral, axis=1) * bins


def entropy_share(counts: np.ndarray, bits: int) -> np.ndarray:
    """The share whose integers tell most: the smallest Kullback-Leibler divergence.

    For each candidate, the distribution clipped there is compared with itself after its bins
    were merged into 2^(bits - 1) levels (Migacz, "8-bit inference with TensorRT", 2017). Its
    bins must be many more than the levels, and well filled.

    Args:
        counts: [B].
    """
    bins, levels = len(counts), 2 ** (bits - 1)
    if not counts.any():
        return np.asarray(1.0)
    candidates = np.unique(np.linspace(max(levels, bins * _NARROWEST), bins, 121).astype(int))
    divergences = [_divergence(counts.astype(np.float64), size, levels) for size in candidates]
    best = len(candidates) - 1 - int(np.argmin(divergences[::-1]))
    return np.asarray(candidates[best] / bins)


def _divergence(counts: np.ndarray, size: int, levels: int) -> float:
    """KL(clipped at ``size`` bins || the same in ``levels`` levels)."""
    kept = counts[:size]
    clipped = kept.copy()
    clipped[-1] += counts[size:].sum()
    starts = np.arange(levels) * size // levels
    filled = (kept > 0).astype(np.float64)
    members = np.repeat(np.arange(levels), np.diff(np.append(starts, size)))
    level = np.add.reduceat(kept, starts) / np.maximum(np.add.reduceat(filled, starts), 1)
    merged = level[members] * filled
    if merged.sum() == 0:
        return np.inf
    merged = np.maximum(merged, 1e-9 * merged.sum())  # where only saturated values are
    p, q = clipped / clipped.sum(), merged / merged.sum()
    seen = p > 0
    return float(np.sum(p[seen] * np.log(p[seen] / q[seen])))


SHARES: dict[str, Callable[..., np.ndarray]] = {
    "percentile": percentile_share,
    "mse": squared_error_share,
    "entropy": entropy_share,
}
