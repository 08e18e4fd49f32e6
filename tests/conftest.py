"""Every test runs under JAX's strictest promotion rules and without a network."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Read by the libraries when they are imported, hence before any of them.
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["IBERT_JAX_CACHE"] = "off"  # no test depends on what an earlier run compiled

import jax

# An int that silently becomes a float is this project's main enemy.
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse every connection that would leave this machine, so that no test can depend on one."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if inet and address[0] not in ("127.0.0.1", "::1", "localhost"):
            raise RuntimeError(f"a test tried to reach {address[0]}: tests use no network")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", refuse)
        yield


@pytest.fixture(scope="module")
def unoptimized() -> Iterator[None]:
    """Let XLA compile in half the time: for tests of what is computed, not of how fast or fused.

    Of what is compiled from here on; integers are the same, floats may round otherwise.
    """
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(params=[True, False], ids=["vectorized", "not-vectorized"])
def vectorized(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[bool]:
    """Processors with vector instructions for uint8 by int8 products, and others."""
    from ibert_jax.integer import mixed

    if jax.default_backend() != "cpu":
        pytest.skip("a matter of the CPU backend's lowering")
    monkeypatch.setattr(mixed, "vectorized", lambda: request.param)
    jax.clear_caches()  # what was lowered for this processor
    yield request.param
    jax.clear_caches()


WORDS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", "good", "bad", "film", "very")
"""The vocabulary of `tiny_checkpoint`; the position is the id."""


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny random classifier, float, and its tokenizer; not to be changed."""
    from flax import nnx
    from tokenizers import Tokenizer as Backend
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    from ibert_jax.config import IBertConfig
    from ibert_jax.models import IBertForSequenceClassification

    directory = tmp_path_factory.mktemp("tiny") / "checkpoint"
    config = IBertConfig(
        vocab_size=len(WORDS),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=34,
        initializer_range=0.3,
        id2label={0: "negative", 1: "positive"},
    )
    IBertForSequenceClassification(config, rngs=nnx.Rngs(0)).save_pretrained(directory)
    backend = Backend(
        WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    backend.save(str(directory / "tokenizer.json"))
    return directory
