"""Made-up reviews for the notebooks: no data, no network, and something to learn in them.

A judgement is a word about a thing ("the plot is clumsy"); "not" and "never" turn it round; after
"but" only the second judgement counts. A model that merely counts words is right in four of five.
"""

from __future__ import annotations

import random

THINGS = ("film", "plot", "ending", "cast", "story", "music", "dialogue", "pacing")
GOOD = ("moving", "funny", "warm", "clever", "gripping", "graceful", "honest", "bright")
BAD = ("clumsy", "dull", "cold", "lazy", "tedious", "noisy", "hollow", "bleak")
DEGREES = ("", "very ", "quite ", "rather ", "simply ")
NEGATIONS = ("not ", "never ")


def reviews(count: int, seed: int) -> tuple[list[str], list[int]]:
    """Texts and their labels, 0 for a bad review and 1 for a good one."""
    rng = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        text, label = _judgement(rng)
        if rng.random() < 0.3:
            second, label = _judgement(rng)
            text = f"{text} but {second}"
        texts.append(text)
        labels.append(label)
    return texts, labels


def _judgement(rng: random.Random) -> tuple[str, int]:
    label, turned = rng.randrange(2), rng.random() < 0.25
    word = rng.choice((BAD, GOOD)[label])
    negation = rng.choice(NEGATIONS) if turned else ""
    text = f"the {rng.choice(THINGS)} is {negation}{rng.choice(DEGREES)}{word}"
    return text, label ^ turned
