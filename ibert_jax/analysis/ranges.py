"""What calibration found: the range, the scale and the saturation of every activation."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.checks import check_model
from ibert_jax.frozen.network import watch_leaves
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.leaf import leaves_of
from ibert_jax.proof.saturation import at_the_ends
from ibert_jax.quantize.calibration import check_batches


@dataclasses.dataclass(frozen=True)
class RangeRow:
    """One activation.

    Attributes:
        path: of the leaf.
        bits: of its integers.
        granularity: what a scale belongs to: ``tensor``, ``channel``, or ``balanced`` (one scale
            times a power of two for each channel).
        low, high: the range, in units of the value; the extremes where channels have their own.
        smallest_scale, largest_scale: what a step stands for.
        saturated: share of elements at either end of the integers; None if not measured.
    """

    path: str
    bits: int
    granularity: str
    low: float
    high: float
    smallest_scale: float
    largest_scale: float
    saturated: float | None = None


@dataclasses.dataclass(frozen=True)
class CalibrationReport:
    """A row for each activation, in the order of the model's leaves; prints as a table."""

    rows: tuple[RangeRow, ...]

    def to_dicts(self) -> list[dict[str, Any]]:
        """The rows as JSON values."""
        return [dataclasses.asdict(row) for row in self.rows]

    def __str__(self) -> str:
        width = max([len(row.path) for row in self.rows], default=4)
        lines = [
            f"{'leaf':{width}}  bits  {'scale for':9}  {'low':>9}  {'high':>9}  "
            f"{'scale':>9}  {'to':>9}  {'saturated':>9}"
        ]
        for row in self.rows:
            share = "" if row.saturated is None else f"{row.saturated:.4%}"
            lines.append(
                f"{row.path:{width}}  {row.bits:4}  {row.granularity:9}  {row.low:9.3g}  "
                f"{row.high:9.3g}  {row.smallest_scale:9.3g}  {row.largest_scale:9.3g}  {share:>9}"
            )
        return "\n".join(lines)


def calibration_report(
    model: Any,
    batches: Iterable[Mapping[str, Any]] = (),
    *,
    saturated: Mapping[str, float] | None = None,
) -> CalibrationReport:
    """The ranges of a calibrated model as a table.

    Args:
        model: one of this package's models, calibrated or trained quantization-aware.
        batches: the model's arguments by name; where given, saturation is measured on them, with
            one compilation for each shape. Tokens that the attention mask excludes do not count.
        saturated: shares by path that are known already, such as a certificate's ``saturation``.

    Returns:
        A row for each quantized activation that has a range, in the order of the model's leaves;
        ranges and scales in units of the value, saturation as a share. None are there before
        ``ib.calibrate``.

    Raises:
        ValueError, TypeError: a batch that the model does not take; what is no model; one batch in
            place of a list of them.
    """
    check_model(model)
    check_batches(batches)
    saturated = _saturation(model, batches) if saturated is None else saturated
    rows = []
    for path, leaf in leaves_of(model).items():
        if not isinstance(leaf, QuantAct) or leaf.form.bits is None or not leaf.calibrated:
            continue
        scale = np.asarray(leaf.scale())
        rows.append(
            RangeRow(
                path,
                leaf.form.bits,
                leaf.form.granularity,
                float(np.min(leaf.x_min[...])),
                float(np.max(leaf.x_max[...])),
                float(scale.min()),
                float(scale.max()),
                saturated.get(path),
            )
        )
    return CalibrationReport(tuple(rows))


def _saturation(model: Any, batches: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """The share of saturated elements by path, in the quantization-aware life."""
    quantized = nnx.clone(model)
    quantized.quantize(True)
    quantized.eval()
    graph, state = nnx.split(quantized)

    @jax.jit
    def count(state: Any, batch: dict[str, jax.Array]) -> dict[str, tuple[jax.Array, jax.Array]]:
        network: Any = nnx.merge(graph, state)
        found: dict[str, tuple[jax.Array, jax.Array]] = {}

        def record(path: str, leaf: Any, result: Any) -> None:
            if isinstance(leaf, QuantAct) and leaf.form.bits is not None:
                highest = 2 ** (leaf.form.bits - 1) - 1
                found[path] = at_the_ends(result.q, highest, batch)

        watch_leaves(network, record)
        network(**batch)
        return found

    totals: dict[str, np.ndarray] = {}
    for batch in batches:
        model.check_batch(model.config, batch)
        arrays = {name: np.asarray(value) for name, value in batch.items()}
        for path, counts in jax.device_get(count(state, arrays)).items():
            totals[path] = totals.get(path, 0) + np.asarray(counts, np.int64)
    return {path: float(ends / all_) for path, (ends, all_) in totals.items() if all_}
