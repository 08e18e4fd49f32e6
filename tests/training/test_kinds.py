"""Every kind of task learns what it is shown.

That heads answer the same in every life is shown elsewhere: tests/frozen, and tests/test_cli_lives.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ibert_jax.config import IBertConfig
from ibert_jax.layers.leaf import set_life
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training import batches_of, evaluate, load_task
from ibert_jax.training.batches import Batcher
from ibert_jax.training.examples import ChoiceExample, QuestionExample, TextExample
from ibert_jax.training.kinds import KINDS
from ibert_jax.training.optimizer import make_optimizer, warmup_linear_decay
from ibert_jax.training.state import Skeleton
from ibert_jax.training.step import dropout_key, initial_state, make_train_step
from ibert_jax.training.tasks import Task

from .conftest import BAD, FILL, GOOD, WORDS, make_backend

pytestmark = pytest.mark.usefixtures("unoptimized")

_STEPS = 30


def judged() -> list[tuple[str, str, int]]:
    """A word that judges, another, and whether the first one praises."""
    return [
        (word, FILL[index % len(FILL)], label)
        for label, words in enumerate((BAD, GOOD))
        for index, word in enumerate(words)
    ]


EXAMPLES: dict[str, list[Any]] = {
    "stsb": [TextExample(word, other, 4.0 * label - 2.0) for word, other, label in judged()],
    "squad": [
        QuestionExample(str(i), "is good", f"{other} {word} the {other}", (word,), len(other) + 1)
        for i, (word, other, _) in enumerate(judged())
    ],
    "commonsenseqa": [
        ChoiceExample(other, (good, bad)[::order], 0 if order == 1 else 1)
        for other, good, bad, order in zip(FILL, GOOD * 2, BAD * 2, (1, -1) * 4, strict=False)
    ],
    "wikitext2": [TextExample(f"the {word} film is a {word} story") for word, _, _ in judged()],
}


@pytest.fixture(scope="module")
def tokenizer_with_mask() -> Tokenizer:
    backend = make_backend()
    backend.add_special_tokens(["[MASK]"])
    return Tokenizer(backend)


def untrained(name: str, tokenizer: Tokenizer) -> tuple[Any, Batcher, Task]:
    """A tiny model for a task of `EXAMPLES`, and all of these as one batch."""
    task = load_task(name)
    kind = KINDS[task.kind]
    settings: dict[str, Any] = dict(kind.settings)
    config = IBertConfig(
        vocab_size=len(WORDS) + 1,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        initializer_range=0.2,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **settings,
    )
    data = batches_of(
        EXAMPLES[name],
        tokenizer=tokenizer,
        config=config,
        task=task,
        batch_size=len(EXAMPLES[name]),
        buckets=1,
    )
    return kind.head(config, rngs=nnx.Rngs(0)), data, task


@pytest.mark.parametrize("name", EXAMPLES)
def test_learned(name: str, tokenizer_with_mask: Tokenizer) -> None:
    model, data, task = untrained(name, tokenizer_with_mask)
    model.train()
    set_life(model, observing=False)
    schedule = warmup_linear_decay(1e-2, 2 * _STEPS, 0)
    optimizer = make_optimizer(schedule, weight_decay=0.0, clip_norm=1.0)
    step = make_train_step(model, optimizer, dropout_key(0, 0), KINDS[task.kind].loss)
    state, losses = initial_state(model, optimizer), []
    for number in range(_STEPS):
        batch = next(data.epoch((number,)))
        state, loss = step(state, batch)
        losses.append(float(loss))
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    Skeleton(model).put_into(model, state.params, state.others)
    model.eval()
    primary = evaluate(model, data, task).primary
    assert primary > 0.6 if task.rising else primary < len(WORDS) / 2


def test_guesses_alone_have_the_loss_of_a_batch(tokenizer_with_mask: Tokenizer) -> None:
    """What is scored beside them counts nowhere: neither in the loss nor in the measures."""
    model, data, task = untrained("wikitext2", tokenizer_with_mask)
    kind = KINDS[task.kind]
    batch = next(data.epoch((0,)))
    inputs = dict(batch.inputs)
    places, found = inputs.pop("scored_tokens"), batch.targets["labels"]
    assert places.shape[1] < inputs["input_ids"].shape[1]
    labels = np.full_like(inputs["input_ids"], -100)
    np.put_along_axis(labels, places, found, axis=1)
    weights = jnp.asarray(batch.weights)
    some, every = model(**batch.inputs), model(**inputs)
    assert some.logits.shape[:2] == places.shape
    for one, other in zip(
        kind.loss(some, {"labels": jnp.asarray(found)}, weights),
        kind.loss(every, {"labels": jnp.asarray(labels)}, weights),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)
    one, other = kind.raw(some, {"labels": found}), kind.raw(every, {"labels": labels})
    for name in ("loss", "hits", "count"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-6)


LOGITS = {"": (2, 5, 3), "classification": (2, 3), "multiple_choice": (2, 3), "regression": (2, 1)}


@pytest.mark.parametrize("kind", KINDS)
def test_filler_takes_no_part_in_any_loss(kind: str) -> None:
    """Whatever it holds: the sum, and how much was summed."""

    def loss(filler: int, weight: float) -> Any:
        shape = LOGITS.get(kind, LOGITS[""])
        logits = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
        logits[1] += filler
        label: Any = np.asarray([1, filler % 3], np.int32)
        if kind == "regression":
            label = label.astype(np.float32)
        elif shape == LOGITS[""]:
            label = np.tile(label[:, None], (1, 5))
        output = SimpleNamespace(logits=jnp.asarray(logits))
        targets = {"labels": jnp.asarray(label)}
        if kind == "question_answering":
            output = SimpleNamespace(
                start_logits=jnp.asarray(logits[..., 0]), end_logits=jnp.asarray(logits[..., 1])
            )
            ends = jnp.asarray([1, filler % 3], jnp.int32)
            targets = {"start_positions": ends, "end_positions": ends}
        return [
            float(x)
            for x in KINDS[kind].loss(output, targets, jnp.asarray([1, weight], jnp.float32))
        ]

    assert loss(2, 0.0) == loss(7, 0.0)
    assert loss(2, 1.0) != loss(7, 1.0)
