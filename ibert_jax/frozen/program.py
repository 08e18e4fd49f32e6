"""The integer model: a pytree of integers that runs."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.frozen.blocked import block_attention
from ibert_jax.frozen.by_head import requantize_by_head
from ibert_jax.frozen.first_token import compute_first_token
from ibert_jax.frozen.folding import fold_constants, take_folded, unfold_constants
from ibert_jax.frozen.fused import check_pallas, fuse_leaves
from ibert_jax.frozen.fused_leaves import FUSING
from ibert_jax.frozen.network import name_leaves
from ibert_jax.frozen.packing import pack_matrices, unpack_matrices
from ibert_jax.frozen.parts import in_parts, known_tokens, parts_of
from ibert_jax.frozen.shared_shift import share_shifts
from ibert_jax.frozen.states import StateScales
from ibert_jax.frozen.streamed import in_streams, streams_of
from ibert_jax.integer.compiled import jit_program, on_device
from ibert_jax.layers.embedding import quantize_rows
from ibert_jax.models.inputs import as_array
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.quantize.tensor import dequantize
from ibert_jax.settings import choice_problem, raise_if_any

EMBEDS = "inputs_embeds"
XLA, ONEDNN = "xla", "onednn"
KERNELS = (XLA, ONEDNN, *FUSING)
"""What may run the encoder; see ``IntegerModel.with_kernels``."""
FIRST_TOKEN_FROM = {XLA: 512, ONEDNN: 128}
"""Tokens of a program from which on the last layer takes less time for the first token alone, by
kernels; see ``frozen.first_token``."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)  # whether two hold the same, ``sha256`` tells
class IntegerModel:
    """A frozen model.

    Attributes:
        tensors: int8 and int32 arrays, the pytree's leaves.
        structure: the network that they belong to.
        config: the configuration.
        scales: (name of an output, its float scale) pairs, and the scale at which
            ``inputs_embeds`` enter: floats for use outside.
        states: the scales and offsets of the hidden states, for use outside; None for a model
            frozen before they were kept.
        kernels: what runs the encoder; see ``with_kernels``.
        whole_layers: whether each layer is computed for every token even where the head reads
            nothing but the first (``frozen.first_token``): compiled in half the time, computed in
            1.06 to 1.1 times as much. If None, a ``Predictor`` computes so what it computes seldom;
            elsewhere yes by ``xla``, and no by ``onednn``, which is for processes that stay.
    """

    tensors: tuple[jax.Array, ...]
    structure: Any = dataclasses.field(metadata={"static": True})
    config: IBertConfig = dataclasses.field(metadata={"static": True})
    scales: tuple[tuple[str, float], ...] = dataclasses.field(metadata={"static": True})
    states: StateScales | None = dataclasses.field(default=None, metadata={"static": True})
    kernels: str = dataclasses.field(default=XLA, metadata={"static": True})
    whole_layers: bool | None = dataclasses.field(default=None, metadata={"static": True})

    @classmethod
    def of(
        cls,
        network: nnx.Module,
        config: IBertConfig,
        scales: dict[str, float],
        states: StateScales | None = None,
        *,
        kernels: str = XLA,
    ) -> Self:
        """The model of a network whose leaves are integer leaves, of NumPy's or JAX's arrays.

        ``network`` is laid out for the kernels, in place.
        """
        if kernels in FUSING:
            fold_constants(network)
        elif jax.default_backend() == "cpu":
            share_shifts(network)
        if kernels == ONEDNN:
            pack_matrices(network)
        tensors, structure = jax.tree.flatten(network)
        tensors = tuple(map(on_device, tensors))
        return cls(tensors, structure, config, tuple(sorted(scales.items())), states, kernels)

    @property
    def network(self) -> Any:
        """The graph modules with their integer leaves, whatever the kernels."""
        return self._as_frozen(self._laid_out)

    @property
    def _laid_out(self) -> Any:
        """The same with their arrays as the kernels want them."""
        return jax.tree.unflatten(self.structure, self.tensors)

    def _as_frozen(self, network: Any) -> Any:
        """``_laid_out``, or one like it, as it was before, in place."""
        if self.kernels == ONEDNN:
            unpack_matrices(network)
        unfold_constants(network)
        return network

    @property
    def kind(self) -> type[IBertPreTrainedModel]:
        """The class of the model that was frozen."""
        return self.structure.node_data()[0]

    def with_kernels(self, kernels: str) -> Self:
        """The same model, run by other kernels; its integers are the same.

        Args:
            kernels: ``xla``, what XLA compiles (the default); ``onednn``, on CPUs, weights laid
                out beforehand for a library that comes with XLA, which takes less time for few
                tokens (where it does not answer as expected, no change); ``pallas``, on NVIDIA
                GPUs, kernels that keep accumulators and attention scores out of memory (elsewhere
                no change); ``pallas-interpreted``, these kernels on any platform, slowly, for
                tests. The choice belongs to this object: it is not saved.

        A program with ``onednn`` is compiled anew in each process, never taken from JAX's
        compilation cache. As a part of a function that is jitted elsewhere XLA compiles it, and its
        weights are arranged as they were at every call: use ``xla`` there. XLA cannot divide a
        kernel among devices: with ``pallas``, share a batch out by ``shard_map``, which takes a
        program with ``check_vma=False`` only, on a CPU, too.
        """
        raise_if_any("with_kernels", [choice_problem("kernels", kernels, KERNELS)])
        if kernels in FUSING:
            check_pallas()
        if kernels == self.kernels:
            return self
        network = self._laid_out
        if ONEDNN in (kernels, self.kernels):
            network = jax.tree.map(np.asarray, network)
        network = self._as_frozen(network)
        model = type(self).of(network, self.config, dict(self.scales), self.states, kernels=kernels)
        return dataclasses.replace(model, whole_layers=self.whole_layers)

    def input_shape(self, batch_size: int, sequence_length: int) -> tuple[int, ...]:
        """The shape of ``input_ids`` for so many examples of so many tokens."""
        return self.kind.input_shape(batch_size, sequence_length)

    def spares_last_layer(self, shape: Sequence[Any]) -> bool:
        """Whether the last layer is computed for the first token alone (``frozen.first_token``).

        Where the head reads no other, on CPUs, of enough tokens for it to pay. Not where a part of
        the network was left in float: of fewer rows, floats may differ.

        Args:
            shape: of ``input_ids``; of an export, some of it symbols.
        """
        least = FIRST_TOKEN_FROM.get(self.kernels)
        whole = self.kernels == XLA if self.whole_layers is None else self.whole_layers
        return (
            self.kind.reads_first_token
            and not whole
            and self.config.force_dequant == "none"
            and jax.default_backend() == "cpu"
            and least is not None
            and known_tokens(shape) >= least
        )

    def integers(
        self,
        input_ids: Any = None,
        *,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        inputs_embeds: Any = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        **own: Any,
    ) -> Any:
        """Run the program; nothing but integer operations.

        Args:
            input_ids: integers [B, T] in [0, vocab_size); [B, choices, T] for multiple choice,
                and likewise below.
            attention_mask: 0/1 [B, T], 1 where a token counts; all ones if None.
            token_type_ids: integers [B, T] in [0, type_vocab_size); zeros if None.
            position_ids: integers [B, T], rows of the table, of which a sequence's first is
                ``pad_token_id + 1``, whatever the checkpoint was; if None counted from there, over
                the ``input_ids`` that are no padding, or over all ``inputs_embeds``.
            head_mask: 0/1 [H] or [L, H], 1 where an attention head counts.
            inputs_embeds: integers [B, T, C] in place of ``input_ids``, as
                ``quantize_embeds`` makes them.
            output_attentions, output_hidden_states: whether to return them; the
                configuration's if None.
            own: arguments of its own that the model that was frozen takes: ``scored_tokens`` of
                ``IBertForMaskedLM``.

        Returns:
            The outputs of the model that was frozen, int32; ``scale_of`` gives their scales.
            Each layer's attentions are a pair of uint8 [B, H, T, T] and their row sums, int32
            [B, H, T, 1].

        On a CPU of n cores, 128 n tokens and more in a multiple of n rows are computed by n
        programs of fewer rows, side by side, unless attentions or hidden states are wanted.
        """
        arguments = {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "token_type_ids": token_type_ids,
            "position_ids": position_ids,
            "head_mask": head_mask,
            "inputs_embeds": inputs_embeds,
        }
        options = {
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
        }
        known = [*arguments, *options, *self.kind.own_arguments]
        checks.check_names(own, known, "an integer program")
        for name, value in options.items():
            checks.check_flag(name, value)
            options[name] = getattr(self.config, name) if value is None else value
        inputs = self.kind.prepared(self.config, "frozen", **arguments, **own)
        run = functools.partial(_run, dataclasses.replace(self, states=None), **options)
        # Where everything is wanted, joining it would hold it twice.
        count = 1 if any(options.values()) or self.kernels in FUSING else streams_of(inputs)
        return run(inputs) if count == 1 else in_streams(run, inputs, count)

    def __call__(
        self, input_ids: Any = None, *, return_dict: bool | None = None, **arguments: Any
    ) -> Any:
        """The same outputs as floats; takes ``inputs_embeds`` as floats.

        Args:
            input_ids, arguments: see ``integers``.
            return_dict: named fields or a tuple of those that are not None; the configuration's
                if None. (Integers always have names.)

        Logits and last hidden states are int32 times the output's scale; attentions are the
        weights over their row sums; hidden states have a scale and an offset per channel.

        Raises:
            ValueError: besides what ``integers`` refuses, hidden states of a model that was
                frozen without their scales.
        """
        checks.check_flag("return_dict", return_dict)
        named = self.config.return_dict if return_dict is None else return_dict
        embeds = as_array(arguments.get(EMBEDS))
        if embeds is not None and jnp.issubdtype(embeds.dtype, jnp.floating):
            arguments[EMBEDS] = self.quantize_embeds(embeds)
        outputs = self.integers(input_ids, **arguments)
        floats = {
            name: getattr(outputs, name).astype(jnp.float32) * scale
            for name, scale in self.scales
            if getattr(outputs, name, None) is not None
        }
        if outputs.attentions is not None:
            floats["attentions"] = tuple(
                dequantize(weights, jnp.float32(1), row_sum=row_sum)
                for weights, row_sum in outputs.attentions
            )
        if outputs.hidden_states is not None:
            if self.states is None:
                raise ValueError(
                    "this integer model was frozen without the scales of its hidden states; "
                    "freeze it again, or take their integers from program.integers"
                )
            floats["hidden_states"] = tuple(
                dequantize(state, scale, offset)
                for state, scale, offset in zip(
                    outputs.hidden_states, *self.states.arrays(), strict=True
                )
            )
        outputs = dataclasses.replace(outputs, **floats)
        return outputs if named else outputs.to_tuple()

    def quantize_embeds(self, inputs_embeds: Any) -> jax.Array:
        """Rows in place of the word embeddings', as the integers that the program takes.

        Args:
            inputs_embeds: floats [..., T, C]; saturate at the table's largest element.

        Returns:
            int32 of the same shape: for rows of the model's own table, what it looks up.

        Raises:
            TypeError: what holds no floats.
            ValueError: another number of channels; NaN, of which each platform would make another
                integer.
        """
        scale = dict(self.scales).get(EMBEDS)
        if scale is None:
            raise ValueError(
                "this integer model was frozen without the scale of its embeddings; freeze it "
                "again, or pass input_ids"
            )
        rows = as_array(inputs_embeds)
        checks.check_embedding_rows(rows, self.config.hidden_size)
        rows = jnp.asarray(rows, jnp.float32)
        quantization = self.config.quantization
        return quantize_rows(  # as the table itself
            rows,
            jnp.float32(scale),
            bits=quantization.width("weight_bits", "embeddings.word_embeddings"),
            per_row=quantization.scheme != "reference",
        )

    def scale_of(self, output: str) -> float:
        """The scale of an output's integers."""
        return dict(self.scales)[output]

    def sha256(self) -> str:
        """A hash of all that decides the program's integers, and of the scales of its outputs."""
        from ibert_jax.frozen.storage import sha256

        return sha256(self)

    def save(self, directory: str | os.PathLike[str], certificate: Any = None) -> None:
        """Write ``integer_model.safetensors`` and ``integer_model.json`` (see ``storage``).

        ``certificate``, what ``ib.certify`` returned for this program, is written beside them.
        """
        from ibert_jax.frozen.storage import save

        save(self, directory, certificate)

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> IntegerModel:
        """Read what ``save`` wrote.

        Refuses files that are missing or truncated, and integers or settings of them that were
        altered; beside a certificate, all that decides the program's integers. Names of labels
        are not held against anything.
        """
        from ibert_jax.frozen.storage import load

        return load(directory)


@functools.partial(jit_program, static_argnames=("output_attentions", "output_hidden_states"))
def _run(
    model: IntegerModel,
    inputs: dict[str, jax.Array],
    *,
    output_attentions: bool,
    output_hidden_states: bool,
) -> Any:
    network, shape, parts = model._laid_out, inputs["attention_mask"].shape, 1
    if model.kernels in FUSING:
        fuse_leaves(network, model.kernels, attention=not output_attentions)
    else:
        take_folded(network)
        if not output_attentions:
            parts = 1 if output_hidden_states else parts_of(shape)
            part = (shape[0] // parts, *shape[1:])
            if model.spares_last_layer(shape) and not output_hidden_states:
                compute_first_token(network)
            block_attention(network, part)
            requantize_by_head(network, part)
    name_leaves(network)

    def run(inputs: dict[str, jax.Array]) -> Any:
        return network(
            **inputs,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )

    return in_parts(run, inputs, parts)
