"""How sure a difference between two models' answers is."""

from __future__ import annotations

import numpy as np
import pytest

from ibert_jax.training import difference_error, load_task
from ibert_jax.training.examples import TextExample, WordsExample


def test_of_accuracy_it_is_the_error_of_a_mean() -> None:
    random = np.random.default_rng(1)
    examples = [TextExample("x", label=int(label)) for label in random.integers(2, size=500)]
    right = [int(example.label) for example in examples]
    first = [y ^ int(wrong) for y, wrong in zip(right, random.random(500) < 0.3, strict=True)]
    second = [y ^ int(other) for y, other in zip(first, random.random(500) < 0.1, strict=True)]
    gains = np.equal(second, right).astype(float) - np.equal(first, right)
    found = difference_error(first, second, examples, load_task("sst2"), ["0", "1"])
    # The bootstrap's own error is 1 / sqrt(2 x 100 resamples), 7 %; three of them are allowed.
    assert found == pytest.approx(gains.std(ddof=1) / 500**0.5, rel=0.21)


def test_of_what_does_not_differ_it_is_nothing() -> None:
    examples = [WordsExample(("Anna", "sings"), (1, 0)), WordsExample(("all", "sing"), (0, 0))] * 9
    names, answers = ["O", "B-person"], [("B-person", "O"), ("O", "B-person")] * 9
    task = load_task("wnut17")
    assert difference_error(answers, answers, examples, task, names) == 0
    assert difference_error(answers, [("B-person", "O"), ("O", "O")] * 9, examples, task, names) > 0
