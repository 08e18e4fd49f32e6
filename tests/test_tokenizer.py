"""Tokenizers are read from either kind of file, and refuse in a sentence what they cannot read."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Backend
from tokenizers.models import BPE, WordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer, ByteLevel
from tokenizers.processors import RobertaProcessing, TemplateProcessing
from transformers import AutoTokenizer

from ibert_jax.config import IBertConfig
from ibert_jax.tokenizer import Tokenizer

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "film", "##s", "!")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A BERT-like tokenizer.json, stored with padding and truncation switched on."""
    backend = Backend(WordPiece({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.normalizer = BertNormalizer(lowercase=True)
    backend.pre_tokenizer = BertPreTokenizer()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    backend.enable_padding(length=32)
    backend.enable_truncation(5)
    backend.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def test_encode(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    one, two = tokenizer.encode(["Good films!", "dreadful"])
    np.testing.assert_array_equal(one.ids, [2, 5, 7, 8, 9, 3])
    np.testing.assert_array_equal(two.ids, [2, 1, 3])
    assert one.ids.dtype == np.int32
    assert not one.truncated
    assert tokenizer.vocab_size == len(WORDS)
    (bare,) = tokenizer.encode(["Good films!"], special_tokens=False)
    np.testing.assert_array_equal(bare.ids, one.ids[1:-1])


def test_truncation_belongs_to_the_call(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    (cut,) = tokenizer.encode(["good good good"], max_length=4)
    np.testing.assert_array_equal(cut.ids, [2, 5, 5, 3])
    assert cut.truncated
    (whole,) = tokenizer.encode(["good good good"])
    assert (len(whole.ids), whole.truncated) == (5, False)


def test_pairs(directory: Path) -> None:
    (pair,) = Tokenizer.load(directory).encode(["good film"], ["bad"])
    np.testing.assert_array_equal(pair.ids, [2, 5, 7, 3, 6, 3])
    np.testing.assert_array_equal(pair.type_ids, [0, 0, 0, 0, 1, 1])


def test_stretches_say_where_every_token_is(directory: Path) -> None:
    """As the tokenizers library says of the whole text, also where it trims white space."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "Ad", "Ada", "ĠAda"]
    merges = [("A", "d"), ("Ad", "a"), ("Ġ", "Ada")]
    bytewise = Backend(BPE({word: i for i, word in enumerate(words)}, merges))
    bytewise.pre_tokenizer = ByteLevel(add_prefix_space=False)
    bytewise.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0))
    text, other = "Ada,  is Ada & I", "  good films of Ada"
    for tokenizer in (Tokenizer(bytewise), Tokenizer.load(directory)):
        for texts in ([text], [text, other]):
            whole = tokenizer.backend.encode(*texts)
            firsts, *seconds = ([each] for each in texts)
            ((stretch,),) = tokenizer.stretches(firsts, *seconds, max_length=64, overlap=2)
            own = np.array(whole.special_tokens_mask) == 0
            assert stretch.ids.tolist() == whole.ids
            assert stretch.spans[own].tolist() == np.array(whole.offsets)[own].tolist()
            assert stretch.words[own].tolist() == np.array(whole.word_ids)[own].tolist()
            counts = [len(tokenizer.backend.encode(t, add_special_tokens=False)) for t in texts]
            assert stretch.texts[own].tolist() == np.repeat(range(len(texts)), counts).tolist()
            assert (stretch.texts[~own] == -1).all()


def test_vocabulary_alone_gives_the_same_ids(directory: Path, tmp_path: Path) -> None:
    older = tmp_path / "older"
    older.mkdir()
    (older / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (older / "config.json").write_text('{"model_type": "bert"}')
    texts = ["Good films!", "unknown, bad"]
    expected = [e.ids.tolist() for e in Tokenizer.load(directory).encode(texts)]
    assert [e.ids.tolist() for e in Tokenizer.load(older).encode(texts)] == expected


def test_a_tokenizer_of_another_kind_than_its_vocabulary(tmp_path: Path) -> None:
    """transformers takes a model type it does not know for RoBERTa's, and leaves that empty."""
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    (tmp_path / "config.json").write_text('{"model_type": "ibert"}')
    with pytest.raises(ValueError, match=r"expected the 10 entries of .*set tokenizer_class"):
        Tokenizer.load(tmp_path)
    config = IBertConfig.from_dict({"model_type": "bert"})
    config.save(tmp_path / "config.json")
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDS, "a\u2028b", "bad"]) + "\n\n\n")
    assert Tokenizer.load(tmp_path).encode(["good film"])[0].ids.tolist() == [2, 5, 7, 3]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"do_lower_case": False}, True),
        ({"do_lower_case": True, "strip_accents": None}, False),
        ({"strip_accents": False}, True),
        ({"do_lower_case": False, "tokenizer_class": "PreTrainedTokenizerFast"}, False),
        ({"truncation_side": "left"}, False),
        ({"model_max_length": 4}, False),
    ],
    ids=str,
)
def test_settings_count_as_in_transformers(
    directory: Path, settings: dict[str, Any], told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    (directory / "config.json").write_text('{"model_type": "bert"}')
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    tokenizer = Tokenizer.load(directory)
    assert ("the former counts" in caplog.text) == told
    theirs = AutoTokenizer.from_pretrained(directory)
    one, two = "Good bad film! göod", "film films bad"
    for pair in ((one,), (one, two)):
        texts = [[text] for text in pair]
        for length in (6, 64):
            (ours,) = tokenizer.encode(*texts, max_length=length)
            assert ours.ids.tolist() == theirs(*pair, truncation=True, max_length=length).input_ids
    if tokenizer.model_max_length is not None:
        (ours,) = tokenizer.encode([one], max_length=tokenizer.model_max_length)
        assert ours.ids.tolist() == theirs(one, truncation=True).input_ids


def test_what_is_cut_on_the_left(directory: Path) -> None:
    """Of a pair's texts, and in the one stretch that is kept; several leave nothing out."""
    backend = Backend.from_file(str(directory / "tokenizer.json"))
    backend.enable_truncation(5, direction="left")
    backend.save(str(directory / "tokenizer.json"))
    tokenizer = Tokenizer.load(directory)
    text = "good bad films good !"
    ((kept,),) = tokenizer.stretches([text], max_length=5, overlap=None)
    assert (kept.ids.tolist(), kept.first, kept.truncated) == ([2, 8, 5, 9, 3], 3, True)
    assert [text[start:end] for start, end in kept.spans[1:-1]] == ["s", "good", "!"]
    ((whole,),) = tokenizer.stretches([text], max_length=8, overlap=None)
    assert (len(whole.ids), whole.first, whole.truncated) == (8, 0, False)
    ((first, *_, last),) = tokenizer.stretches([text], [text], max_length=8, overlap=1)
    assert first.ids.tolist() == [2, 5, 9, 3, 5, 6, 7, 3]
    assert last.ids.tolist()[-3:] == [5, 9, 3]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_lower_case": "no"}, "do_lower_case must be True or False, got 'no'"),
        ({"truncation_side": "top"}, "truncation_side must be one of right, left, got 'top'"),
        ({"model_max_length": "512"}, "model_max_length must be a number, got '512'"),
    ],
)
def test_settings_that_make_no_sense(
    directory: Path, settings: dict[str, Any], message: str
) -> None:
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    with pytest.raises(ValueError, match=rf"tokenizer_config.json: {message}"):
        Tokenizer.load(directory)


def test_what_the_model_pads_with(directory: Path) -> None:
    """Never a word, whose positions would be missing; whatever stands for padding will do."""
    refused = r"that of its tokenizer, 0 \(\[PAD\]\), got 5 \(good\).*config.json"
    with pytest.raises(ValueError, match=refused):
        Tokenizer.load(directory).check_padding(5)
    for own in (0, len(WORDS)):  # an id that no text can have does no harm
        Tokenizer.load(directory).check_padding(own)
    for stated in ("good", {"content": "good", "special": True}):
        (directory / "tokenizer_config.json").write_text(json.dumps({"pad_token": stated}))
        for own in (0, 5):
            Tokenizer.load(directory).check_padding(own)
    Tokenizer(Backend(WordPiece({"good": 0}))).check_padding(0)  # who knows?


def test_no_room_for_text(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    for pairs, length in ((None, 2), (["bad"], 4)):
        with pytest.raises(ValueError, match=f"leaves room for text, got {length}, of which"):
            tokenizer.encode(["good"], pairs, max_length=length)
        assert len(tokenizer.encode(["good"], pairs, max_length=length + 1)[0].ids) == length + 1


def test_save_then_load(directory: Path, tmp_path: Path) -> None:
    (directory / "tokenizer_config.json").write_text('{"model_max_length": 32}')
    tokenizer = Tokenizer.load(directory)
    copy = tmp_path / "copy"
    tokenizer.encode(["good"], max_length=3)  # leaves its truncation behind in the backend
    tokenizer.save(copy)
    assert sorted(path.name for path in copy.iterdir()) == [
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    again = Tokenizer.load(copy)
    text = ["good bad films ! ! !"]
    assert again.encode(text)[0].ids.tolist() == tokenizer.encode(text)[0].ids.tolist()
    tokenizer.save(directory)  # onto itself: nothing to copy, nothing lost
    assert (directory / "tokenizer.json").stat().st_size > 0


def test_a_save_that_fails_leaves_the_tokenizer_that_was_there(
    directory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "kept"
    Tokenizer.load(directory).save(kept)
    before = {path.name: path.read_bytes() for path in kept.iterdir()}

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="full"):
        Tokenizer(Backend(BPE())).save(kept)
    assert {path.name: path.read_bytes() for path in kept.iterdir()} == before


def test_refusals(directory: Path, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(FileNotFoundError, match=r"expected a tokenizer in .*empty.*copy"):
        Tokenizer.load(empty)
    with pytest.raises(FileNotFoundError, match="is not a directory"):
        Tokenizer.load(tmp_path / "absent")
    whole = (directory / "tokenizer.json").read_text()
    (empty / "tokenizer.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"could not read it.*copy the file again"):
        Tokenizer.load(empty)


@pytest.mark.parametrize("name", ["sentencepiece.bpe.model", "spiece.model"])
def test_a_sentencepiece_model_alone(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\n\x0e\n\x05<unk>")
    (tmp_path / "config.json").write_text('{"model_type": "xlm-roberta"}')
    with pytest.raises(FileNotFoundError, match=r"expected tokenizer.json in .*save_pretrained\("):
        Tokenizer.load(tmp_path)


def test_refuses_what_is_not_text(directory: Path) -> None:
    tokenizer = Tokenizer.load(directory)
    with pytest.raises(TypeError, match="one string"):
        tokenizer.encode("good")
    with pytest.raises(TypeError, match=r"texts\[1\] to be a string, got int"):
        tokenizer.encode(["good", 3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"texts\[0\] to be Unicode"):
        tokenizer.encode(["bad \udcff"])


def test_saving_replaces_another_tokenizer(directory: Path, tmp_path: Path) -> None:
    """Of two kinds of file in a folder one would win, and not always the one written last."""
    old, new = tmp_path / "old", tmp_path / "new"
    new.mkdir()
    (new / "vocab.txt").write_text("\n".join(reversed(WORDS)) + "\n")
    (new / "config.json").write_text('{"model_type": "bert"}')
    want = Tokenizer.load(new).encode(["good film"])[0].ids
    Tokenizer.load(directory).save(old)
    (old / "mine.txt").touch()
    Tokenizer.load(new).save(old)
    (old / "config.json").write_text('{"model_type": "bert"}')
    np.testing.assert_array_equal(Tokenizer.load(old).encode(["good film"])[0].ids, want)
    assert (old / "mine.txt").is_file()
    assert (old / "vocab.txt").is_file()
