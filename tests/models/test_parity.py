"""The float life against transformers: outputs, losses, gradients, for configurations drawn."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import ibert_jax as ib

from .oracle import FAMILIES, HEADS, as_torch, make, our_inputs, run_torch

TOLERANCE = 2e-5
# Each example compiles a network, so there are few, the same in every run; PARITY_EXAMPLES=20 in
# the environment draws more.
few = settings(
    max_examples=int(os.environ.get("PARITY_EXAMPLES", "1")),
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking would compile for minutes
    suppress_health_check=[HealthCheck.too_slow],
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A configuration and what of the arguments varies with it."""

    family: str
    sizes: dict[str, Any]
    seed: int
    batch: int
    length: int
    embeds: bool
    positions: bool


@st.composite
def cases(draw: Any, turn: int) -> Case:
    """The first drawn is the simplest, which ``turn`` makes another one."""

    def one_of(*options: Any) -> Any:
        first = turn % len(options)
        return draw(st.sampled_from(options[first:] + options[:first]))

    heads, length = one_of(2, 3, 1, 4), one_of(7, 5, 2, 9)
    return Case(
        family=one_of(*FAMILIES),
        sizes={
            "vocab_size": one_of(60, 31, 45, 70),
            "hidden_size": heads * one_of(8, 5, 12, 3),
            "num_hidden_layers": one_of(2, 1, 3),
            "num_attention_heads": heads,
            "intermediate_size": one_of(40, 5, 33),
            "max_position_embeddings": length + one_of(9, 3, 4),
            "type_vocab_size": one_of(2, 1, 3),
            "pad_token_id": one_of(1, 0, 2),
            "layer_norm_eps": one_of(1e-12, 1e-5),
        },
        seed=draw(st.integers(0, 99)),
        batch=one_of(3, 2, 4),
        length=length,
        embeds=one_of(False, True),
        positions=one_of(True, True, False),
    )


def labels(task: str, rng: np.random.Generator, batch: int, length: int, vocab: int) -> Any:
    """Labels of the task by argument; some are to be ignored, but never all."""
    if task == "ForQuestionAnswering":
        positions = rng.integers(-1, length + 3, (2, batch))
        positions[:, 0] = 0
        return {"start_positions": positions[0], "end_positions": positions[1]}
    shape, classes = {
        "ForMaskedLM": ((batch, length), vocab),
        "ForSequenceClassification": ((batch,), 2),
        "ForTokenClassification": ((batch, length), 2),
        "ForMultipleChoice": ((1,), batch),
    }[task]
    values = rng.integers(0, classes, shape)
    values.flat[1::2] = -100
    return {"labels": values}


def arguments(case: Case, task: str, pad: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(case.seed)
    vocab, size = case.sizes["vocab_size"], case.sizes["hidden_size"]
    batch = our_inputs(
        rng,
        vocab=vocab,
        batch=case.batch,
        length=case.length,
        pad=pad,
        types=case.sizes["type_vocab_size"],
    )
    shape = (case.batch, case.length)
    if case.positions:
        batch["position_ids"] = rng.integers(0, case.length, shape)
    if case.embeds:
        del batch["input_ids"]
        batch["inputs_embeds"] = rng.standard_normal((*shape, size)).astype(np.float32)
    if task == "ForMultipleChoice":  # one question, its choices the rows
        batch = {name: value[None] for name, value in batch.items()}
    return batch | labels(task, rng, case.batch, case.length, vocab)


def load(theirs: Any, task: str, **settings: Any) -> Any:
    with tempfile.TemporaryDirectory() as directory:
        theirs.save_pretrained(directory)
        return getattr(ib, f"IBert{task}").from_pretrained(directory, **settings)


def quickly(function: Any, model: Any, batch: dict[str, np.ndarray]) -> Any:
    """``function(model, batch)``, compiled in little time to slow code."""
    arrays = {
        name: jnp.asarray(value.astype(np.int32) if value.dtype == np.int64 else value)
        for name, value in batch.items()
    }
    options = {"xla_backend_optimization_level": 0}
    return jax.jit(function).lower(model, arrays).compile(options)(model, arrays)


def close(got: Any, want: np.ndarray, name: str) -> None:
    assert got.shape == want.shape, name
    assert np.abs(np.asarray(got) - want).max() <= TOLERANCE, name


def compare_outputs(got: Any, want: dict[str, np.ndarray]) -> None:
    """Every field of theirs, as named and shaped there; ours has no other."""
    fields = {f.name: getattr(got, f.name) for f in dataclasses.fields(got)}
    assert {name for name, value in fields.items() if value is not None} == want.keys()
    assert list(want) == [name for name in fields if name in want]  # in the same order
    for name, value in want.items():
        if name == "loss":
            assert float(got.loss) == pytest.approx(float(value), rel=1e-5, abs=1e-6)
        elif isinstance(fields[name], tuple):
            close(np.stack(fields[name]), value, name)
        else:
            close(fields[name], value, name)


def compare_gradients(gradients: Any, theirs: Any) -> None:
    """Within 1e-4 of each tensor's norm.

    The bias of the keys shifts all scores of a row alike, and that of a choice's score all
    choices, so that their gradients are 0 and what either side computes is rounding: a norm
    counts for at least a thousandth of the largest, and two units in the last place of the
    probabilities (2^-22), of whose differences gradients are made, are allowed in any case.
    """
    got = {
        ".".join(map(str, path)).replace("lm_head.decoder.bias", "lm_head.bias"): np.asarray(g[...])
        for path, g in nnx.to_flat_state(gradients)
    }
    want = {
        name: np.zeros(p.shape, np.float32) if p.grad is None else p.grad.numpy()
        for name, p in theirs.named_parameters()
    }
    assert got.keys() == want.keys()
    floor = 1e-3 * max(np.linalg.norm(w) for w in want.values())
    for name, value in want.items():
        allowed = 1e-4 * max(np.linalg.norm(value), floor) + 2.0**-22
        assert np.abs(got[name] - value).max() <= allowed, name


@pytest.mark.parametrize("task", HEADS)
@given(data=st.data())
@few
def test_heads(task: str, data: st.DataObject) -> None:
    case = data.draw(cases(HEADS.index(task)))
    # Gradients are compared name by name, and only the I-BERT of theirs has our names.
    theirs = make("IBert", task, case.seed, **case.sizes)
    batch = arguments(case, task, theirs.config.pad_token_id)
    flags = {"output_attentions": True, "output_hidden_states": True}
    want = theirs(**as_torch(batch), **flags)
    want.loss.backward()
    ours = load(theirs, task)
    graph, params, rest = nnx.split(ours, nnx.Param, ...)

    def run(params: Any, batch: dict[str, jax.Array]) -> Any:
        def loss(params: Any) -> Any:
            outputs = nnx.merge(graph, params, rest)(**batch, **flags)
            return outputs.loss, outputs

        return jax.grad(loss, has_aux=True)(params)

    gradients, got = quickly(run, params, batch)
    compare_outputs(
        got,
        {
            name: np.stack([x.detach().numpy() for x in value])
            if isinstance(value, tuple)
            else value.detach().numpy()
            for name, value in want.items()
        },
    )
    compare_gradients(gradients, theirs)


@pytest.mark.parametrize("turn", range(len(FAMILIES)))
@given(data=st.data())
@few
def test_encoder(turn: int, data: st.DataObject) -> None:
    case = data.draw(cases(turn))
    theirs = make(case.family, "Model", case.seed, **case.sizes)
    ours = load(theirs, "Model")
    batch = arguments(case, "ForTokenClassification", theirs.config.pad_token_id)
    del batch["labels"]
    offset = ours.config.max_position_embeddings - theirs.config.max_position_embeddings
    mine = dict(batch)
    if case.positions:
        mine["position_ids"] = mine["position_ids"] + offset  # BERT counts them from 0
    # Hidden states and attentions of I-BERT; theirs of the others are collected otherwise.
    flags = dict.fromkeys(("output_attentions", "output_hidden_states"), case.family == "IBert")
    got = quickly(lambda model, batch: model(**batch, **flags), ours, mine)
    want = run_torch(theirs, batch | flags)
    if case.family == "Bert":  # counts on where padding begins; nothing reads those states
        present = batch["attention_mask"][..., None] == 1
        hidden = np.where(present, got.last_hidden_state, want["last_hidden_state"])
        got = dataclasses.replace(got, last_hidden_state=hidden)
    compare_outputs(got, want)


FIXED: dict[str, Any] = {"batch": 3, "length": 7, "vocab": 60}


@pytest.mark.parametrize(
    ("problem", "values", "count"),
    [
        ("single_label_classification", np.array([2, -100, 1]), 3),
        (None, np.array([2, 0, 1]), 3),
        ("regression", np.float32([0.5, -1.0, 2.0]), 1),
        (None, np.float32([[0.5], [-1.0], [2.0]]), 1),
        ("regression", np.float32([[0.5, 1], [-1.0, 0], [2.0, 3]]), 2),
        ("multi_label_classification", np.float32([[0, 1, 1], [1, 0, 0], [0, 0, 0]]), 3),
        (None, np.float32([[0, 1, 1], [1, 0, 0], [0, 0, 0]]), 3),
    ],
)
def test_problem_types(problem: str | None, values: np.ndarray, count: int) -> None:
    theirs = make("IBert", "ForSequenceClassification", num_labels=count, problem_type=problem)
    ours = load(theirs, "ForSequenceClassification")
    batch = our_inputs(np.random.default_rng(0), **FIXED)
    compare_outputs(ours(**batch, labels=values), run_torch(theirs, batch | {"labels": values}))


@pytest.mark.parametrize("task", ["Model", *HEADS])
def test_tuples_are_those_of_the_reference(task: str) -> None:
    theirs = make("IBert", task)
    batch = our_inputs(np.random.default_rng(1), **FIXED)
    if task == "ForMultipleChoice":
        batch = {name: value[None] for name, value in batch.items()}
    flags = {"return_dict": False, "output_hidden_states": True}
    with torch.no_grad():
        want = theirs(**as_torch(batch), **flags)
    by_argument = load(theirs, task)(**batch, **flags)
    by_configuration = load(theirs, task, **flags)(**batch)
    for got in (by_argument, by_configuration):
        assert type(got) is tuple and len(got) == len(want)
        close(got[0], want[0].numpy(), task)
        assert [isinstance(x, tuple) for x in got] == [isinstance(x, tuple) for x in want]


def test_no_pooler() -> None:
    theirs = make("IBert", "Model")
    ours = load(theirs, "Model")
    config = ours.config
    bare = ib.IBertModel(config, add_pooling_layer=False, rngs=nnx.Rngs(0))
    bare.load_tensors({k: np.asarray(v) for k, v in ours.tensors().items() if "pooler" not in k})
    batch = our_inputs(np.random.default_rng(1), **FIXED)
    full, got = ours(**batch), bare(**batch)
    assert got.pooler_output is None and full.pooler_output is not None
    np.testing.assert_array_equal(got.last_hidden_state, full.last_hidden_state)
    hidden, none = bare(**batch, return_dict=False)
    assert none is None  # as the reference has it
    np.testing.assert_array_equal(hidden, full.last_hidden_state)


@pytest.mark.parametrize("per_layer", [False, True])
def test_head_mask(per_layer: bool) -> None:
    """transformers 5 has none any more; a hook on its attention weights puts it back."""
    theirs = make("IBert", "Model")
    weights = np.float32([[1.0, 0.0, 0.5], [0.0, 1.0, 2.0]])
    mask = weights if per_layer else weights[0]
    for index, layer in enumerate(theirs.encoder.layer):
        row = torch.tensor(weights[index if per_layer else 0]).reshape(1, -1, 1, 1)
        layer.attention.self.dropout.register_forward_hook(lambda *x, row=row: x[2] * row)
    batch = our_inputs(np.random.default_rng(2), **FIXED)
    flags = {"output_attentions": True, "output_hidden_states": True}
    got = load(theirs, "Model")(**batch, head_mask=mask, **flags)
    compare_outputs(got, run_torch(theirs, batch | flags))


def test_rows_of_the_table_are_its_tokens() -> None:
    ours = load(make("Roberta", "ForMaskedLM"), "ForMaskedLM")
    batch = our_inputs(np.random.default_rng(4), **FIXED)
    batch["input_ids"][batch["attention_mask"] == 0] = 5  # embeddings tell no padding
    rows = np.asarray(ours.get_input_embeddings().weight[...])[batch["input_ids"]]
    mask = batch["attention_mask"]
    want = ours(batch["input_ids"], attention_mask=mask).logits
    np.testing.assert_array_equal(ours(inputs_embeds=rows, attention_mask=mask).logits, want)
