"""The integer model: a pytree of integers that runs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any, Self

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.models.inputs import encoder_inputs


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class IntegerModel:
    """A frozen model.

    Attributes:
        tensors: int8 and int32 arrays, the pytree's leaves.
        structure: the network that they belong to.
        config: the configuration.
        scales: (name of an output, its float scale) pairs: the only floats, used outside.
    """

    tensors: tuple[jax.Array, ...]
    structure: Any = dataclasses.field(metadata={"static": True})
    config: IBertConfig = dataclasses.field(metadata={"static": True})
    scales: tuple[tuple[str, float], ...] = dataclasses.field(metadata={"static": True})

    @classmethod
    def of(cls, network: nnx.Module, config: IBertConfig, scales: dict[str, float]) -> Self:
        """The model of a network whose leaves are integer leaves."""
        tensors, structure = jax.tree.flatten(network)
        return cls(tuple(tensors), structure, config, tuple(sorted(scales.items())))

    @property
    def network(self) -> Any:
        """The graph modules with their integer leaves."""
        return jax.tree.unflatten(self.structure, self.tensors)

    def integers(
        self,
        input_ids: Any,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
    ) -> Any:
        """Run the program; nothing but integer operations.

        Args:
            input_ids: integers [B, T] in [0, vocab_size).
            attention_mask: 0/1 [B, T], 1 where a token counts; all ones if None.
            token_type_ids: integers [B, T] in [0, type_vocab_size); zeros if None.
            position_ids: integers [B, T]; counted from ``input_ids`` if None.

        Returns:
            The outputs of the model that was frozen, int32; ``scale_of`` gives their scales.
        """
        inputs = encoder_inputs(
            self.config, input_ids, attention_mask, token_type_ids, position_ids
        )
        return _run(self, *inputs)

    def __call__(self, input_ids: Any, **arguments: Any) -> Any:
        """The same outputs as floats: int32 times the output's scale."""
        outputs = self.integers(input_ids, **arguments)
        floats = {
            name: getattr(outputs, name).astype(jnp.float32) * scale
            for name, scale in self.scales
            if getattr(outputs, name) is not None
        }
        return dataclasses.replace(outputs, **floats)

    def scale_of(self, output: str) -> float:
        """The scale of an output's integers."""
        return dict(self.scales)[output]

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write ``integer_model.safetensors`` and ``integer_model.json`` (see ``storage``)."""
        from ibert_jax.frozen.storage import save

        save(self, directory)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> IntegerModel:
        """Read what ``save`` wrote; refuses files that are missing, truncated or altered."""
        from ibert_jax.frozen.storage import load

        return load(directory)


@jax.jit
def _run(
    model: IntegerModel, ids: jax.Array, mask: jax.Array, types: jax.Array, positions: jax.Array
) -> Any:
    outputs = model.network(ids, attention_mask=mask, token_type_ids=types, position_ids=positions)
    return dataclasses.replace(outputs, hidden_states=None, attentions=None)
