"""Encodings to numbers: batches of few shapes, on one device or on several."""

from __future__ import annotations

import dataclasses
import functools
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ibert_jax.frozen import IntegerModel
from ibert_jax.inference.buckets import Batch, make_batches
from ibert_jax.inference.last_layer import LastLayer
from ibert_jax.inference.lengths import FixedLengths, GrowingLengths, Lengths, lengths_up_to
from ibert_jax.inference.price import Price
from ibert_jax.inference.tasks import Task
from ibert_jax.integer.compiled import jit_program
from ibert_jax.integer.streams import dispatch, streams
from ibert_jax.layers.leaf import check_answering
from ibert_jax.quantize.tensor import QuantizedTensor
from ibert_jax.tokenizer import Encoding

# Batches dispatched before the first result is waited for: the device never idles, and what waits
# on it stays bounded.
_AHEAD = 8


def _distinct(devices: Any) -> list[Any]:
    """A list of JAX's devices, each once.

    Raises:
      ValueError: none at all, or one of them twice.
      TypeError: what is no list of devices.
    """
    found = list(devices) if isinstance(devices, Iterable) else [devices, None]
    if not all(isinstance(device, jax.Device) for device in found):
        raise TypeError(f"expected a list of JAX's devices, got {devices!r}; see jax.devices()")
    if not found or len(set(found)) < len(found):
        raise ValueError(f"expected one device or several different ones, got {found}")
    return found


class Engine:
    """Computes encodings with a frozen program, or with a model in one of its other lives.

    program: what was loaded. batch_size: rows of a full batch. devices: those that share the rows
        of each batch; parameters are copied to all of them. One device computes as if there were
        no others, and a row's integers are the same wherever and beside whatever it is computed.
    """

    def __init__(
        self, program: Any, task: Task, *, batch_size: int, devices: Sequence[Any] | None = None
    ) -> None:
        self.task = task
        self.batch_size = batch_size
        self.padded_tokens = 0
        devices = jax.local_devices() if devices is None else _distinct(devices)
        self._devices = len(devices)
        self._compiled: set[tuple[tuple[int, ...], bool | None]] = set()
        mesh = Mesh(np.asarray(devices), ("rows",))
        self._rows = NamedSharding(mesh, PartitionSpec("rows"))
        everywhere = NamedSharding(mesh, PartitionSpec())
        self._graph: Any = None
        self._price = Price()
        self._lengths: Lengths = FixedLengths(lengths_up_to(task.max_length))
        self._last_layer: LastLayer | None = None
        if isinstance(program, nnx.Module):
            check_answering(program)  # where it is compiled nothing can be refused
            self._graph, program = nnx.split(program)
        elif task.config.force_dequant == "none":  # all integers, which padding does not change
            self._lengths = GrowingLengths(task.max_length, self._price)
        if isinstance(program, IntegerModel) and program.whole_layers is None:
            sparing = dataclasses.replace(program, whole_layers=False)
            layers = program.config.num_hidden_layers
            self._last_layer = LastLayer(sparing.spares_last_layer, layers, self._price)
        self._parameters = jax.device_put(program, everywhere)

    def run(self, encodings: Sequence[Encoding]) -> list[Any]:
        """The task's part for each encoding, in their order."""
        parts: list[Any] = [None] * len(encodings)
        pending: deque[tuple[Batch, Future[Any]]] = deque()
        started, compiling, padded = time.perf_counter(), 0.0, self.padded_tokens
        batches = make_batches(
            encodings,
            self._lengths,
            self.batch_size,
            pad_token_id=self.task.config.pad_token_id,
            devices=self._devices,
        )
        side_by_side = 1 if self._graph is not None else min(streams(), _AHEAD)
        for number, batch in enumerate(batches):
            shape = batch.input_ids.shape
            whole = None if self._last_layer is None else self._last_layer.whole(shape)
            new = (shape, whole) not in self._compiled
            if new:  # compiling shall be timed, beside nothing else
                self._collect_all(pending, encodings, parts)
            begun = time.perf_counter()
            self.padded_tokens += batch.input_ids.size
            stream = None if side_by_side == 1 else number % side_by_side
            pending.append((batch, dispatch(stream, self.compute, batch, encodings, whole)))
            if new:  # the call waits for the compiler, and not for what it computes
                pending[-1][1].result()
                self._compiled.add((shape, whole))
                compiling += (taken := time.perf_counter() - begun)
                self._price.compiled(taken)
            if len(pending) > _AHEAD:
                self._collect(*pending.popleft(), encodings, parts)
        self._collect_all(pending, encodings, parts)
        seconds = time.perf_counter() - started - compiling
        self._price.computed(self.padded_tokens - padded, seconds)
        return parts

    def compute(self, batch: Batch, encodings: Sequence[Encoding], whole: bool | None) -> Any:
        """What the task selects of the outputs, arrays [B, ...] that are still being computed.

        whole: whether by whole layers (`last_layer`); None, as the program has it.
        """
        arrays = {
            "input_ids": batch.input_ids,
            "attention_mask": batch.attention_mask,
            "token_type_ids": self.task.known_types(batch.token_type_ids),
            **self.task.extra([encodings[source] for source in batch.sources]),
        }
        arrays = jax.device_put(arrays, self._rows)
        if self._graph is not None:
            return _run_model(type(self.task), self._graph, self._parameters, arrays)
        program = self._parameters
        if whole is not None:
            program = dataclasses.replace(program, whole_layers=whole)
        return _run_program(type(self.task), program, arrays)

    def _collect_all(
        self,
        pending: deque[tuple[Batch, Future[Any]]],
        encodings: Sequence[Encoding],
        parts: list[Any],
    ) -> None:
        """The same for all that are being computed."""
        while pending:
            self._collect(*pending.popleft(), encodings, parts)

    def _collect(
        self,
        batch: Batch,
        selected: Future[Any],
        encodings: Sequence[Encoding],
        parts: list[Any],
    ) -> None:
        """Wait for a batch and put what the task makes of its rows in their places."""
        arrays = jax.device_get(selected.result())
        for row, position in enumerate(batch.positions.tolist()):
            own = jax.tree.map(lambda array, row=row: array[row], arrays)
            parts[position] = self.task.reduce(own, encodings[position])


# Parameters are arguments, not constants of the compiled program, and jit's cache is shared by all
# engines: a second one for a model of the same shapes compiles nothing.
@functools.partial(jax.jit, static_argnums=(0, 1))
def _run_model(task: type[Task], graph: Any, state: Any, batch: dict[str, jax.Array]) -> Any:
    model = nnx.merge(graph, state)
    model.eval()
    return task.select(model(**task.arguments(batch), return_dict=True), batch)


@functools.partial(jit_program, static_argnums=0)
def _run_program(task: type[Task], program: Any, batch: dict[str, jax.Array]) -> Any:
    if not task.integers:
        return task.select(program(**task.arguments(batch), return_dict=True), batch)
    outputs = program.integers(**task.arguments(batch))
    hidden, scale = outputs.last_hidden_state, program.scale_of("last_hidden_state")
    tensor = QuantizedTensor(hidden, jnp.float32(scale), hidden)
    return task.select(dataclasses.replace(outputs, last_hidden_state=tensor), batch)
