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
class BaseModelOutputWithPoolingAndCrossAttentions(ModelOutput):
    """What the encoder returns.

    Attributes:
        last_hidden_state: [B, T, C].
        pooler_output: [B, C]; None without a pooler.
        hidden_states: the embeddings and every layer's output, L + 1 of [B, T, C]; None unless
            they were asked for.
        past_key_values, cross_attentions: None, here for the sake of the published names.
        attentions: every layer's weights, L of [B, H, T, T]; None unless they were asked for.
    """

    last_hidden_state: Any = None
    pooler_output: Any = None
    hidden_states: Any = None
    past_key_values: None = None
    attentions: Any = None
    cross_attentions: None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MaskedLMOutput(ModelOutput):
    """``logits`` [B, T, vocab_size] and, where labels were given, the mean ``loss``."""

    loss: Any = None
    logits: Any = None
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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TokenClassifierOutput(ModelOutput):
    """``logits`` [B, T, num_labels] and, where labels were given, the mean ``loss``."""

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None
    attentions: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class MultipleChoiceModelOutput(ModelOutput):
    """``logits`` [B, choices] and, where labels were given, the mean ``loss``.

    ``hidden_states`` and ``attentions`` have B * choices rows.
    """

    loss: Any = None
    logits: Any = None
    hidden_states: Any = None
    attentions: Any = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class QuestionAnsweringModelOutput(ModelOutput):
    """``start_logits``, ``end_logits`` [B, T] and, where positions were given, the ``loss``."""

    loss: Any = None
    start_logits: Any = None
    end_logits: Any = None
    hidden_states: Any = None
    attentions: Any = None
