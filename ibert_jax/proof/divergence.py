"""Where two runs first differ: the debugging call for whoever changed something."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from ibert_jax.checks import check_model
from ibert_jax.frozen.network import integer_leaves, unstack_layers, watch_leaves
from ibert_jax.frozen.program import IntegerModel
from ibert_jax.layers.dropout import Dropout, IntegerDropout
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.tensor import QuantizedTensor

Run = IntegerModel | IBertPreTrainedModel | Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class Divergence:
    """The first tensor in which two runs differ.

    Attributes:
        tensor: path of the leaf whose result it is, e.g.
            ``ibert.encoder.layer.1.attention.self.query``.
        index: of the first element that differs, in row-major order.
        first, second: that element in either run.
        differing: how many elements of the tensor differ.
        size: how many it has.
    """

    tensor: str
    index: tuple[int, ...]
    first: int
    second: int
    differing: int
    size: int

    def __str__(self) -> str:
        place = ", ".join(map(str, self.index))
        return (
            f"{self.tensor}[{place}] is {self.first} in the first run and {self.second} in the "
            f"second; {self.differing} of its {self.size} elements differ"
        )


def first_divergence(
    first: Run, second: Run, input_ids: Any = None, **arguments: Any
) -> Divergence | None:
    """Run two programs on the same input and name the first tensor and index where they differ.

    Args:
        first, second: each a frozen program, a model in the quantization-aware life, or the
            tensors of a run, by path: what ``integer_tensors`` returns, or
            ``spec_network.run`` of a tiny model.
        input_ids, arguments: as the models take them, e.g. ``attention_mask``.

    Returns:
        The divergence, earliest in the order of execution, or None where every integer of
        every leaf agrees.

    Raises:
        ValueError: the runs do not have the same tensors, or a tensor not the same shape.
        TypeError: a tensor that holds no integers; what is no model and no run.
    """
    mine, other = (
        run if isinstance(run, Mapping) else integer_tensors(run, input_ids, **arguments)
        for run in (first, second)
    )
    if not mine and not other:
        raise ValueError("expected two runs with tensors, got two without any")
    alone = [*(set(mine) - set(other)), *(set(other) - set(mine))]
    if alone:
        raise ValueError(
            f"the runs do not have the same tensors: {', '.join(sorted(alone)[:5])} is in one of "
            "them only; compare two runs of one architecture"
        )
    for path, tensor in mine.items():
        a, b = (_integers(path, each) for each in (tensor, other[path]))
        if a.shape != b.shape:
            raise ValueError(
                f"{path} has shape {a.shape} in the first run and {b.shape} in the second; "
                "compare two runs of one architecture on the same input"
            )
        where = np.argwhere(a != b)
        if where.size:
            index = tuple(int(i) for i in where[0])
            return Divergence(path, index, int(a[index]), int(b[index]), len(where), a.size)
    return None


def _integers(path: str, tensor: Any) -> np.ndarray:
    """A tensor of a run, which must be one of integers: int64."""
    array = np.asarray(tensor)
    if not np.can_cast(array.dtype, np.int64):
        raise TypeError(f"expected integers in {path}, got {array.dtype}: take `q` of a tensor")
    return array.astype(np.int64)


def integer_tensors(
    model: IntegerModel | IBertPreTrainedModel, input_ids: Any = None, **arguments: Any
) -> dict[str, np.ndarray]:
    """The result of every leaf by path, in the order of execution.

    The layers are run one by one rather than scanned, all of it in one compilation. A softmax
    gives two tensors, its numerators under its own path and its row sums under
    ``<path>.row_sum``. Dropout is left out.

    Args:
        model: a frozen program, or a model in the quantization-aware life (its ``q``).
        input_ids, arguments: as the models take them.
    """
    if not isinstance(model, IntegerModel):
        check_model(model)
        if not model.config.quant_mode:
            raise ValueError(
                "expected a frozen program or a model in the quantization-aware life, got a float "
                "model; call ib.calibrate(model, batches) first"
            )

    # The inputs are closed over, so that they are checked like those of any call.
    @jax.jit
    def run(model: Any) -> dict[str, jax.Array]:
        network = model.network if isinstance(model, IntegerModel) else model
        found: dict[str, jax.Array] = {}

        def record(path: str, leaf: Any, result: Any) -> None:
            if isinstance(leaf, Dropout | IntegerDropout):
                return
            q, row_sum = result if isinstance(result, tuple) else (result, None)
            if isinstance(result, QuantizedTensor):
                q, row_sum = result.q, result.row_sum
            found[path] = q
            if row_sum is not None:
                found[f"{path}.row_sum"] = row_sum

        watch_leaves(network, record)
        network(input_ids, **arguments)
        order.extend(found)
        return found

    order: list[str] = []  # a dictionary comes back from jit in the order of its keys
    tensors = run(model)
    return {path: np.asarray(tensors[path]) for path in order}


def plain_leaves(program: IntegerModel) -> dict[str, Any]:
    """The program's integer leaves by path, arrays as nested lists: what ``spec_network`` takes."""
    network = program.network
    unstack_layers(network)
    return {path: _plain(leaf) for path, leaf in integer_leaves(network).items()}


def _plain(node: Any) -> Any:
    if isinstance(node, jax.Array):
        return np.asarray(node).tolist()
    if isinstance(node, tuple):
        return [_plain(part) for part in node]
    if dataclasses.is_dataclass(node):
        fields = {f.name: _plain(getattr(node, f.name)) for f in dataclasses.fields(node)}
        return {"kind": type(node).__name__, **fields}
    return node
