"""Measures of answers, as GLUE, CoNLL and SQuAD define them; NumPy and SciPy on the host.

All are shares between 0 and 1 (correlations between -1 and 1), but for perplexity.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from ibert_jax.entities import entities


def classification_scores(predicted: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Accuracy, `correct` of `total`, Matthews' correlation, and F1 of class 1.

    predicted, right: integers [N]. The correlation is that of several classes (Gorodkin 2004),
    which for two is Matthews'; 0 where either side has one class only.
    """
    classes = int(max(predicted.max(), right.max())) + 1
    table = np.zeros((classes, classes), np.int64)  # [right, predicted]
    np.add.at(table, (right, predicted), 1)
    hits, total = int(np.trace(table)), int(table.sum())
    truth, said = table.sum(axis=1), table.sum(axis=0)
    # Python integers below: products of three counts outgrow 64 bits on large sets.
    spread = [total**2 - sum(int(n) ** 2 for n in counts) for counts in (truth, said)]
    covariance = hits * total - sum(int(a) * int(b) for a, b in zip(truth, said, strict=True))
    positive = (int(truth[1]) + int(said[1])) if classes > 1 else 0
    return {
        "accuracy": hits / total,
        "correct": hits,
        "total": total,
        "matthews": covariance / (spread[0] * spread[1]) ** 0.5 if all(spread) else 0.0,
        "f1": 2 * int(table[1, 1]) / positive if positive else 0.0,
    }


def correlations(predicted: np.ndarray, right: np.ndarray) -> dict[str, float]:
    """Pearson's and Spearman's correlation of two [N]; 0 where one of them is constant."""
    from scipy import stats

    if not (np.ptp(predicted) and np.ptp(right)):
        return {"pearson": 0.0, "spearman": 0.0}
    found: dict[str, Any] = {
        "pearson": stats.pearsonr(predicted, right),
        "spearman": stats.spearmanr(predicted, right),
    }
    return {name: float(one.statistic) for name, one in found.items()}


def entity_scores(
    predicted: Sequence[Sequence[str]], right: Sequence[Sequence[str]]
) -> dict[str, float]:
    """Precision, recall and F1 of whole entities (as conlleval counts), accuracy of tags.

    predicted, right: tags of sentences, as `entities` understands them.
    """
    said = [{(i, *span) for span in entities(tags)} for i, tags in enumerate(predicted)]
    truth = [{(i, *span) for span in entities(tags)} for i, tags in enumerate(right)]
    hits = sum(len(mine & theirs) for mine, theirs in zip(said, truth, strict=True))
    found, wanted = sum(map(len, said)), sum(map(len, truth))
    tags = [pair for p, r in zip(predicted, right, strict=True) for pair in zip(p, r, strict=True)]
    return {
        "precision": hits / found if found else 0.0,
        "recall": hits / wanted if wanted else 0.0,
        "f1": 2 * hits / (found + wanted) if found + wanted else 0.0,
        "accuracy": sum(mine == theirs for mine, theirs in tags) / len(tags),
    }


def answer_scores(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> dict[str, float]:
    """SQuAD 1.1's exact match and F1: each answer against the best of those that are right."""
    exact, overlap = [], []
    for mine, several in zip(predicted, right, strict=True):
        exact.append(max(float(normalized(mine) == normalized(one)) for one in several))
        overlap.append(max(_overlap(mine, one) for one in several))
    return {"exact_match": float(np.mean(exact)), "f1": float(np.mean(overlap))}


def normalized(answer: str) -> str:
    """In small letters, without punctuation, articles and surplus blanks."""
    bare = "".join(sign for sign in answer.lower() if sign not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def _overlap(mine: str, right: str) -> float:
    """F1 of the words in common."""
    ours, theirs = normalized(mine).split(), normalized(right).split()
    common = sum((Counter(ours) & Counter(theirs)).values())
    return 2 * common / (len(ours) + len(theirs)) if common else 0.0


def masked_scores(answers: Sequence[tuple[float, int, int]]) -> dict[str, float]:
    """Perplexity and accuracy of the tokens that were to be guessed.

    answers: for each text, the sum of -log probability of the right tokens, how many were
    guessed, how many there were.
    """
    loss, hits, count = (float(column) for column in np.sum(np.asarray(answers, np.float64), 0))
    if not count:
        raise ValueError("no token was masked: the text is too short to be evaluated on")
    return {"perplexity": float(np.exp(loss / count)), "accuracy": hits / count}
