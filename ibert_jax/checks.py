"""Host-side checks of a model's arguments, before anything is traced.

XLA clamps an index that is out of range and computes on; here it is an error instead. Every check
raises a ValueError or TypeError of one sentence: the argument, what was expected, what came, the
likely fix. Arrays are NumPy's or JAX's: shapes and dtypes are checked always; values are not when
the argument is a tracer (inside ``jax.jit``), which has none yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

IGNORED_LABEL = -100
"""A label that takes no part in the loss."""
EMBEDS_LIMIT = 2**15 + 2**5
"""The largest integer of an embedding row: 16 bits, of a scale that is short."""


def check_kind(name: str, value: Any, kind: type | str, example: str) -> None:
    """An object of a class; where the class is not known, one with an attribute of that name.

    Args:
      name: in words.
      example: an expression that gives such an object.
    """
    fits = hasattr(value, kind) if isinstance(kind, str) else isinstance(value, kind)
    if not fits or isinstance(value, type):
        got = f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"expected {name}, such as {example}, got {got}")


def check_model(model: Any) -> None:
    """One of this package's models, in the float or the quantization-aware life."""
    check_kind("a model", model, "check_batch", "ib.IBertModel.from_pretrained(directory)")


def check_one_input(input_ids: Any, inputs_embeds: Any) -> None:
    """Exactly one of the two must be given."""
    if input_ids is not None and inputs_embeds is not None:
        raise ValueError("input_ids and inputs_embeds exclude each other, got both; drop one")
    if input_ids is None and inputs_embeds is None:
        raise ValueError("either input_ids or inputs_embeds must be given, got neither")


def check_token_ids(input_ids: Any, vocab_size: int) -> None:
    """Integers of shape [batch, sequence], neither of them 0, in 0..vocab_size-1."""
    if 0 not in getattr(input_ids, "shape", ()):  # an empty list is one of floats, for NumPy
        _check_integers("input_ids", input_ids)
    if len(input_ids.shape) != 2 or 0 in input_ids.shape:
        raise ValueError(
            f"input_ids must have shape [batch, sequence], both at least 1, got "
            f"{list(input_ids.shape)}{_hint_of_rank(input_ids, 2)}"
        )
    _check_range("input_ids", input_ids, 0, vocab_size - 1, "is the tokenizer that of this model?")


def check_embeddings(inputs_embeds: Any, hidden_size: int, *, integers: bool = False) -> None:
    """Floats (or the integers that they become) of shape [batch, sequence, hidden_size]."""
    shape = inputs_embeds.shape
    if len(shape) != 3 or 0 in shape or shape[2] != hidden_size:
        raise ValueError(
            f"inputs_embeds must have shape [batch, sequence, {hidden_size}], got {list(shape)}"
            f"{_hint_of_rank(inputs_embeds, 3)}"
        )
    if integers:
        if not _is_integer(inputs_embeds):
            raise TypeError(
                f"inputs_embeds of an integer program must be integers, got "
                f"{inputs_embeds.dtype}; make them with program.quantize_embeds"
            )
        _check_range(
            "inputs_embeds", inputs_embeds, -EMBEDS_LIMIT, EMBEDS_LIMIT,
            "make them with program.quantize_embeds",
        )  # fmt: skip
    elif not _is_floating(inputs_embeds):
        raise TypeError(f"inputs_embeds must be floating-point, got {inputs_embeds.dtype}")


def check_embedding_rows(rows: Any, hidden_size: int) -> None:
    """Floats of shape [..., hidden_size] that are all numbers, before they become integers."""
    if not _is_floating(rows):
        raise TypeError(f"inputs_embeds must be floating-point, got {rows.dtype}")
    if rows.shape[-1:] != (hidden_size,):
        raise ValueError(
            f"inputs_embeds must have shape [..., {hidden_size}], got {list(rows.shape)}"
        )
    if isinstance(rows, Tracer):
        return
    wrong = np.argwhere(np.isnan(np.asarray(rows)))
    if wrong.size:
        raise ValueError(
            f"inputs_embeds must hold numbers, got NaN at index {wrong[0].tolist()}; what made "
            "them?"
        )


def check_length(length: int, maximum: int) -> None:
    """A sequence must fit the position table; ``maximum`` is ``config.max_sequence_length``."""
    if length > maximum:
        raise ValueError(
            f"the sequence must have at most {maximum} tokens, got {length}; truncate it, with a "
            f"tokenizer by truncation=True, max_length={maximum}"
        )


def check_mask(mask: Any, shape: Sequence[int]) -> None:
    """Zeros and ones (bool, integer or float) of shape [batch, sequence]; 1 is a token."""
    if tuple(mask.shape) != tuple(shape):
        raise ValueError(
            f"attention_mask must have the inputs' shape {list(shape)}, got {list(mask.shape)}"
        )
    if isinstance(mask, Tracer) or np.dtype(mask.dtype) == np.bool_:
        return
    values = np.asarray(mask)
    if not ((values == 0) | (values == 1)).all():
        wrong = values[(values != 0) & (values != 1)][0]
        raise ValueError(
            f"attention_mask must hold 1 for tokens and 0 for padding, got {wrong}; "
            f"additive masks (0 and -inf) are not supported"
        )


def check_head_mask(mask: Any, shape: tuple[int, int], *, binary: bool) -> None:
    """Numbers of shape [heads] or [layers, heads]; zeros and ones only where ``binary``."""
    layers, heads = shape
    if tuple(mask.shape) not in {(heads,), (layers, heads)}:
        raise ValueError(
            f"head_mask must have shape {[heads]} or {[layers, heads]}, got {list(mask.shape)}"
        )
    if not binary or isinstance(mask, Tracer) or np.dtype(mask.dtype) == np.bool_:
        return
    values = np.asarray(mask)
    wrong = values[(values != 0) & (values != 1)]
    if wrong.size:
        raise ValueError(
            f"head_mask must hold 1 for heads that count and 0 for others where the model is "
            f"quantized, got {wrong[0]}"
        )


def check_choices(name: str, array: Any, shape: Sequence[int] | None = None, rank: int = 3) -> None:
    """[batch, choices, sequence], all at least 1; exactly ``shape`` where given."""
    if len(array.shape) != rank or 0 in array.shape:
        extra = ", hidden_size" if rank == 4 else ""
        raise ValueError(
            f"{name} must have shape [batch, choices, sequence{extra}], all at least 1, got "
            f"{list(array.shape)}{_hint_of_rank(array, rank)}"
        )
    if shape is not None and tuple(array.shape) != tuple(shape):
        raise ValueError(
            f"{name} must have the inputs' shape {list(shape)}, got {list(array.shape)}"
        )


def check_token_types(token_type_ids: Any, shape: Sequence[int], type_vocab_size: int) -> None:
    """Integers of shape [batch, sequence] or [1, sequence], in 0..type_vocab_size-1."""
    _check_integers("token_type_ids", token_type_ids)
    _check_broadcast("token_type_ids", token_type_ids, shape)
    _check_range(
        "token_type_ids",
        token_type_ids,
        0,
        type_vocab_size - 1,
        f"the model knows {type_vocab_size} token types",
    )


def check_position_ids(position_ids: Any, shape: Sequence[int], positions: int) -> None:
    """Integers of shape [batch, sequence] or [1, sequence], in 0..positions-1."""
    _check_integers("position_ids", position_ids)
    _check_broadcast("position_ids", position_ids, shape)
    _check_range("position_ids", position_ids, 0, positions - 1, "they count from pad_token_id + 1")


def infer_problem_type(problem_type: str | None, num_labels: int, labels: Any) -> str:
    """The kind of classification, inferred as Hugging Face does where it is not configured.

    One label is a regression, integer labels are single-label, other labels multi-label.
    """
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return "regression"
    return "single_label_classification" if _is_integer(labels) else "multi_label_classification"


def check_labels(labels: Any, batch: int, num_labels: int, problem_type: str | None = None) -> None:
    """Labels of a sequence classifier.

    single_label_classification: integers [batch], in 0..num_labels-1, or -100 to be ignored.
    multi_label_classification: numbers in 0..1, [batch, num_labels].
    regression: finite numbers, [batch, num_labels], or [batch] for one label.

    Args:
      problem_type: as configured; None infers it, see :func:`infer_problem_type`.
    """
    kind = infer_problem_type(problem_type, num_labels, labels)
    if kind == "single_label_classification":
        _check_integers("labels", labels)
        _check_label_shape(labels, [(batch,)], kind)
        _check_range(
            "labels",
            labels,
            0,
            num_labels - 1,
            f"the model has num_labels={num_labels}",
            also=IGNORED_LABEL,
        )
        return
    shapes: list[tuple[int, ...]] = [(batch, num_labels)]
    if kind == "regression" and num_labels == 1:
        shapes.append((batch,))
    _check_label_shape(labels, shapes, kind)
    if isinstance(labels, Tracer):
        return
    values = np.asarray(labels).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError(f"labels must be finite for {kind}, got NaN or infinity")
    if kind == "multi_label_classification" and not ((values >= 0) & (values <= 1)).all():
        raise ValueError(
            f"labels must lie between 0 and 1 for {kind}, got {values.min()} to {values.max()}; "
            f"class numbers must be integers for single-label classification"
        )


def check_class_labels(
    labels: Any, shape: Sequence[int], classes: int, meaning: str, hint: str
) -> None:
    """Integers of ``shape``, in 0..classes-1, or -100 to be ignored.

    Args:
      meaning: the shape in words, e.g. "[batch, sequence]".
      hint: what the number of classes is.
    """
    _check_integers("labels", labels)
    if tuple(labels.shape) != tuple(shape):
        raise ValueError(
            f"labels must have shape {meaning} = {list(shape)}, got {list(labels.shape)}"
        )
    _check_range("labels", labels, 0, classes - 1, hint, also=IGNORED_LABEL)


def check_scored_tokens(scored_tokens: Any, shape: Sequence[int]) -> None:
    """Integers [batch, scored], at least one each, in 0..sequence-1."""
    name, (batch, length) = "scored_tokens", shape
    _check_integers(name, scored_tokens)
    given = tuple(scored_tokens.shape)
    if len(given) != 2 or given[0] != batch or given[1] == 0:
        raise ValueError(
            f"{name} must have shape [batch, scored] = [{batch}, at least 1], got {list(given)}"
            f"{_hint_of_rank(scored_tokens, 2)}"
        )
    _check_range(name, scored_tokens, 0, length - 1, "they count within the given sequence")


def check_span(start_positions: Any, end_positions: Any, batch: int) -> None:
    """Integers [batch] or [batch, 1]; any value, see ``span_loss``."""
    pair = {"start_positions": start_positions, "end_positions": end_positions}
    for name, positions in pair.items():
        _check_integers(name, positions)
        if tuple(positions.shape) not in {(batch,), (batch, 1)}:
            raise ValueError(
                f"{name} must have shape [batch] = {[batch]}, got {list(positions.shape)}"
            )


def check_flag(name: str, value: Any) -> None:
    """True, False, or None for the configuration's default."""
    if value is not None and not isinstance(value, bool):
        raise TypeError(
            f"{name} must be True, False or None, got {value!r}; under jax.jit it must be static"
        )


def check_names(given: Iterable[str], known: Iterable[str], owner: str) -> None:
    """No argument but the known ones."""
    known = list(known)
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise TypeError(
            f"{owner} has no argument {', '.join(unknown)}; it takes {', '.join(known)}"
        )


def _is_integer(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.integer)  # knows int4, NumPy's does not


def _is_floating(array: Any) -> bool:
    return jnp.issubdtype(array.dtype, np.floating)  # knows bfloat16, NumPy's does not


def _check_integers(name: str, array: Any) -> None:
    if not hasattr(array, "dtype") or not hasattr(array, "shape"):
        raise TypeError(
            f"{name} must be a NumPy or JAX array of integers, got {type(array).__name__}; "
            f"wrap it in numpy.asarray"
        )
    if not _is_integer(array):
        raise TypeError(f"{name} must hold integers, got dtype {array.dtype}")


def _hint_of_rank(array: Any, rank: int) -> str:
    missing_batch = len(array.shape) == rank - 1
    return "; add a batch dimension, x[None]" if missing_batch else ""


def _check_broadcast(name: str, array: Any, shape: Sequence[int]) -> None:
    batch, length = shape
    if tuple(array.shape) not in {(batch, length), (1, length)}:
        raise ValueError(
            f"{name} must have the inputs' shape {[batch, length]} (or {[1, length]}), got "
            f"{list(array.shape)}"
        )


def _check_label_shape(labels: Any, shapes: Sequence[tuple[int, ...]], kind: str) -> None:
    if tuple(labels.shape) not in shapes:
        wanted = " or ".join(str(list(shape)) for shape in shapes)
        raise ValueError(
            f"labels must have shape {wanted} for {kind}, got {list(labels.shape)}; "
            f"is config.problem_type right?"
        )


def _check_range(
    name: str, array: Any, low: int, high: int, hint: str, also: int | None = None
) -> None:
    """Values within [low, high], or equal to ``also``; no check of a tracer."""
    if isinstance(array, Tracer):
        return
    values = np.asarray(array)
    wrong = (values < low) | (values > high)
    if also is not None:
        wrong &= values != also
    if wrong.any():
        extra = "" if also is None else f" or {also}"
        raise ValueError(
            f"{name} must lie in {low}..{high}{extra}, got {values[wrong][0]} at index "
            f"{[int(i) for i in np.argwhere(wrong)[0]]}; {hint}"
        )
