"""Data parallel training: devices share the rows of each batch, each holds all parameters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")


class Sharing:
    """How devices share the work; XLA derives the rest, and what they must tell each other.

    Args:
      devices: those that share; of all processes, where there are several, in which case every
        process makes the same batches and the same calls.

    Attributes:
      rows: of arrays whose first axis is shared. everywhere: of arrays that all devices have.
    """

    def __init__(self, devices: Sequence[Any]) -> None:
        self.count = len(devices)
        mesh = Mesh(np.asarray(devices), ("rows",))
        self.rows = NamedSharding(mesh, PartitionSpec("rows"))
        self.everywhere = NamedSharding(mesh, PartitionSpec())

    def share(self, batch: Tree) -> Tree:
        """Host arrays [B, ...], B a multiple of the devices, each device with its rows."""

        def placed(array: Any) -> jax.Array:
            host = np.asarray(array)
            return jax.make_array_from_callback(host.shape, self.rows, lambda index: host[index])

        return jax.tree.map(placed, batch)

    def replicate(self, tree: Tree) -> Tree:
        """Arrays of which every device has all."""
        return jax.device_put(tree, self.everywhere)


def sharing_of(batch_size: int, devices: int | None) -> Sharing | None:
    """So many local devices, or as many as can have equal shares; None where that is one.

    batch_size: rows that are computed at a time.

    Raises ValueError where there are fewer devices.
    """
    local = jax.local_devices()
    if devices is not None and devices > len(local):
        raise ValueError(
            f"expected at most the {len(local)} devices of this machine, got {devices}"
        )
    most = devices or max(n for n in range(1, len(local) + 1) if batch_size % n == 0)
    return None if most == 1 else Sharing(local[:most])
