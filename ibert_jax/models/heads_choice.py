"""Multiple choice: which of several continuations fits best."""

from __future__ import annotations

from typing import Any, Unpack

import jax
from flax import nnx

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.models.heads import IBertHeadModel
from ibert_jax.models.inputs import (
    Array,
    EncoderArguments,
    Life,
    as_array,
    as_int32,
)
from ibert_jax.models.losses import cross_entropy
from ibert_jax.models.outputs import MultipleChoiceModelOutput
from ibert_jax.quantize.schemes import SCHEMES
from ibert_jax.quantize.tensor import value_of

PER_TOKEN = ("attention_mask", "token_type_ids", "position_ids")


class IBertForMultipleChoice(IBertHeadModel):
    """A score for each of several choices: inputs have the shape [B, choices, T]."""

    head = "multiple_choice"
    reads_first_token = True

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, add_pooling_layer=True, rngs=rngs)
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        self.hidden_act = QuantAct(forms["head_hidden"], size, config.quantization.momentum)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = QuantLinear(
            size, 1, initializer_range=config.initializer_range, per_channel=False, rngs=rngs
        )

    @classmethod
    def input_shape(cls, batch_size: int, sequence_length: int) -> tuple[int, ...]:
        """The shape of ``input_ids`` of two choices each."""
        return batch_size, 2, sequence_length

    @classmethod
    def prepared(cls, config: IBertConfig, life: Life, **arguments: Any) -> dict[str, Array]:
        """The arguments of a call by name, checked, in the shape of choices."""
        flat, (batch, choices) = flattened(arguments)
        return {
            name: value if name == "head_mask" else value.reshape(batch, choices, *value.shape[1:])
            for name, value in super().prepared(config, life, **flat).items()
        }

    def __call__(
        self,
        input_ids: Any = None,
        *,
        labels: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Score choices.

        Args:
            input_ids: integers [B, choices, T] in [0, vocab_size).
            arguments, return_dict, rngs: see ``IBertModel``; what is [B, T] or [B, T, C] there
                is [B, choices, T] or [B, choices, T, C] here.
            labels: integers [B] in [0, choices) or -100 (ignored).

        Returns:
            ``MultipleChoiceModelOutput``, or its tuple.
        """
        flat: Any
        flat, (batch, choices) = flattened({"input_ids": input_ids, **arguments})
        hidden = self.encode(flat.pop("input_ids"), flat, rngs)
        pooled = self.dropout(self.hidden_act(hidden.pooler_output), rngs)
        logits = jax.tree.map(
            lambda array: array.reshape(batch, choices) if array.ndim else array,
            self.classifier(pooled),
        )
        loss = None
        if labels is not None:
            labels = as_array(labels)
            hint = f"there are {choices} choices"
            checks.check_class_labels(labels, (batch,), choices, "[batch]", hint)
            loss = cross_entropy(value_of(logits), as_int32(labels))
        output = MultipleChoiceModelOutput(loss, logits, hidden.hidden_states, hidden.attentions)
        return self.returned(output, return_dict)


def flattened(arguments: dict[str, Any]) -> tuple[dict[str, Any], tuple[int, int]]:
    """The arguments with batch and choices as one dimension, and the two."""
    flat = {name: as_array(arguments.get(name)) for name in ("input_ids", "inputs_embeds")}
    checks.check_one_input(flat["input_ids"], flat["inputs_embeds"])
    name, rank = ("input_ids", 3) if flat["input_ids"] is not None else ("inputs_embeds", 4)
    checks.check_choices(name, flat[name], rank=rank)
    shape = flat[name].shape[:3]
    for other in PER_TOKEN:
        flat[other] = as_array(arguments.get(other))
        if flat[other] is not None:
            checks.check_choices(other, flat[other], shape)
    reshaped = {
        name: None if array is None else array.reshape(-1, *array.shape[2:])
        for name, array in flat.items()
    }
    return {**arguments, **reshaped}, (shape[0], shape[1])
