"""Which leaf costs how much: quantized alone, and left alone in float."""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import numpy as np
from flax import nnx

from ibert_jax.analysis.switches import inputs_of, kind_of, switch_leaves, switchable
from ibert_jax.checks import check_model
from ibert_jax.layers.leaf import check_calibrated
from ibert_jax.layers.widths import BACKBONE
from ibert_jax.quantize.calibration import check_batches
from ibert_jax.quantize.distance import outputs_of, squares

GROUPS = ("leaf", "kind", "layer")


@dataclasses.dataclass(frozen=True)
class SensitivityRow:
    """One leaf, or one group of them.

    Attributes:
        name: the leaf's path, or the group's name.
        leaves: how many leaves it stands for.
        alone: distance of the outputs to the float ones when it alone is quantized.
        without: the same when all others are quantized and it is left in float.
        accuracy_alone, accuracy_without: where labels were given.
    """

    name: str
    leaves: int
    alone: float
    without: float
    accuracy_alone: float | None = None
    accuracy_without: float | None = None


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """What quantizing costs, the costliest first; prints as a table.

    A distance is relative: the root of the sum of squared differences over that of squared float
    outputs; logits of a head, the last hidden state of a model without one.

    Attributes:
        rows: one for each leaf or group.
        everything: the distance when everything is quantized.
        accuracy_float, accuracy_everything: where labels were given.
    """

    rows: tuple[SensitivityRow, ...]
    everything: float
    accuracy_float: float | None = None
    accuracy_everything: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        width = max(len("everything"), *(len(row.name) for row in self.rows))
        labelled = self.accuracy_float is not None
        header = f"{'quantized':{width}}  {'alone':>8}  {'all but':>8}"
        lines = [header + ("  accuracy alone  all but" if labelled else "")]
        for row in self.rows:
            line = f"{row.name:{width}}  {row.alone:8.5f}  {row.without:8.5f}"
            if labelled:
                line += f"  {row.accuracy_alone:14.2%}  {row.accuracy_without:7.2%}"
            lines.append(line)
        lines.append(f"{'everything':{width}}  {self.everything:8.5f}")
        if labelled:
            lines[-1] += f"{'':10}  {self.accuracy_everything:14.2%}"
            lines.append(f"{'nothing':{width}}  {0:8.5f}{'':10}  {self.accuracy_float:14.2%}")
        return "\n".join(lines)

    def plot(self, most: int = 30) -> Any:
        """A bar for each of the ``most`` costliest rows; needs matplotlib (extra ``notebooks``).

        Returns:
            A ``matplotlib`` figure, for its ``savefig``.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise ImportError(
                "plotting needs matplotlib: pip install 'ibert-jax[notebooks]'"
            ) from None
        rows = self.rows[:most][::-1]
        figure = Figure(figsize=(9, 1.2 + 0.24 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = np.arange(len(rows))
        gain = [max(self.everything - row.without, 0) for row in rows]
        axes.barh(places + 0.2, [row.alone for row in rows], 0.4, label="quantized alone")
        axes.barh(places - 0.2, gain, 0.4, label="gained by leaving it in float")
        axes.axvline(self.everything, color="0.5", linestyle=":", label="everything quantized")
        axes.set_yticks(places, [row.name for row in rows], fontsize=8)
        axes.set_xlabel("relative distance of the outputs to the float ones")
        axes.legend(loc="lower right")
        return figure


def sensitivity(
    model: Any,
    batches: Iterable[Mapping[str, Any]],
    *,
    group: str | Callable[[str, Any], str | None] = "leaf",
    leaves: str = "*",
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Sensitivity:
    """Measure what each leaf costs, in one compiled sweep: the flags are arrays.

    The model runs 2 n + 2 times over the batches for n leaves or groups. Floats pass between
    leaves, so that each can be quantized by itself; see ``analysis.switches``.

    Args:
        model: one of this package's models with calibrated ranges; not changed.
        batches: its arguments by name, of one shape (each shape is compiled anew): a hundred
            sentences or so. Integer ``labels``, where given, add the accuracy (-100 is ignored).
        group: ``leaf``; ``kind``, all softmaxes together and so on; ``layer``; or a function
            from a leaf's path and the leaf to the name of its group, None to leave it out.
        leaves: glob pattern of the leaves in question, paths without ``ibert.``; all others are
            float in ``alone`` and quantized in ``without``.
        progress: wraps the sweep's items, to show how far it is.

    Returns:
        A row for each leaf or group, the costliest first; distances without unit, relative to the
        float outputs.

    Raises:
        ValueError: no batch, nothing matches ``leaves``, an unknown group, or ranges that were
            never calibrated.
        TypeError: what is no model; one batch in place of a list of them.
    """
    check_model(model)
    check_batches(batches)
    model, arrays = nnx.clone(model), list(batches)
    if not arrays:
        raise ValueError("sensitivity needs at least one batch, got none: pass some sentences")
    for batch in arrays:
        model.check_batch(model.config, batch)
    model.quantize(True)  # settles the bits
    check_calibrated(model.leaves())
    found = switchable(model)
    groups = _groups(found, group, leaves)
    measure = _Measurement(model, list(found), arrays)
    everything = np.ones(len(found), bool)
    total, accuracy = measure(everything)
    exact = measure(~everything)[1]
    rows = []
    for name, members in progress(list(groups.items())):
        own = np.isin(list(found), members)
        (alone, right), (without, kept) = measure(own), measure(~own)
        rows.append(SensitivityRow(name, len(members), alone, without, right, kept))
    rows.sort(key=lambda row: -row.alone)
    return Sensitivity(tuple(rows), total, exact, accuracy)


def _groups(found: Mapping[str, Any], group: Any, pattern: str) -> dict[str, list[str]]:
    """Name -> the paths of its leaves."""
    if isinstance(group, str) and group not in GROUPS:
        raise ValueError(f"group must be one of {', '.join(GROUPS)} or a function, got {group!r}")
    groups: dict[str, list[str]] = {}
    for path, leaf in found.items():
        short = path.removeprefix(BACKBONE)
        if not fnmatch.fnmatchcase(short, pattern):
            continue
        name: Any = group(path, leaf) if callable(group) else _name(short, leaf, group)
        if name is not None:
            groups.setdefault(name, []).append(path)
    if not groups:
        raise ValueError(
            f"leaves={pattern!r} matches no leaf that loses anything when quantized; the first of "
            f"those is {next(iter(found)).removeprefix(BACKBONE)!r}"
        )
    return groups


def _name(path: str, leaf: Any, group: str) -> str:
    if group == "leaf":
        return path
    if group == "kind":
        return str(kind_of(leaf))
    steps = path.split(".")
    return ".".join(steps[:3] if steps[0] == "encoder" else steps[:1])


class _Measurement:
    """The model run with some leaves quantized: the distance of its outputs, and its accuracy."""

    def __init__(self, model: Any, paths: list[str], batches: list[Mapping[str, Any]]) -> None:
        graph, self._state = nnx.split(model)
        self._batches = [{name: np.asarray(v) for name, v in b.items()} for b in batches]
        nothing = np.zeros(len(paths), bool)

        @jax.jit
        def outputs(state: Any, arguments: Any, flags: jax.Array) -> dict[str, jax.Array]:
            network = nnx.merge(graph, state)
            switch_leaves(network, paths, flags)
            return outputs_of(network(**arguments, return_dict=True))

        self._outputs = outputs
        self._wanted = [outputs(self._state, inputs_of(batch), nothing) for batch in self._batches]

    def __call__(self, flags: np.ndarray) -> tuple[float, float | None]:
        """Relative distance, and accuracy where there are labels; ``flags`` bool [leaves]."""
        total, right, counted = np.zeros(2), 0, 0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            got = self._outputs(self._state, inputs_of(batch), flags)
            total += np.asarray(_squares(got, wanted, inputs_of(batch)), np.float64)
            if "labels" in batch and "logits" in got and _are_classes(batch["labels"], got):
                labels, answers = batch["labels"], np.argmax(np.asarray(got["logits"]), axis=-1)
                right += int(np.sum((answers == labels) & (labels != -100)))
                counted += int(np.sum(labels != -100))
        return float(np.sqrt(total[0] / total[1])), right / counted if counted else None


def _are_classes(labels: np.ndarray, got: Mapping[str, jax.Array]) -> bool:
    """Whether labels are the numbers of classes, one an answer, and no quantities or flags."""
    *answers, classes = got["logits"].shape
    return np.issubdtype(labels.dtype, np.integer) and labels.shape == (*answers,) and classes > 1


_squares = jax.jit(squares)
