"""Checkpoints of a training run, complete or not there at all.

Orbax writes a checkpoint under a temporary name and renames it when it is complete, so a process
that is killed while saving leaves nothing that looks like one. What a failing disk or a hand may
still do to a complete one is caught by a checksum of every array.
"""

from __future__ import annotations

import copy
import logging
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from ibert_jax.training.state import TrainState

logger = logging.getLogger(__name__)


class Position(NamedTuple):
    """How far a run has come.

    stage: its number. step: steps done in the stage. epoch, batch: where the data stand, for
    readers (step says it all). results: what the stages before have found, as JSON can hold it.
    """

    stage: int
    step: int
    epoch: int
    batch: int
    results: dict[str, Any]


class Checkpoints:
    """The checkpoints in a directory, numbered in the order in which they were made.

    Args:
      directory: made if needed; what interrupted saves left in it is cleared away.
      keep: how many of the latest stay.
    """

    def __init__(self, directory: Path, *, keep: int) -> None:
        self._manager = ocp.CheckpointManager(
            directory.absolute(),
            options=ocp.CheckpointManagerOptions(
                max_to_keep=keep,
                enable_async_checkpointing=True,
                cleanup_tmp_directories=True,
            ),
        )
        self._number = self._manager.latest_step() or 0

    def save(self, state: TrainState, position: Position) -> None:
        """Begin to write a checkpoint, after the one before; it is complete some time later.

        What fails meanwhile is raised by the next call.
        """
        # Copies: the next step overwrites the arrays (they are donated).
        arrays = {name: np.array(leaf, copy=True) for name, leaf in _named(state).items()}
        results = copy.deepcopy(position.results)
        position = position._replace(results=results)
        self._number += 1
        checksums = {name: _checksum(array) for name, array in arrays.items()}
        self._manager.save(
            self._number,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(arrays),
                position=ocp.args.JsonSave({**position._asdict(), "checksums": checksums}),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, Position] | None:
        """The latest sound checkpoint; None where there is none at all.

        A damaged one is passed over, with a warning in the log. It stays until newer ones take its
        place: perhaps it is the disk that fails, and not for ever.

        Args:
          like: a state of the same shapes.

        Raises:
          ValueError: there are checkpoints, but all are damaged.
        """
        numbers = sorted(self._manager.all_steps(), reverse=True)
        for number in numbers:
            try:
                return self._read(number, like)
            except Exception as error:  # of many kinds: whatever the storage layers stumble over
                logger.warning("checkpoint %d is damaged, trying an older one: %s", number, error)
        if numbers:
            raise ValueError(
                f"expected a sound checkpoint in {self._manager.directory}, got {len(numbers)} "
                "that cannot be read (the log says why); mend that folder and go on, or delete the "
                "run to begin anew"
            )
        return None

    def _read(self, number: int, like: TrainState) -> tuple[TrainState, Position]:
        shapes = {name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in _named(like).items()}
        found = self._manager.restore(
            number,
            args=ocp.args.Composite(
                state=ocp.args.StandardRestore(
                    {n: np.zeros(s.shape, s.dtype) for n, s in shapes.items()}
                ),
                position=ocp.args.JsonRestore(),
            ),
        )
        position = dict(found["position"])
        checksums = position.pop("checksums")
        wrong = [name for name in shapes if _checksum(found["state"][name]) != checksums[name]]
        if wrong:
            raise ValueError(f"the checksums of {', '.join(wrong)} do not fit")
        # Copies: a donated array must own its memory.
        leaves = [jnp.array(found["state"][name], copy=True) for name in shapes]
        return jax.tree.unflatten(jax.tree.structure(like), leaves), Position(**position)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Wait for what is being written, and release the threads behind it."""
        self._manager.close()


def _named(state: TrainState) -> dict[str, Any]:
    """The leaves of a state by path, in the order of `jax.tree.leaves`."""
    leaves = jax.tree_util.tree_flatten_with_path(state)[0]
    return {jax.tree_util.keystr(path, simple=True, separator="."): leaf for path, leaf in leaves}


def _checksum(array: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(array).tobytes())
