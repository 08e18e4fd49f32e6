"""The heads on top of the encoder."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.models.losses import binary_cross_entropy, cross_entropy, mean_squared_error
from ibert_jax.models.model import IBertModel
from ibert_jax.models.outputs import SequenceClassifierOutput
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.schemes import SCHEMES
from ibert_jax.quantize.tensor import value_of


class IBertClassificationHead(nnx.Module):
    """Linear, tanh, linear on the first token."""

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        momentum, spread = config.quantization.momentum, config.initializer_range
        self.input_act = QuantAct(forms["head_input"], size, momentum)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.dense = QuantLinear(size, size, initializer_range=spread, rngs=rngs)
        self.activation = IntTanh()
        self.hidden_act = QuantAct(forms["head_hidden"], size, momentum)
        self.out_proj = QuantLinear(
            size, config.num_labels, initializer_range=spread, per_channel=False, rngs=rngs
        )

    def __call__(self, first: Any, rngs: nnx.Rngs | None) -> Any:
        """Tensor [B, C] -> [B, num_labels]."""
        x = self.dropout(self.input_act(first), rngs)
        x = self.hidden_act(self.activation(self.dense(x)))
        return self.out_proj(self.dropout(x, rngs))


class IBertForSequenceClassification(IBertPreTrainedModel):
    """Labels (or, with one label, a number) for whole sequences."""

    head = "sequence_classification"

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config)
        self.ibert = IBertModel(config, add_pooling_layer=False, rngs=rngs)
        self.classifier = IBertClassificationHead(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Any,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        labels: Any = None,
        rngs: nnx.Rngs | None = None,
    ) -> SequenceClassifierOutput:
        """Classify sequences.

        Args:
            input_ids, attention_mask, token_type_ids, position_ids, rngs: see ``IBertModel``.
            labels: integers [B] in [0, num_labels) or -100 (ignored); floats [B] or
                [B, num_labels] for regression; 0/1 [B, num_labels] for several labels.
        """
        hidden = self.ibert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            rngs=rngs,
        )
        logits = self.classifier(hidden.last_hidden_state[:, 0], rngs)
        loss = None if labels is None else sequence_loss(self.config, value_of(logits), labels)
        return SequenceClassifierOutput(loss, logits, hidden.hidden_states, hidden.attentions)


def sequence_loss(config: IBertConfig, logits: jax.Array, labels: Any) -> jax.Array:
    """The loss by ``config.problem_type``, or as the reference infers it from the labels."""
    labels = labels if isinstance(labels, jax.Array) else np.asarray(labels)
    checks.check_labels(labels, logits.shape[0], config.num_labels, config.problem_type)
    problem = checks.infer_problem_type(config.problem_type, config.num_labels, labels)
    labels = jnp.asarray(labels)
    if problem == "regression":
        return mean_squared_error(logits.reshape(labels.shape), labels)
    if problem == "single_label_classification":
        return cross_entropy(logits, labels)
    return binary_cross_entropy(logits, labels)
