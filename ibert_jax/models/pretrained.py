"""What every model can do besides running: change life, load, save."""

from __future__ import annotations

import dataclasses
import inspect
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar, NoReturn, Self

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ibert_jax import checks
from ibert_jax.checkpoints import locate, read_checkpoint, recall, remember, write_checkpoint
from ibert_jax.config import IBertConfig
from ibert_jax.layers.initial import LateRngs, check_rngs, draw_late, is_late
from ibert_jax.layers.leaf import Leaf, leaves_of, set_life
from ibert_jax.layers.widths import BACKBONE, set_widths
from ibert_jax.models.inputs import Array, EncoderArguments, EncoderInputs, Life, encoder_inputs

logger = logging.getLogger(__name__)

OTHER_NAMES = {"lm_head.decoder.bias": "lm_head.bias"}
"""Attribute path -> the name of a parameter in checkpoints, where they differ."""


class IBertPreTrainedModel(nnx.Module):
    """Base of the models.

    A model starts in the float life, in evaluation. ``quantize()`` enters the
    quantization-aware life; ``train()`` turns dropout on and, there, lets the activation
    ranges follow what they see.
    """

    head: ClassVar[str]
    structure: ClassVar[tuple[str, ...]] = ()
    """Arguments of the constructor, besides the configuration, that decide which parts it has."""
    own_arguments: ClassVar[tuple[str, ...]] = ()
    """Arguments of a call that an integer program takes besides the encoder's."""
    reads_first_token: ClassVar[bool] = False
    """Whether the head reads nothing of the last hidden state but each sequence's first token."""
    config: IBertConfig

    def __init__(self, config: IBertConfig, rngs: nnx.Rngs) -> None:
        checks.check_kind("a configuration", config, IBertConfig, "ib.IBertConfig()")
        check_rngs(rngs)
        self.config = config

    def train(self, **attributes: Any) -> None:
        """Dropout on and, in the quantization-aware life, ranges following the activations."""
        del attributes
        set_life(self, deterministic=False)

    def eval(self, **attributes: Any) -> None:
        """Dropout off, ranges fixed."""
        del attributes
        set_life(self, deterministic=True)

    def quantize(self, enabled: bool = True) -> Self:
        """Enter (or leave) the quantization-aware life; returns the model.

        Raises:
            ValueError: the configuration overrides the bits of leaves that there are not.
        """
        if enabled:
            set_widths(self, self.config.quantization)
        set_life(self, quantized=enabled)
        self.config = dataclasses.replace(self.config, quant_mode=enabled)
        return self

    def resize_token_embeddings(self, new_num_tokens: int | None = None) -> NoReturn:
        """Refused, as by the published implementation."""
        raise NotImplementedError(
            f"resize_token_embeddings is not supported: the vocabulary is fixed at "
            f"{self.config.vocab_size} entries, got {new_num_tokens}; make a model of another "
            f"vocab_size and train it"
        )

    @classmethod
    def input_shape(cls, batch_size: int, sequence_length: int) -> tuple[int, ...]:
        """The shape of ``input_ids`` for so many examples of so many tokens."""
        return batch_size, sequence_length

    @classmethod
    def prepared(cls, config: IBertConfig, life: Life, **arguments: Any) -> dict[str, Array]:
        """The arguments of a call by name, checked, with defaults filled in."""
        return encoder_inputs(config, life, **arguments).arguments()

    @classmethod
    def check_batch(cls, config: IBertConfig, batch: Mapping[str, Any]) -> None:
        """Refuse a batch, arguments by name, as a call would that is not traced."""
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"expected a batch of arguments by name, such as {{'input_ids': ...}}, got "
                f"{type(batch).__name__}; a tokenizer makes them of texts"
            )
        names = {"input_ids", *EncoderInputs._fields, *cls.own_arguments}
        cls.prepared(config, "float", **{k: v for k, v in batch.items() if k in names})

    def option(self, name: str, value: bool | None) -> bool:
        """An option of a call: as given, or the configuration's."""
        checks.check_flag(name, value)
        return getattr(self.config, name) if value is None else value

    def refuse_unknown(self, given: Iterable[str]) -> None:
        """Refuse arguments that this model does not take, naming those that it does."""
        own = inspect.signature(type(self).__call__).parameters.values()
        named = [p.name for p in own if p.kind is not p.VAR_KEYWORD and p.name != "self"]
        known = dict.fromkeys([*named[:1], *EncoderArguments.__annotations__, *named[1:]])
        checks.check_names(given, known, type(self).__name__)

    def leaves(self) -> dict[str, Leaf]:
        """Every leaf by its path, e.g. ``ibert.encoder.layer.0.attention.self.query``."""
        return leaves_of(self)

    def tensors(self) -> dict[str, jax.Array]:
        """Parameters and ranges by checkpoint name (no backbone prefix)."""
        return {name: variable[...] for name, variable in self._variables()}

    def _variables(self) -> Iterator[tuple[str, nnx.Variable]]:
        for path, node in nnx.iter_graph(self):
            if isinstance(node, nnx.Variable):
                name = ".".join(map(str, path)).removeprefix(BACKBONE)
                yield OTHER_NAMES.get(name, name), node

    def load_tensors(self, tensors: dict[str, np.ndarray]) -> list[str]:
        """Set parameters and ranges by checkpoint name; returns the names left as they were.

        Raises:
            ValueError: a name this model does not have, or a shape that differs.
        """
        mine = dict(self._variables())
        problems = [f"{n}: this model has no such tensor" for n in tensors if n not in mine]
        problems += [
            f"{name}: expected shape {mine[name].shape}, got {value.shape}"
            for name, value in tensors.items()
            if name in mine and mine[name].shape != value.shape
        ]
        if problems:
            raise ValueError("tensors do not fit the model: " + "; ".join(problems))
        for name, value in tensors.items():
            variable, array = mine[name], jnp.asarray(value, mine[name].dtype)
            if is_late(variable):
                variable.set_value(array)
            else:
                variable[...] = array  # where the variable's own array lies
        return sorted(set(mine) - set(tensors))

    @classmethod
    def from_pretrained(
        cls, directory: str | os.PathLike[str], *, rngs: nnx.Rngs | None = None, **overrides: Any
    ) -> Self:
        """Read a Hugging Face I-BERT, RoBERTa or BERT checkpoint (safetensors).

        Args:
            directory: a folder with ``config.json`` and ``model.safetensors`` (or shards), or
                the id of such a model on the Hugging Face hub.
            rngs: draws the parameters that the checkpoint lacks (a new head); seed 0 if None.
            overrides: fields of ``IBertConfig`` to change, e.g. ``num_labels=2``; for
                ``IBertModel`` also ``add_pooling_layer``.

        Returns:
            The model in the float life, in evaluation. A head that the checkpoint does not
            hold is initialised, and a log message says so.

        Raises:
            ValueError: a checkpoint that cannot be read; every problem at once.
            FileNotFoundError: no such folder or model.
            TypeError: ``rngs`` of another kind.
        """
        rngs = nnx.Rngs(0) if rngs is None else rngs
        check_rngs(rngs)
        parts = {name: overrides.pop(name) for name in cls.structure if name in overrides}
        checkpoint = read_checkpoint(locate(directory), cls.head, overrides)
        make: Any = cls  # every model takes its configuration and rngs
        model: Self = make(checkpoint.config, rngs=LateRngs(rngs), **parts)
        mine = dict(model._variables())
        # Of another head's ranges only those of what both have.
        ranges = {name: value for name, value in checkpoint.ranges.items() if name in mine}
        tensors = {**checkpoint.tensors, **ranges}
        if parts:  # what belongs to a part that is not wanted
            tensors = {name: value for name, value in tensors.items() if name in mine}
        for name in model.load_tensors(tensors):
            draw_late(mine[name])
        remember(model, checkpoint.published)
        if missing := [name for name in checkpoint.missing_head if name in mine]:
            logger.warning("newly initialised, train before use: %s", ", ".join(missing))
        return model

    def save_pretrained(self, directory: str | os.PathLike[str]) -> None:
        """Write ``model.safetensors`` and ``config.json`` as Hugging Face I-BERT has them."""
        tensors = {name: np.asarray(value) for name, value in self.tensors().items()}
        write_checkpoint(directory, self.config, tensors, recall(self))
