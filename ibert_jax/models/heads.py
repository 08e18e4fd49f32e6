"""The heads that label: whole sequences, tokens, spans."""

from __future__ import annotations

from typing import Any, Unpack

import jax
import jax.numpy as jnp
from flax import nnx

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.layers.activation import QuantAct
from ibert_jax.layers.dropout import Dropout
from ibert_jax.layers.embedding import QuantEmbedding
from ibert_jax.layers.linear import QuantLinear
from ibert_jax.layers.tanh import IntTanh
from ibert_jax.models.inputs import EncoderArguments, as_array, as_int32
from ibert_jax.models.losses import (
    binary_cross_entropy,
    cross_entropy,
    mean_squared_error,
    span_loss,
)
from ibert_jax.models.model import IBertModel
from ibert_jax.models.outputs import (
    BaseModelOutputWithPoolingAndCrossAttentions,
    ModelOutput,
    QuestionAnsweringModelOutput,
    SequenceClassifierOutput,
    TokenClassifierOutput,
)
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.schemes import SCHEMES
from ibert_jax.quantize.tensor import value_of


class IBertHeadModel(IBertPreTrainedModel):
    """Base of the models that put a head on the encoder, which is their ``ibert``."""

    def __init__(
        self, config: IBertConfig, *, add_pooling_layer: bool = False, rngs: nnx.Rngs
    ) -> None:
        super().__init__(config, rngs)
        self.ibert = IBertModel(config, add_pooling_layer=add_pooling_layer, rngs=rngs)

    def get_input_embeddings(self) -> QuantEmbedding:
        """The table of the words."""
        return self.ibert.get_input_embeddings()

    def encode(
        self, input_ids: Any, arguments: EncoderArguments, rngs: nnx.Rngs | None
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        """What the encoder makes of the arguments; unknown ones are refused."""
        self.refuse_unknown(arguments)
        return self.ibert(input_ids, rngs=rngs, return_dict=True, **arguments)

    def returned(self, output: ModelOutput, return_dict: bool | None) -> Any:
        """The output, or the tuple of its fields that are not None."""
        return output if self.option("return_dict", return_dict) else output.to_tuple()


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


class IBertForSequenceClassification(IBertHeadModel):
    """Labels (or, with one label, a number) for whole sequences."""

    head = "sequence_classification"
    reads_first_token = True

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        self.classifier = IBertClassificationHead(config, rngs=rngs)

    def __call__(
        self,
        input_ids: Any = None,
        *,
        labels: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Classify sequences.

        Args:
            input_ids, arguments, return_dict, rngs: see ``IBertModel``.
            labels: integers [B] in [0, num_labels) or -100 (ignored); floats [B] or
                [B, num_labels] for regression; 0/1 [B, num_labels] for several labels.

        Returns:
            ``SequenceClassifierOutput``, or its tuple.
        """
        hidden = self.encode(input_ids, arguments, rngs)
        logits = self.classifier(hidden.last_hidden_state[:, 0], rngs)
        loss = None if labels is None else sequence_loss(self.config, value_of(logits), labels)
        output = SequenceClassifierOutput(loss, logits, hidden.hidden_states, hidden.attentions)
        return self.returned(output, return_dict)


def sequence_loss(config: IBertConfig, logits: jax.Array, labels: Any) -> jax.Array:
    """The loss by ``config.problem_type``, or as the reference infers it from the labels."""
    labels = as_array(labels)
    checks.check_labels(labels, logits.shape[0], config.num_labels, config.problem_type)
    problem = checks.infer_problem_type(config.problem_type, config.num_labels, labels)
    labels = jnp.asarray(labels)
    if problem == "regression":
        return mean_squared_error(logits.reshape(labels.shape), labels)
    if problem == "single_label_classification":
        return cross_entropy(logits, labels)
    return binary_cross_entropy(logits, labels)


def token_loss(logits: jax.Array, labels: Any, hint: str) -> jax.Array:
    """Mean cross entropy over the tokens that count.

    Args:
        logits: float32 [B, T, classes].
        labels: integers [B, T] in [0, classes) or -100 (ignored).
        hint: what the number of classes is, for whoever gave others.
    """
    labels = as_array(labels)
    checks.check_class_labels(labels, logits.shape[:2], logits.shape[2], "[batch, sequence]", hint)
    return cross_entropy(logits, as_int32(labels))


class IBertForTokenClassification(IBertHeadModel):
    """A label for every token."""

    head = "token_classification"

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        self.input_act = QuantAct(forms["head_input"], size, config.quantization.momentum)
        self.dropout = Dropout(config.hidden_dropout_prob)
        self.classifier = QuantLinear(
            size,
            config.num_labels,
            initializer_range=config.initializer_range,
            per_channel=False,
            rngs=rngs,
        )

    def __call__(
        self,
        input_ids: Any = None,
        *,
        labels: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Classify tokens.

        Args:
            input_ids, arguments, return_dict, rngs: see ``IBertModel``.
            labels: integers [B, T] in [0, num_labels) or -100 (ignored).

        Returns:
            ``TokenClassifierOutput``, or its tuple.
        """
        hidden = self.encode(input_ids, arguments, rngs)
        logits = self.classifier(self.dropout(self.input_act(hidden.last_hidden_state), rngs))
        hint = f"the model has num_labels={self.config.num_labels}"
        loss = None if labels is None else token_loss(value_of(logits), labels, hint)
        output = TokenClassifierOutput(loss, logits, hidden.hidden_states, hidden.attentions)
        return self.returned(output, return_dict)


class IBertForQuestionAnswering(IBertHeadModel):
    """Where in the text an answer starts and ends."""

    head = "question_answering"

    def __init__(self, config: IBertConfig, *, rngs: nnx.Rngs) -> None:
        super().__init__(config, rngs=rngs)
        if config.num_labels != 2:
            raise ValueError(
                f"question answering needs num_labels=2 (start and end), got {config.num_labels}; "
                f"pass num_labels=2"
            )
        forms, size = SCHEMES[config.quantization.scheme], config.hidden_size
        self.input_act = QuantAct(forms["head_input"], size, config.quantization.momentum)
        self.qa_outputs = QuantLinear(
            size, 2, initializer_range=config.initializer_range, per_channel=False, rngs=rngs
        )

    def __call__(
        self,
        input_ids: Any = None,
        *,
        start_positions: Any = None,
        end_positions: Any = None,
        return_dict: bool | None = None,
        rngs: nnx.Rngs | None = None,
        **arguments: Unpack[EncoderArguments],
    ) -> Any:
        """Score every token as the start and as the end of the answer.

        Args:
            input_ids, arguments, return_dict, rngs: see ``IBertModel``.
            start_positions, end_positions: integers [B], token indices; a negative one counts
                as 0, one behind the text takes no part in the loss. No loss unless both are
                given.

        Returns:
            ``QuestionAnsweringModelOutput``, or its tuple.
        """
        hidden = self.encode(input_ids, arguments, rngs)
        logits = self.qa_outputs(self.input_act(hidden.last_hidden_state))
        start, end = logits[..., 0], logits[..., 1]
        loss = None
        if start_positions is not None and end_positions is not None:
            positions = as_array(start_positions), as_array(end_positions)
            checks.check_span(*positions, logits.shape[0])
            loss = span_loss(value_of(start), value_of(end), *map(as_int32, positions))
        output = QuestionAnsweringModelOutput(
            loss, start, end, hidden.hidden_states, hidden.attentions
        )
        return self.returned(output, return_dict)
