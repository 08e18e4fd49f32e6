"""What the models refuse, in a sentence, before anything is computed; what they take as given."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.models.inputs import encoder_inputs

CONFIG = ib.IBertConfig(
    vocab_size=30,
    hidden_size=8,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=12,
    max_position_embeddings=12,
)
IDS = np.array([[0, 5, 6, 2], [0, 7, 2, 1]])
MASK = np.array([[1, 1, 1, 1], [1, 1, 1, 0]])
KINDS = [
    "IBertModel",
    "IBertForMaskedLM",
    "IBertForSequenceClassification",
    "IBertForTokenClassification",
    "IBertForQuestionAnswering",
    "IBertForMultipleChoice",
]


@pytest.fixture(scope="module")
def models() -> dict[str, Any]:
    return {kind: getattr(ib, kind)(CONFIG, rngs=nnx.Rngs(0)) for kind in KINDS}


def ids_for(kind: str) -> np.ndarray:
    return IDS[None] if kind == "IBertForMultipleChoice" else IDS


@pytest.mark.parametrize("kind", KINDS)
def test_unknown_arguments_are_answered_with_the_known(models: dict[str, Any], kind: str) -> None:
    own = {"IBertModel": "", "IBertForQuestionAnswering": "start_positions"}.get(kind, "labels")
    known = f"{kind} has no argument past_key_values, use_cache; it takes input_ids, attention_mask"
    with pytest.raises(TypeError, match=f"{known}.*{own}.*rngs"):
        models[kind](ids_for(kind), use_cache=True, past_key_values=None)


@pytest.mark.parametrize("kind", KINDS)
def test_ids_or_rows(models: dict[str, Any], kind: str) -> None:
    ids = ids_for(kind)
    rows = np.zeros((*ids.shape, 8), np.float32)
    with pytest.raises(ValueError, match="got neither"):
        models[kind]()
    with pytest.raises(ValueError, match="got both"):
        models[kind](ids, inputs_embeds=rows)
    with pytest.raises(ValueError, match=r"inputs_embeds must have shape"):
        models[kind](inputs_embeds=rows[..., :7] if rows.ndim == 3 else rows[0])


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "additive mask": ({"attention_mask": np.where(MASK == 1, 0.0, -1e9)}, "additive masks"),
    "mask's shape": ({"attention_mask": MASK[:, :3]}, "attention_mask must have the inputs' shape"),
    "three heads": ({"head_mask": np.ones(3)}, r"shape \[2\] or \[2, 2\], got \[3\]"),
    "three layers": ({"head_mask": np.ones((3, 2))}, r"shape \[2\] or \[2, 2\], got \[3, 2\]"),
    "position": ({"position_ids": IDS + 6}, "position_ids must lie in 0..11, got 12"),
    "token type": ({"token_type_ids": IDS}, "token_type_ids must lie in 0..1"),
    "scored tokens' rank": ({"scored_tokens": np.zeros(2, int)}, r"add a batch dimension"),
    "scored tokens' batch": ({"scored_tokens": np.zeros((3, 1), int)}, r"\[2, at least 1\], got"),
    "no scored token": ({"scored_tokens": np.zeros((2, 0), int)}, r"at least 1\], got \[2, 0\]"),
    "scored token": ({"scored_tokens": np.full((2, 1), 4)}, "must lie in 0..3, got 4"),
    "long": ({"input_ids": np.ones((1, 11), int)}, "at most 10 tokens, got 11"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_get_a_sentence(models: dict[str, Any], case: str) -> None:
    arguments, sentence = BAD[case]
    with pytest.raises(ValueError, match=sentence):
        models["IBertForMaskedLM"](**{"input_ids": IDS, **arguments})


def test_some_tokens_are_scored_as_among_all(models: dict[str, Any]) -> None:
    model, scored = models["IBertForMaskedLM"], np.array([[3, 0], [1, 1]])
    every = np.asarray(model(IDS, attention_mask=MASK).logits)
    some = model(IDS, attention_mask=MASK, scored_tokens=scored).logits
    np.testing.assert_allclose(some, every[np.arange(2)[:, None], scored], rtol=0, atol=1e-6)
    with pytest.raises(TypeError, match="IBertForTokenClassification has no argument scored_tok"):
        models["IBertForTokenClassification"](IDS, scored_tokens=scored)
    encoder = ib.IBertModel(CONFIG, rngs=nnx.Rngs(0))
    program = ib.freeze(ib.calibrate(encoder, [{"input_ids": IDS}]))
    with pytest.raises(TypeError, match="an integer program has no argument scored_tokens"):
        program.integers(IDS, scored_tokens=scored)


@pytest.mark.parametrize("name", ["return_dict", "output_attentions", "output_hidden_states"])
def test_flags_are_static(models: dict[str, Any], name: str) -> None:
    with pytest.raises(TypeError, match=rf"{name} must be True, False or None, got 1"):
        models["IBertModel"](IDS, **{name: 1})
    with pytest.raises(TypeError, match=r"under jax\.jit it must be static"):
        jax.jit(lambda model, flag: model(IDS, **{name: flag}))(models["IBertModel"], True)


def test_a_quantized_model_takes_heads_or_leaves_them() -> None:
    model = ib.IBertModel(CONFIG, rngs=nnx.Rngs(0)).quantize()
    with pytest.raises(ValueError, match=r"head_mask must hold 1 .* quantized, got 0\.5"):
        model(IDS, head_mask=np.array([0.5, 1.0]))


LABELS: dict[str, tuple[str, dict[str, Any], str]] = {
    "vocabulary": ("IBertForMaskedLM", {"labels": IDS + 24}, "0..29 or -100, got 30.*30 entries"),
    "masked LM's shape": ("IBertForMaskedLM", {"labels": IDS[:, 0]}, r"\[2, 4\], got \[2\]"),
    "tag": ("IBertForTokenClassification", {"labels": IDS}, "0..1 or -100, got 5.*num_labels=2"),
    "tags' shape": (
        "IBertForTokenClassification",
        {"labels": IDS[:, :2]},
        r"labels must have shape \[batch, sequence\] = \[2, 4\], got \[2, 2\]",
    ),
    "choice": ("IBertForMultipleChoice", {"labels": np.array([2])}, "got 2.*there are 2 choices"),
    "choices' labels": (
        "IBertForMultipleChoice",
        {"labels": np.array([0, 1])},
        r"\[batch\] = \[1\], got \[2\]",
    ),
    "choices' mask": (
        "IBertForMultipleChoice",
        {"attention_mask": MASK},
        r"attention_mask must have shape \[batch, choices, sequence\].*got \[2, 4\]; add a batch",
    ),
    "choices' types": (
        "IBertForMultipleChoice",
        {"token_type_ids": np.zeros((2, 1, 4), int)},
        r"token_type_ids must have the inputs' shape \[1, 2, 4\], got \[2, 1, 4\]",
    ),
    "no choices": (
        "IBertForMultipleChoice",
        {"input_ids": IDS},
        r"input_ids must have shape \[batch, choices, sequence\].*add a batch dimension",
    ),
    "span's shape": (
        "IBertForQuestionAnswering",
        {"start_positions": np.array([1]), "end_positions": np.array([1, 2])},
        r"start_positions must have shape \[batch\] = \[2\], got \[1\]",
    ),
}


@pytest.mark.parametrize("case", LABELS)
def test_bad_labels_get_a_sentence(models: dict[str, Any], case: str) -> None:
    kind, arguments, sentence = LABELS[case]
    with pytest.raises(ValueError, match=sentence):
        models[kind](**{"input_ids": ids_for(kind), **arguments})


def test_float_labels_of_tokens_are_refused(models: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="labels must hold integers, got dtype float"):
        models["IBertForTokenClassification"](IDS, labels=np.zeros(IDS.shape))


def test_a_span_needs_both_ends(models: dict[str, Any]) -> None:
    model = models["IBertForQuestionAnswering"]
    assert model(IDS, start_positions=np.array([1, 1])).loss is None
    column = model(IDS, start_positions=np.array([[1], [1]]), end_positions=np.array([[2], [9]]))
    row = model(IDS, start_positions=np.array([1, 1]), end_positions=np.array([2, 9]))
    assert float(column.loss) == float(row.loss)


def test_all_labels_ignored_is_no_loss_at_all(models: dict[str, Any]) -> None:
    """PyTorch's mean over nothing is NaN, which would destroy a training run."""
    loss = models["IBertForTokenClassification"](IDS, labels=np.full(IDS.shape, -100)).loss
    assert float(loss) == 0.0


def test_question_answering_has_two_labels() -> None:
    with pytest.raises(ValueError, match=r"needs num_labels=2 .* got 3; pass num_labels=2"):
        ib.IBertForQuestionAnswering(CONFIG.replace(num_labels=3), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_vocabulary_cannot_be_resized(models: dict[str, Any], kind: str) -> None:
    with pytest.raises(NotImplementedError, match="fixed at 30 entries, got 31"):
        models[kind].resize_token_embeddings(31)


def test_lists_and_any_integer_type_are_taken(models: dict[str, Any]) -> None:
    model = models["IBertForMaskedLM"]
    want = model(jnp.asarray(IDS, jnp.int32), attention_mask=jnp.asarray(MASK == 1)).logits
    for ids, mask in (
        (IDS.tolist(), MASK.tolist()),
        (IDS.astype(np.uint8), MASK.astype(np.float32)),
        (IDS.astype(np.int64), MASK.astype(bool)),
    ):
        np.testing.assert_array_equal(model(ids, attention_mask=mask).logits, want)


def test_options_come_from_the_configuration() -> None:
    config = CONFIG.replace(output_attentions=True, output_hidden_states=True, return_dict=False)
    model = ib.IBertModel(config, rngs=nnx.Rngs(0))
    hidden, pooled, states, attentions = model(IDS)
    assert (hidden.shape, pooled.shape) == ((2, 4, 8), (2, 8))
    assert [s.shape for s in states] == [(2, 4, 8)] * 3
    assert [a.shape for a in attentions] == [(2, 2, 4, 4)] * 2
    np.testing.assert_array_equal(states[-1], hidden)
    named = model(IDS, return_dict=True, output_attentions=False)
    assert named.attentions is None and len(named.hidden_states) == 3


@pytest.mark.parametrize("life", ["float", "quantized", "frozen"])
def test_what_was_given_may_be_written_to_afterwards(life: Any) -> None:
    """A computation may still be under way; nothing of it is read where the caller keeps it."""

    def aligned(values: Any, dtype: Any) -> np.ndarray:
        """At an address where a CPU device would take an array of NumPy's as its own."""
        values = np.asarray(values, dtype)
        memory = np.zeros(values.nbytes + 64, np.uint8)
        start = -memory.ctypes.data % 64
        array = memory[start : start + values.nbytes].view(dtype).reshape(values.shape)
        array[...] = values
        return array

    embeds = np.float32 if life != "frozen" else np.int32
    tokens = {"input_ids": aligned(IDS, np.int32)}
    rows = {"inputs_embeds": aligned(np.ones((2, 4, 8)), embeds)}
    for what in (tokens, rows):
        for flags in (bool, np.int32):
            given = {
                **what,
                "attention_mask": aligned(MASK, flags),
                "token_type_ids": aligned(np.zeros((2, 4)), np.int32),
                "position_ids": aligned(np.tile(np.arange(2, 6), (2, 1)), np.int32),
                "head_mask": aligned(np.ones((2, 2)), np.float32 if life == "float" else flags),
            }
            taken = encoder_inputs(CONFIG, life, **given).arguments()
            before = jax.tree.map(lambda x: np.array(x), taken)
            for array in given.values():
                array[...] = array == 0
            jax.tree.map(np.testing.assert_array_equal, taken, before)
