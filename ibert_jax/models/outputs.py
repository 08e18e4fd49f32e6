"""What the models return: named fields, or the tuple of those that are not None."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax


class ModelOutput:
    """Base of the output dataclasses; indexable like the tuple it can be turned into."""

    def to_tuple(self) -> tuple[Any, ...]:
        """The fields that are not None, in order."""
        values = (getattr(self, f.name) for f in dataclasses.fields(self))  # type: ignore[arg-type]
        return tuple(value for value in values if value is not None)

    def __getitem__(self, key: int | slice | str) -> Any:
        return getattr(self, key) if isinstance(key, str) else self.to_tuple()[key]

    def __len__(self) -> int:
        return len(self.to_tuple())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class BaseModelOutputWithPooling(ModelOutput):
    """``last_hidden_state`` [B, T, C] and ``pooler_output`` [B, C] (None without a pooler)."""

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: Any = None
    attentions: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SequenceClassifierOutput(ModelOutput):
    """``logits`` [B, num_labels] and, where labels were given, the mean ``loss``."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None
    attentions: Any = None
