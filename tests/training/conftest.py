"""A classifier of 1 layer and 16 channels, its tokenizer, and sentences that it can learn."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from flax import nnx
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from ibert_jax.config import IBertConfig
from ibert_jax.models import IBertForSequenceClassification
from ibert_jax.tokenizer import Tokenizer

GOOD = ("good", "fine", "great", "lovely")
BAD = ("bad", "dull", "poor", "awful")
FILL = ("the", "film", "is", "a", "story", "plot", "and", "very", "with", "music")
WORDS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", *GOOD, *BAD, *FILL)


def make_backend() -> Backend:
    backend = Backend(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    return backend


def sentences(count: int, seed: int) -> str:
    """A .tsv: the one judging word of a sentence decides its label."""
    draw = random.Random(seed)
    lines = ["sentence\tlabel"]
    for _ in range(count):
        label = draw.randrange(2)
        words: list[str] = draw.choices(FILL, k=draw.randint(1, 14))
        words.insert(draw.randrange(len(words) + 1), draw.choice((BAD, GOOD)[label]))
        lines.append(f"{' '.join(words)}\t{label}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return Tokenizer(make_backend())


@pytest.fixture(scope="session")
def model_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    config = IBertConfig(
        vocab_size=len(WORDS),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=40,
        id2label={0: "negative", 1: "positive"},
        initializer_range=0.1,
    )
    IBertForSequenceClassification(config, rngs=nnx.Rngs(3)).save_pretrained(directory)
    make_backend().save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="session")
def train_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "train.tsv"
    path.write_text(sentences(400, seed=1))
    return path


@pytest.fixture(scope="session")
def dev_file(train_file: Path) -> Path:
    path = train_file.with_name("dev.tsv")
    path.write_text(sentences(60, seed=2))
    return path
