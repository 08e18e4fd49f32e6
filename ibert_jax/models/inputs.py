"""The models' arguments, made int32 and bool; what is wrong with them is said on the host."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypedDict

import jax
import jax.numpy as jnp
import numpy as np

from ibert_jax import checks
from ibert_jax.config import IBertConfig
from ibert_jax.integer.compiled import on_device
from ibert_jax.models.embeddings import position_ids_from_input_ids

Array = jax.Array | np.ndarray
Life = Literal["float", "quantized", "frozen"]


class EncoderArguments(TypedDict, total=False):
    """The keyword arguments that every model hands to its encoder; see ``IBertModel``."""

    attention_mask: Any
    token_type_ids: Any
    position_ids: Any
    head_mask: Any
    inputs_embeds: Any
    output_attentions: bool | None
    output_hidden_states: bool | None


class EncoderInputs(NamedTuple):
    """The checked arguments, by their own names: int32 and bool, defaults filled in.

    Of NumPy where they came from the host.

    Invariants:
        * one of ``input_ids`` int32 [B, T] and ``inputs_embeds`` [B, T, C] is None; the latter
          is float32, int32 in the frozen life;
        * ``attention_mask`` bool, ``token_type_ids`` and ``position_ids`` int32, all [B, T];
        * ``head_mask`` [L, H] or None: float32 in the float life, else bool.
    """

    input_ids: Array | None
    inputs_embeds: Array | None
    attention_mask: Array
    token_type_ids: Array
    position_ids: Array
    head_mask: Array | None

    def arguments(self) -> dict[str, Array]:
        """Those that are not None, by name."""
        return {name: value for name, value in self._asdict().items() if value is not None}


def encoder_inputs(
    config: IBertConfig,
    life: Life,
    input_ids: Any = None,
    *,
    attention_mask: Any = None,
    token_type_ids: Any = None,
    position_ids: Any = None,
    head_mask: Any = None,
    inputs_embeds: Any = None,
) -> EncoderInputs:
    """Check the arguments of a model and fill in the defaults.

    Accepts NumPy and JAX arrays and nested lists, integers of any dtype. What is not on a device
    yet is made ready by NumPy, and stays NumPy's: small programs of XLA's would cost a first call
    0.2 s, and a compiled program takes such arrays itself sooner than each can be sent ahead. All
    are copies, that nobody writes to.
    """
    ids, embeds = as_array(input_ids), as_array(inputs_embeds)
    checks.check_one_input(ids, embeds)
    if ids is not None:
        checks.check_token_ids(ids, config.vocab_size)
        shape, ids, library = ids.shape, ids.astype(np.int32), _library_of(ids)
    else:
        checks.check_embeddings(embeds, config.hidden_size, integers=life == "frozen")
        shape, library = embeds.shape[:2], _library_of(embeds)
        embeds = embeds.astype(np.int32 if life == "frozen" else np.float32)
    checks.check_length(shape[1], config.max_sequence_length)
    return EncoderInputs(
        ids,
        embeds,
        _mask(as_array(attention_mask), shape, library),
        _types(as_array(token_type_ids), shape, library, config),
        _positions(as_array(position_ids), ids, shape, library, config),
        _head_mask(as_array(head_mask), config, life),
    )


def _mask(mask: Any, shape: tuple[int, ...], library: Any) -> Any:
    if mask is None:
        return library.ones(shape, bool)
    checks.check_mask(mask, shape)
    return _as_bool(mask)


def _types(types: Any, shape: tuple[int, ...], library: Any, config: IBertConfig) -> Any:
    if types is None:
        return library.zeros(shape, np.int32)
    checks.check_token_types(types, shape, config.type_vocab_size)
    return _library_of(types).broadcast_to(types.astype(np.int32), shape)


def _positions(
    positions: Any, ids: Any, shape: tuple[int, ...], library: Any, config: IBertConfig
) -> Any:
    """As given, or counted from the tokens; embeddings tell no padding, so all are counted."""
    if positions is not None:
        checks.check_position_ids(positions, shape, config.max_position_embeddings)
        return _library_of(positions).broadcast_to(positions.astype(np.int32), shape)
    if ids is not None:
        return position_ids_from_input_ids(ids, config.pad_token_id)
    counted = library.arange(shape[1], dtype=np.int32) + (config.pad_token_id + 1)
    return library.broadcast_to(counted[None], shape)


def _head_mask(mask: Any, config: IBertConfig, life: Life) -> Any:
    if mask is None:
        return None
    shape = (config.num_hidden_layers, config.num_attention_heads)
    checks.check_head_mask(mask, shape, binary=life != "float")
    mask = mask.astype(np.float32) if life == "float" else _as_bool(mask)
    return _library_of(mask).broadcast_to(mask if mask.ndim == 2 else mask[None], shape)


def as_array(values: Any) -> Any:
    """A NumPy or JAX array of ``values``; None stays None."""
    if values is None or isinstance(values, jax.Array):
        return values
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            "expected an array, or lists of equal length, got lists of different lengths; pad "
            f"them, with a tokenizer by padding=True (NumPy: {error})"
        ) from None


def as_int32(values: Any) -> jax.Array:
    """An int32 array of ``values``; Python and NumPy integers lose nothing on the way."""
    return on_device(as_array(values).astype(np.int32))


def _library_of(array: Any) -> Any:
    """The library that computes with an array where it is: on the host, or on a device."""
    return jnp if isinstance(array, jax.Array) else np


def _as_bool(mask: Any) -> Any:
    """A copy, also of what is bool already: NumPy's must not be read where the caller keeps it."""
    return mask.astype(bool) if mask.dtype == bool else mask.astype(np.int32) != 0
