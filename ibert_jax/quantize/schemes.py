"""The two quantization schemes: which activation gets how many bits, and per what.

``channel`` (the default) uses that a requantization feeding a matmul may have its own scale
per channel at no cost at run time (the multiplier is per channel anyway, and the next weight
matrix absorbs the factors before it is quantized), and lets the residual stream keep
LayerNorm's own integers instead of passing through 8 bits.  ``reference`` is I-BERT's own:
one scale per tensor, an 8-bit residual, the published softmax; checkpoints trained by I-BERT
load into it.

A role is the place of a ``QuantAct`` in the network; a role of ``None`` bits hands its
operand on untouched.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

Granularity = Literal["tensor", "channel", "balanced"]


class ActivationFormat(NamedTuple):
    """How a ``QuantAct`` quantizes.

    Attributes:
        bits: signed width of the integers; None, the operand passes unchanged.
        granularity: ``tensor``, one scale; ``channel``, each channel its own range;
            ``balanced``, channel factors that share the difficulty between the activation
            and the weights that read it (powers of two, chosen by calibration).
    """

    bits: int | None
    granularity: Granularity = "tensor"


PASS = ActivationFormat(None)
MATMUL_BITS = 8
"""Width of what enters a matmul; a configuration may ask for less."""
LAYERNORM_INPUT_BITS = 20
"""I-BERT asks for 22: at 1,024 channels a row's sum then needs 32 bits and more, and the
20-bit grid is already 4,000 times finer than the 8-bit activations around it."""

SCHEMES: dict[str, dict[str, ActivationFormat]] = {
    "channel": {
        "embedding_sum": ActivationFormat(LAYERNORM_INPUT_BITS),
        "embedding_output": ActivationFormat(16, "channel"),
        "layer_input": ActivationFormat(8, "balanced"),
        "query": ActivationFormat(8),
        "key": ActivationFormat(8),
        "value": ActivationFormat(8, "channel"),
        "context": ActivationFormat(8, "channel"),
        "residual_sum": ActivationFormat(LAYERNORM_INPUT_BITS),
        "attention_output": PASS,
        "intermediate_input": ActivationFormat(8, "balanced"),
        "intermediate_output": PASS,
        "output_input": ActivationFormat(8, "channel"),
        "layer_output": PASS,
        "hidden_state": ActivationFormat(16),
        "head_input": ActivationFormat(8, "channel"),
        "head_hidden": ActivationFormat(8),
        "decoder_input": ActivationFormat(8),
    },
    "reference": {
        "embedding_sum": ActivationFormat(16),
        "embedding_output": ActivationFormat(8),
        "layer_input": PASS,
        "query": ActivationFormat(8),
        "key": ActivationFormat(8),
        "value": ActivationFormat(8),
        "context": ActivationFormat(8),
        "residual_sum": ActivationFormat(LAYERNORM_INPUT_BITS),
        "attention_output": ActivationFormat(8),
        "intermediate_input": ActivationFormat(8),
        "intermediate_output": ActivationFormat(8),
        "output_input": ActivationFormat(8),
        "layer_output": ActivationFormat(8),
        "hidden_state": PASS,
        "head_input": PASS,
        "head_hidden": ActivationFormat(8),
        "decoder_input": ActivationFormat(8),
    },
}
