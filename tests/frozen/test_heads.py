"""Every head: briefly trained as it will run, frozen, certified, kept on disk, and bit-equal.

Each head also carries one of the arguments through all three lives, because every compilation of
a quantization-aware pass costs seconds.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.frozen.storage import MANIFEST_FILE, TENSORS_FILE
from ibert_jax.quantize.tensor import QuantizedTensor, value_of

from .conftest import inputs

LENGTH, ROWS, STEPS = 10, 6, 20
ALL = {"output_attentions": True, "output_hidden_states": True}
HEAD_MASK = np.array([1, 0, 1, 1])


def choices(array: np.ndarray) -> np.ndarray:
    return array.reshape(ROWS // 2, 2, *array.shape[1:])


def embedded(model: Any, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same batch, rows of the table in place of ids and the positions that belong to them."""
    present = (batch["input_ids"] != 1).astype(np.int32)
    return {
        "inputs_embeds": np.asarray(model.get_input_embeddings().weight[...])[batch["input_ids"]],
        "attention_mask": batch["attention_mask"],
        "position_ids": np.cumsum(present, axis=1, dtype=np.int32) * present + 1,
    }


def labels(kind: str, batch: dict[str, np.ndarray]) -> dict[str, Any]:
    """Something to learn from the tokens: never random, so that logits grow apart."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    first = ids.reshape(-1, LENGTH)[:, 0]
    if kind == "masked_lm":
        return {"labels": np.where(mask == 1, ids, -100)}
    if kind == "tokens":
        return {"labels": np.where(mask == 1, ids % 3, -100)}
    if kind == "spans":
        return {"start_positions": first % LENGTH, "end_positions": first % (LENGTH + 3)}
    if kind == "choices":
        return {"labels": first[::2] % 2}
    if kind == "regression":
        return {"labels": (first / 200).astype(np.float32)}
    assert kind == "several"
    return {"labels": np.stack([first % 2, first % 3 == 0, first > 100], 1).astype(np.float32)}


@dataclasses.dataclass(frozen=True)
class Head:
    """A trained head in its last two lives.

    exact, untrained: outputs at the beginning, float and quantized. simulated: the quantized ones
    at the end.
    """

    model: Any
    program: ib.IntegerModel
    batch: dict[str, np.ndarray]
    exact: Any
    untrained: Any
    simulated: Any
    losses: list[float]


MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "masked_lm": ("IBertForMaskedLM", {}),
    "tokens": ("IBertForTokenClassification", {"num_labels": 3}),
    "spans": ("IBertForQuestionAnswering", {}),
    "choices": ("IBertForMultipleChoice", {}),
    "regression": ("IBertForSequenceClassification", {"num_labels": 1}),
    "several": (
        "IBertForSequenceClassification",
        {"num_labels": 3, "problem_type": "multi_label_classification"},
    ),
}


@functools.cache
def trained(kind: str) -> Head:
    """Quantization-aware steps at fixed ranges; the outputs are those of the last."""
    name, settings = MODELS[kind]
    config = ib.IBertConfig(
        vocab_size=200,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=20,
        initializer_range=0.1,
        **settings,
    )
    model = getattr(ib, name)(config, rngs=nnx.Rngs(0))
    batch = inputs(ROWS, LENGTH, 5)
    target = labels(kind, batch)
    arguments: dict[str, Any] = dict(batch)
    options: dict[str, Any] = {}
    if kind == "choices":
        arguments = {n: choices(a) for n, a in batch.items()}
    elif kind == "tokens":
        arguments, options = {**batch, "head_mask": HEAD_MASK}, ALL
    exact = model(**arguments)
    ib.calibrate(model, [arguments])
    graph, params, rest = nnx.split(model, nnx.Param, ...)

    @jax.jit
    def step(params: Any, arguments: Any, target: Any) -> Any:
        def loss(params: Any) -> Any:
            merged = nnx.merge(graph, params, rest)
            if kind == "spans":  # rows of the table, as floats, in place of the ids
                table = merged.get_input_embeddings().weight[...]
                rows = jax.lax.stop_gradient(table)[arguments["input_ids"]]
                given = {"inputs_embeds": rows, **without(arguments, "input_ids")}
            else:
                given = arguments
            outputs = merged(**given, **target, **options)
            return outputs.loss, outputs

        (value, outputs), gradients = jax.value_and_grad(loss, has_aux=True)(params)
        # What Adam's first steps are, and no state to compile.
        return value, outputs, jax.tree.map(lambda p, g: p - 0.002 * jnp.sign(g), params, gradients)

    if kind == "spans":
        arguments["position_ids"] = embedded(model, batch)["position_ids"]
    losses, untrained, outputs, before = [], None, None, params
    for _ in range(STEPS):
        before = params
        value, outputs, params = step(params, arguments, target)
        untrained = untrained or outputs
        losses.append(float(value))
    nnx.update(model, before)  # the parameters that gave these outputs
    return Head(
        model, ib.freeze(model), {**arguments, **options}, exact, untrained, outputs, losses
    )


def without(arguments: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in arguments.items() if key != name}


def assert_equal(frozen: Any, simulated: Any) -> None:
    """Every integer of every output."""
    seen = 0
    for field in dataclasses.fields(simulated):
        want, got = getattr(simulated, field.name), getattr(frozen, field.name)
        if field.name == "loss" or want is None:
            assert got is None
            continue
        for w, g in zip(
            want if isinstance(want, tuple) else (want,),
            got if isinstance(want, tuple) else (got,),
            strict=True,
        ):
            assert isinstance(w, QuantizedTensor)
            numerators, row_sum = g if isinstance(g, tuple) else (g, None)
            assert numerators.dtype == w.q.dtype and np.array_equal(numerators, w.q), field.name
            assert (row_sum is None) == (w.row_sum is None)
            assert row_sum is None or np.array_equal(row_sum, w.row_sum)
            seen += 1
    assert seen


@pytest.mark.parametrize("kind", MODELS)
def test_trained_equals_run(kind: str) -> None:
    head = trained(kind)
    assert head.losses[-1] < 0.97 * head.losses[0]  # it did learn
    frozen = head.program.integers(**head.batch)
    assert_equal(frozen, head.simulated)
    logits = frozen.start_logits if kind == "spans" else frozen.logits
    assert logits.dtype == np.int32
    assert len(np.unique(logits)) > 0.5 * min(logits.size, 1000)  # or equality would say little
    floats = head.program(**head.batch)
    for name, value in vars(head.simulated).items():
        if isinstance(value, QuantizedTensor):
            np.testing.assert_array_equal(getattr(floats, name), value.value, err_msg=name)


@pytest.mark.parametrize("kind", ["masked_lm", "tokens", "spans", "choices", "regression"])
def test_every_head_is_certified(kind: str) -> None:
    certificate = ib.certify(trained(kind).program, batch_size=2, sequence_length=LENGTH)
    assert certificate.ok and set(certificate.float_operations.values()) == {0}


SCORED = np.array([[3, 0, LENGTH - 1], [1, 1, 2]] * (ROWS // 2))


@pytest.mark.parametrize("rows", [ROWS, 1])
def test_some_tokens_are_scored_as_among_all(rows: int) -> None:
    """A lone token of a lone example too, which is multiplied as several."""
    head = trained("masked_lm")
    batch = {name: array[:rows] for name, array in head.batch.items()}
    for scored in (SCORED[:rows], SCORED[:rows, :1]):
        picked = (np.arange(rows)[:, None], scored)
        every = np.asarray(head.program.integers(**batch).logits)
        some = head.program.integers(**batch, scored_tokens=scored).logits
        np.testing.assert_array_equal(some, every[picked])
        logits = head.program(**batch, scored_tokens=scored).logits
        np.testing.assert_array_equal(logits, head.program(**batch).logits[picked])


def test_some_tokens_are_trained_as_they_run() -> None:
    head = trained("masked_lm")
    graph, params, rest = nnx.split(head.model, nnx.Param, ...)
    target = np.where(SCORED < 5, SCORED, -100)

    @jax.jit
    def step(params: Any, batch: Any) -> Any:
        def loss(params: Any) -> Any:
            merged = nnx.merge(graph, params, rest)
            outputs = merged(**batch, scored_tokens=SCORED, labels=target)
            return outputs.loss, outputs

        return jax.grad(loss, has_aux=True)(params)

    gradients, outputs = step(params, head.batch)
    assert_equal(head.program.integers(**head.batch, scored_tokens=SCORED), outputs)
    assert all(np.isfinite(leaf).all() and leaf.any() for leaf in jax.tree.leaves(gradients))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AtSomeTokens:
    """A program that scores the vocabulary where the tokens themselves say."""

    program: ib.IntegerModel

    @property
    def config(self) -> ib.IBertConfig:
        return self.program.config

    def integers(self, input_ids: Any, attention_mask: Any) -> Any:
        scored = input_ids[:, :3] % input_ids.shape[1]
        return self.program.integers(input_ids, attention_mask=attention_mask, scored_tokens=scored)


def test_scores_of_some_tokens_are_certified() -> None:
    certificate = ib.certify(AtSomeTokens(trained("masked_lm").program), 2, LENGTH)
    assert certificate.ok and certificate.overflow is not None


@pytest.mark.parametrize("kind", MODELS)
def test_every_head_is_saved_and_loaded(kind: str, tmp_path: Path) -> None:
    head = trained(kind)
    head.program.save(tmp_path)
    loaded = ib.IntegerModel.load(tmp_path)
    assert jax.tree.structure(loaded) == jax.tree.structure(head.program)
    for a, b in zip(loaded.tensors, head.program.tensors, strict=True):
        assert a.dtype == b.dtype and np.array_equal(a, b)
    assert loaded.kind is type(head.model)


@pytest.mark.parametrize("kind", MODELS)
def test_quantized_logits_stay_close_to_float(kind: str) -> None:
    """Before training, which moves the activations away from the ranges held fixed here."""
    head = trained(kind)
    name = "start_logits" if kind == "spans" else "logits"
    want, got = (np.asarray(value_of(getattr(x, name))) for x in (head.exact, head.untrained))
    assert np.abs(got - want).max() < 0.15 * np.abs(want).max()


def test_the_vocabulary_is_stored_once(tmp_path: Path) -> None:
    """The decoder reads the embeddings' int8 rows; of its own it has four constants a row."""
    program = trained("masked_lm").program
    vocabulary, size = program.config.vocab_size, program.config.hidden_size
    assert [t.dtype for t in program.tensors if t.shape == (vocabulary, size)] == [np.int8]
    program.save(tmp_path)
    leaves = json.loads((tmp_path / MANIFEST_FILE).read_text())["leaves"]
    assert leaves["lm_head.decoder"]["kind"] == "IntegerDecoder"
    per_row = sum(t.nbytes for t in program.tensors if t.shape == (vocabulary,))
    assert per_row <= 6 * 4 * vocabulary  # ratio; m, offset, shift, pre; shifted bias
    assert (tmp_path / TENSORS_FILE).stat().st_size < 2 * vocabulary * size + 60_000


def test_vocabulary_logits_share_one_scale_and_twenty_bits() -> None:
    head = trained("masked_lm")
    q = np.asarray(head.simulated.logits.q)
    assert head.simulated.logits.scale.shape == ()
    assert 2**19 < np.abs(q).max() < 2**30


def test_rows_of_the_table_equal_ids_in_the_frozen_life() -> None:
    """The quantization-aware life was fed rows; the program gives the same on ids and on rows."""
    head = trained("spans")
    batch = {name: head.batch[name] for name in ("input_ids", "attention_mask")}
    by_ids = head.program.integers(**batch)
    assert_equal(by_ids, head.simulated)
    rows = embedded(head.model, batch)
    integers = {**rows, "inputs_embeds": head.program.quantize_embeds(rows["inputs_embeds"])}
    assert integers["inputs_embeds"].dtype == np.int32
    assert_equal(head.program.integers(**integers), head.simulated)
    floats = head.program(**rows)
    np.testing.assert_array_equal(floats.end_logits, head.program(**batch).end_logits)


def test_rows_beyond_the_table_saturate() -> None:
    head = trained("spans")
    largest = np.abs(np.asarray(head.model.get_input_embeddings().weight[...])).max()
    rows = np.full((1, 3, 32), 1e9, np.float32) * np.float32([1, -1, 0])[None, :, None]
    got = np.asarray(head.program.quantize_embeds(rows))
    scale = head.program.scale_of("inputs_embeds")
    want = np.float32([largest, -largest, 0])[None, :, None] / scale
    assert np.abs(got - want).max() <= 2 + 1e-3 * largest / scale
    assert np.abs(got).max() <= 2**15 + 2**5


def test_rows_that_are_no_numbers_are_refused() -> None:
    rows = np.zeros((1, 3, 32), np.float32)
    rows[0, 2, 5] = np.nan
    with pytest.raises(ValueError, match=r"got NaN at index \[0, 2, 5\]"):
        trained("spans").program(inputs_embeds=rows)


def test_floats_of_attentions_and_hidden_states() -> None:
    head = trained("tokens")
    floats = head.program(**head.batch)
    for got, want in zip(floats.attentions, head.simulated.attentions, strict=True):
        assert got.dtype == np.float32
        np.testing.assert_allclose(got, want.value, rtol=1e-6)
        kept = np.asarray(got).sum(-1)
        np.testing.assert_allclose(kept[:, HEAD_MASK == 1], 1, rtol=1e-5)
        assert (kept[:, 1] == 0).all()
    assert len(floats.hidden_states) == head.model.config.num_hidden_layers + 1
    for got, want in zip(floats.hidden_states, head.simulated.hidden_states, strict=True):
        np.testing.assert_allclose(got, want.value, rtol=1e-5, atol=1e-6)


def test_a_model_frozen_without_those_scales_says_so(tmp_path: Path) -> None:
    """As every model was before they were kept."""
    head = trained("tokens")
    head.program.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    del manifest["hidden_states"], manifest["scales"]["inputs_embeds"]
    (tmp_path / MANIFEST_FILE).write_text(json.dumps(manifest))
    old = ib.IntegerModel.load(tmp_path)
    assert_equal(old.integers(**head.batch), head.simulated)
    with pytest.raises(ValueError, match=r"hidden states; freeze it again.*program\.integers"):
        old(**head.batch)
    with pytest.raises(ValueError, match="embeddings; freeze it again"):
        old.quantize_embeds(np.zeros((1, 2, 32), np.float32))


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ({"scale": ["1 2"], "offset": ["0 0", "0 0"]}, r"got \[1, 2\] and \[2, 2\]"),
        ({"scale": ["1 inf"], "offset": ["0 0"]}, "finite"),
        ({"scale": ["1 2"]}, "does not describe a model"),
    ],
)
def test_damaged_scales_are_refused(tmp_path: Path, lines: dict[str, Any], sentence: str) -> None:
    trained("tokens").program.save(tmp_path)
    manifest = json.loads((tmp_path / MANIFEST_FILE).read_text())
    (tmp_path / MANIFEST_FILE).write_text(json.dumps({**manifest, "hidden_states": lines}))
    with pytest.raises(ValueError, match=sentence):
        ib.IntegerModel.load(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        ({}, ValueError, "got neither"),
        ({"inputs_embeds": jnp.zeros((1, 2, 32), jnp.int32), "input_ids": np.ones((1, 2), int)},
         ValueError, "got both"),
        ({"inputs_embeds": jnp.zeros((1, 2, 31), jnp.int32)}, ValueError, r"sequence, 32\], got"),
        ({"inputs_embeds": jnp.zeros((1, 2, 32))}, TypeError, "quantize_embeds"),
        ({"inputs_embeds": jnp.full((1, 2, 32), 40000)}, ValueError, "quantize_embeds"),
        ({"input_ids": [[1, 2, 3], [1, 2]]}, ValueError, r"lists of different lengths; pad them"),
        ({"input_ids": np.ones((1, 2), int), "head_mask": np.float32([1, 0.5, 1, 1])},
         ValueError, "head_mask must hold 1 for heads that count.*got 0.5"),
        ({"input_ids": np.ones((1, 2), int), "labels": np.ones((1, 2), int)},
         TypeError, "no argument labels; it takes input_ids, attention_mask"),
    ],
)  # fmt: skip
def test_what_the_program_refuses(arguments: Any, kind: type[Exception], sentence: str) -> None:
    with pytest.raises(kind, match=sentence):
        trained("spans").program.integers(**arguments)
