"""The network of an integer model: the model's graph with integer leaves in its leaves' places."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.models.encoder import IBertEncoder
from ibert_jax.models.layer_stack import laid_out
from ibert_jax.models.pretrained import IBertPreTrainedModel


def replace_leaves(network: Any, leaves: dict[str, Any]) -> None:
    """Put an integer leaf in the place of each leaf of a model, in place.

    Raises:
        KeyError: a leaf for which there is none.
    """
    for path in network.leaves():
        put_leaf(network, path, nnx.data(leaves[path]))


def wrap_leaves(network: Any, wrap: Callable[[str, Any], Any]) -> None:
    """Put ``wrap(path, leaf)`` in the place of every leaf, of whatever life, in place."""
    unstack_layers(network)
    for path, leaf in (network.leaves() or integer_leaves(network)).items():
        put_leaf(network, path, nnx.static(wrap(path, leaf)))


def watch_leaves(network: Any, watch: Callable[[str, Any, Any], None]) -> None:
    """Let ``watch(path, leaf, result)`` see the result of every leaf's call, in place."""
    wrap_leaves(network, lambda path, leaf: _Watched(leaf, path, watch))


class _Watched:
    """Stands in a leaf's place, calls it and shows what it returns."""

    def __init__(self, leaf: Any, path: str, watch: Callable[[str, Any, Any], None]) -> None:
        self._leaf, self._path, self._watch = leaf, path, watch

    def __call__(self, *operands: Any) -> Any:
        result = self._leaf(*operands)
        self._watch(self._path, self._leaf, result)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._leaf, name)


def name_leaves(network: nnx.Module) -> None:
    """Let every integer leaf run under its path, in place."""
    for path, leaf in integer_leaves(network).items():
        put_leaf(network, path, nnx.data(NamedLeaf(leaf, path)))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class NamedLeaf:
    """An integer leaf in a jitted function named by its path.

    It computes what the leaf computes; profiles, dumps of the program and proofs about it then
    say whose operations they are about.
    """

    leaf: Any
    path: str = dataclasses.field(metadata={"static": True})

    def __call__(self, *operands: Any) -> Any:
        def call(leaf: Any, *operands: Any) -> Any:
            return leaf(*operands)

        call.__name__ = call.__qualname__ = self.path
        return jax.jit(call)(self.leaf, *operands)

    def __getattr__(self, name: str) -> Any:
        if name == "leaf":  # not there yet: an object that is just being made
            raise AttributeError(name)
        return getattr(self.leaf, name)


def encoder_layers(encoder: IBertEncoder) -> list[Any]:
    """The layers of an encoder, or the one that stands for all of a stack."""
    return [*encoder.layer] if encoder.stacked is None else [encoder.stacked]


def put_leaf(network: Any, path: str, leaf: Any) -> None:
    """Put ``leaf`` at ``path``, in place."""
    *parents, name = path.split(".")
    parent = network
    for step in parents:
        parent = parent[int(step)] if step.isdigit() else getattr(parent, step)
    setattr(parent, name, leaf)


def integer_leaves(network: nnx.Module) -> dict[str, Any]:
    """Every integer leaf of a network by path, in the order of its attributes."""
    return {
        ".".join(map(str, (*path, name))): value
        for path, module in nnx.iter_modules(network)
        for name, value in vars(module).items()
        if dataclasses.is_dataclass(value) and callable(value)
    }


def stack_layers(network: nnx.Module) -> None:
    """Stack the layers of a network whose leaves are integer leaves, in place."""
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            module.stack(list(module.layer))


def unstack_layers(network: nnx.Module) -> None:
    """The inverse of ``stack_layers``: each layer apart again, for whoever looks inside."""
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            module.unstack()


def frozen_network(
    kind: Callable[..., IBertPreTrainedModel], config: IBertConfig, leaves: dict[str, Any]
) -> nnx.Module:
    """The network of ``kind``, stacked, around integer leaves given by path.

    Raises:
        KeyError: a leaf for which there is none.
    """
    # One layer stands for all, as they are stacked: to make twelve takes seconds.
    one = dataclasses.replace(config, num_hidden_layers=1)
    network: Any = nnx.eval_shape(lambda: kind(one, rngs=nnx.Rngs(0)))
    if not any(path.startswith("pooler.") for path in leaves) and hasattr(network, "pooler"):
        network.pooler = None
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            module.depth = config.num_hidden_layers
            module.stacked = nnx.data(module.layer[0])
            module.layer = nnx.List([])
        elif isinstance(module, IBertPreTrainedModel):
            module.config = config
    replace_leaves(network, leaves)
    for _, module in list(nnx.iter_modules(network)):
        if isinstance(module, IBertEncoder):
            module.stacked = nnx.data(laid_out(module.stacked))
    return network
