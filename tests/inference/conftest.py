"""A model small enough to reason about: its logits count two words."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing

from ibert_jax.config import IBertConfig
from ibert_jax.inference import Predictor, Progress, Source, predict_file
from ibert_jax.inference.price import Price
from ibert_jax.tokenizer import Tokenizer

WORDS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "good", "bad", "film", "very")


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class CountingProgram:
    """Stands where an `IntegerModel` does: logits are how often "bad" and "good" were said.

    Only tokens that the mask admits are counted, so wrong padding changes the answer.
    """

    weights: jax.Array
    config: IBertConfig = field(metadata={"static": True})

    def __call__(
        self, input_ids: Any, *, attention_mask: Any, token_type_ids: Any, return_dict: Any
    ) -> Any:
        del token_type_ids, return_dict
        ids = jnp.asarray(input_ids)
        hits = (ids[:, :, None] == self.weights[None, None, :]) & (attention_mask[:, :, None] == 1)
        return SimpleNamespace(logits=jnp.sum(hits, axis=1).astype(jnp.float32))


def make_config(**changes: Any) -> IBertConfig:
    """The configuration of `CountingProgram`: 50 positions, of which 48 are usable."""
    values: dict[str, Any] = {
        "vocab_size": len(WORDS),
        "hidden_size": 8,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "max_position_embeddings": 50,
        "id2label": {0: "negative", 1: "positive"},
    }
    return IBertConfig(**{**values, **changes})


@pytest.fixture
def program() -> CountingProgram:
    return CountingProgram(jnp.asarray([5, 4], jnp.int32), make_config())


def never_compile_more(predictor: Predictor) -> None:
    """Let computing cost next to nothing: no closer length pays, however busy the machine is."""
    predictor._engine._price.computed(10**9, 1e-6)


def priced_at(tokens: float) -> Price:
    """A program costs as much as computing so many tokens."""
    price = Price()
    price.compiled(tokens or 1e-9)
    price.computed(1, 1.0)
    return price


@pytest.fixture
def tokenizer_directory(tmp_path: Path) -> Path:
    """A directory with a word-level tokenizer.json, stored with padding and truncation on."""
    backend = Backend(
        WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 2)],
    )
    backend.enable_padding(length=64)
    backend.enable_truncation(4)
    directory = tmp_path / "tokenizer"
    directory.mkdir()
    backend.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture
def tokenizer(tokenizer_directory: Path) -> Tokenizer:
    return Tokenizer.load(tokenizer_directory)


class Killed(BaseException):
    """What kill -9 is to a process, to a test."""


OPEN_FILES = Path("/proc/self/fd")
BAD = {5: "", 17: "caf\udce9", 90: " \t "}  # by line


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Some hundred lines, three of them bad."""
    path = tmp_path / "rows.txt"
    texts = [BAD.get(n, "good " * (n % 9) + "bad " * (n % 4) + "film") for n in range(1, 151)]
    path.write_bytes("".join(text + "\n" for text in texts).encode(errors="surrogateescape"))
    return path


@pytest.fixture
def predictor(program: CountingProgram, tokenizer: Tokenizer) -> Predictor:
    """Its windows are of 32 rows."""
    return Predictor(program, tokenizer, batch_size=1)


def run_job(predictor: Predictor, rows: Path, output: Path, **options: Any) -> Progress:
    return predict_file(predictor, Source(rows), output, **options)
