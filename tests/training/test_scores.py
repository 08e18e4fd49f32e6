"""Measures against cases computed by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from ibert_jax.training.scores import (
    answer_scores,
    classification_scores,
    correlations,
    entities,
    entity_scores,
    masked_scores,
    normalized,
)


def test_classification_by_hand() -> None:
    """6 true positives, 1 false positive, 2 false negatives, 3 true negatives."""
    predicted = np.asarray([1] * 6 + [1] + [0] * 2 + [0] * 3)
    right = np.asarray([1] * 6 + [0] + [1] * 2 + [0] * 3)
    found = classification_scores(predicted, right)
    assert (found["correct"], found["total"]) == (9, 12)
    assert found["accuracy"] == 0.75
    assert found["f1"] == pytest.approx(2 * 6 / (2 * 6 + 1 + 2))
    assert found["matthews"] == pytest.approx((6 * 3 - 1 * 2) / math.sqrt(7 * 8 * 4 * 5))


def test_several_classes_and_one() -> None:
    """Gorodkin's formula from its covariances, over indicator vectors."""
    predicted, right = np.asarray([0, 1, 2, 2, 1, 0]), np.asarray([0, 1, 2, 1, 1, 2])
    x, y = np.eye(3)[predicted], np.eye(3)[right]
    x, y = x - x.mean(0), y - y.mean(0)
    expected = np.sum(x * y) / math.sqrt(np.sum(x * x) * np.sum(y * y))
    assert classification_scores(predicted, right)["matthews"] == pytest.approx(expected)
    same = classification_scores(np.zeros(3, int), np.zeros(3, int))
    assert (same["accuracy"], same["matthews"], same["f1"]) == (1, 0, 0)


def test_correlations_by_hand() -> None:
    found = correlations(np.asarray([1.0, 2.0, 3.0, 4.0]), np.asarray([1.0, 2.0, 4.0, 3.0]))
    assert found["pearson"] == pytest.approx(0.8)
    assert found["spearman"] == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert correlations(np.ones(3), np.arange(3.0)) == {"pearson": 0, "spearman": 0}


@pytest.mark.parametrize(
    ("tags", "spans"),
    [
        ("O B-a I-a O", [("a", 1, 3)]),
        ("B-a B-a", [("a", 0, 1), ("a", 1, 2)]),
        ("B-a I-b", [("a", 0, 1), ("b", 1, 2)]),
        ("I-a I-a O I-a", [("a", 0, 2), ("a", 3, 4)]),
        ("O O", []),
        ("B-creative-work I-creative-work", [("creative-work", 0, 2)]),
        ("S-a B-a E-a I-a", [("a", 0, 1), ("a", 1, 3), ("a", 3, 4)]),
        ("U-a B-b I-b L-b", [("a", 0, 1), ("b", 1, 4)]),
        ("B I O B B I-a", [("", 0, 2), ("", 3, 4), ("", 4, 5), ("a", 5, 6)]),
        ("a a b O", [("a", 0, 2), ("b", 2, 3)]),
    ],
)
def test_entities(tags: str, spans: list[tuple[str, int, int]]) -> None:
    assert entities(tags.split()) == spans


def test_entities_count_whole() -> None:
    """2 of 3 that were said are right, 2 of 4 that there are were said."""
    right = [["B-a", "I-a", "O", "B-b"], ["B-a", "O", "B-b"]]
    said = [["B-a", "I-a", "O", "O"], ["B-a", "I-a", "B-b"]]
    found = entity_scores(said, right)
    assert Counter(tag for tags in right for tag in entities(tags)).total() == 4
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 4)
    assert found["f1"] == pytest.approx(4 / 7)
    assert found["accuracy"] == pytest.approx(5 / 7)
    assert entity_scores([["O"]], [["O"]])["f1"] == 0


def test_answers_as_squad_compares_them() -> None:
    assert normalized("The  U.S. Army, a force!") == "us army force"
    said = ["the Army", "in 1999", "", "nowhere"]
    right = [["army", "navy"], ["1999"], ["x"], ["an elephant"]]
    found = answer_scores(said, right)
    assert found["exact_match"] == 1 / 4
    assert found["f1"] == pytest.approx((1 + 2 / 3) / 4)


def test_perplexity() -> None:
    found = masked_scores([(math.log(8.0), 1, 2), (math.log(2.0), 1, 2)])
    assert found["perplexity"] == pytest.approx(2.0)
    assert found["accuracy"] == 0.5
    with pytest.raises(ValueError, match="too short"):
        masked_scores([(0.0, 0, 0)])
