"""Text to token ids, with the tokenizer files that lie beside every checkpoint.

`tokenizer.json` is read by the `tokenizers` library directly, which takes milliseconds; older
directories, which have only a vocabulary, go through transformers once. What
`tokenizer_config.json` says of letters and of truncation counts as it does in transformers.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ibert_jax.files import read_json_object, write_through, written_together
from ibert_jax.settings import choice_problem, flag_problem, number_problem, raise_if_any

logger = logging.getLogger(__name__)

# Copied beside a saved model so that other tools find their tokenizer there too.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "sentencepiece.bpe.model",
)

# Any one of these is enough to build a tokenizer from.
_VOCABULARIES = ("tokenizer.json", "vocab.txt", "vocab.json")

# Settings of BERT's tokenizers, and what a normalizer calls them.
_LETTERS = {
    "do_lower_case": "lowercase",
    "strip_accents": "strip_accents",
    "tokenize_chinese_chars": "handle_chinese_chars",
}
# Classes of transformers that leave those to tokenizer.json.
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")


@dataclass(frozen=True)
class Encoding:
    """One tokenized text, special tokens included.

    ids: int32 [T], the token ids. type_ids: int32 [T], 0 for the first text and 1 for the second.
    truncated: whether tokens were cut off to respect the maximum length.
    """

    ids: np.ndarray
    type_ids: np.ndarray
    truncated: bool


@dataclass(frozen=True)
class Stretch(Encoding):
    """A stretch of one tokenized text, special tokens included, that knows where it came from.

    texts: int8 [T], 0 for tokens of the first text, 1 of the second, -1 for special tokens.
    spans: int32 [T, 2], where a token's characters begin and end in its own text.
    words: int32 [T], the number of the token's word in its own text; -1 for special tokens.
    first: how many tokens of the text that is cut into stretches lie before this stretch.
    truncated: whether anything of the texts is in no stretch.
    """

    texts: np.ndarray
    spans: np.ndarray
    words: np.ndarray
    first: int


MASKS = ("[MASK]", "<mask>")
"""What the supported models' tokenizers call the token to be filled in."""
PADDINGS = ("[PAD]", "<pad>")
"""What they call the one that stands behind short texts."""


class Tokenizer:
    """A tokenizer read from a model directory. Threads may share it.

    backend: the `tokenizers.Tokenizer`; its stored padding and truncation are switched off, so that
        both are decided by the caller. directory: where its files lie, for `save`.

    As `load` finds them in tokenizer_config.json:
    truncation_side: "right" or "left", where texts are cut that are too long.
    model_max_length: tokens that a `Predictor` cuts texts to unless told otherwise; None, as many
        as the model takes.
    """

    def __init__(self, backend: Any, directory: str | Path | None = None) -> None:
        backend.no_padding()
        backend.no_truncation()
        self.backend = backend
        self._lock = threading.Lock()  # truncation is a setting of the backend, not of a call
        self.directory = None if directory is None else Path(directory)
        self.truncation_side = "right"
        self.model_max_length: int | None = None
        self._paddings = PADDINGS

    @classmethod
    def load(cls, directory: str | Path) -> Tokenizer:
        """Read the tokenizer of a model directory, or of a model of the Hugging Face hub.

        Raises FileNotFoundError where the directory holds no tokenizer file, ValueError where a
        file cannot be understood.
        """
        from ibert_jax.checkpoints import locate

        directory = locate(directory)
        if not any((directory / name).is_file() for name in _VOCABULARIES):
            raise FileNotFoundError(_none_found(directory))
        settings = _read_settings(directory / "tokenizer_config.json")
        path = directory / "tokenizer.json"
        if path.is_file():
            backend = _read_json(path)
            _set_letters(backend, settings, path)
        else:
            backend = _read_with_transformers(directory)
        stored = (backend.truncation or {}).get("direction", "right")
        tokenizer = cls(backend, directory)
        tokenizer.truncation_side = settings.get("truncation_side") or stored
        longest = settings.get("model_max_length")  # often 1e30, for as many as there may be
        tokenizer.model_max_length = None if longest is None else int(longest)
        padding = settings.get("pad_token")
        padding = padding.get("content") if isinstance(padding, dict) else padding
        if isinstance(padding, str):
            tokenizer._paddings = (padding, *PADDINGS)
        return tokenizer

    @property
    def vocab_size(self) -> int:
        """One more than the largest token id that this tokenizer can produce."""
        return max(self.backend.get_vocab(with_added_tokens=True).values(), default=-1) + 1

    def encode(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int | None = None,
        special_tokens: bool = True,
    ) -> list[Encoding]:
        """Tokenize texts, or pairs of texts, cutting each to at most `max_length` tokens.

        special_tokens: whether with those that stand before and behind a text.

        Raises TypeError for a text that is not a string and ValueError for one that is not Unicode
        (a lone surrogate, as undecodable bytes on a command line become), or where `max_length`
        leaves no room beside the special tokens.
        """
        _check_texts(texts, "texts")
        inputs: list[Any] = list(texts)
        if pairs is not None:
            _check_texts(pairs, "pairs")
            inputs = list(zip(texts, pairs, strict=True))
        if max_length is not None:
            self._room(max_length, pairs is not None)
        with self._lock:
            if max_length is None:
                self.backend.no_truncation()
            else:
                self.backend.enable_truncation(max_length, direction=self.truncation_side)
            encodings = self.backend.encode_batch(inputs, add_special_tokens=special_tokens)
        return [
            Encoding(
                ids=np.asarray(encoding.ids, np.int32),
                type_ids=np.asarray(encoding.type_ids, np.int32),
                truncated=bool(encoding.overflowing),
            )
            for encoding in encodings
        ]

    def stretches(
        self,
        texts: Sequence[str],
        pairs: Sequence[str] | None = None,
        *,
        max_length: int,
        overlap: int | None,
    ) -> list[list[Stretch]]:
        """Tokenize texts, or pairs of texts, into stretches of at most `max_length` tokens each.

        A text is cut into as many as it takes, `overlap` tokens of one repeated in the next (a
        third of a stretch's room, where that is less); None keeps one alone, the first or, where
        texts are cut on the left, the last. Of a pair the second text is cut so, and each stretch
        begins with the first text, of which at most half of the length is kept.

        Raises TypeError and ValueError as `encode`, and ValueError where `max_length` leaves no
        room beside the special tokens.
        """
        _check_texts(texts, "texts")
        if pairs is not None:
            _check_texts(pairs, "pairs")
        room = self._room(max_length, pairs is not None)
        with self._lock:
            self.backend.no_truncation()
            firsts = self.backend.encode_batch(list(texts), add_special_tokens=False)
            if pairs is None:
                return [self._cut(None, first, room, overlap) for first in firsts]
            seconds = self.backend.encode_batch(list(pairs), add_special_tokens=False)
            return [
                self._cut(first, second, room, overlap)
                for first, second in zip(firsts, seconds, strict=True)
            ]

    def _room(self, max_length: int, paired: bool) -> int:
        """The tokens of text that `max_length` leaves room for; at least one of each text."""
        room = max_length - self.backend.num_special_tokens_to_add(paired)
        if room < (2 if paired else 1):
            raise ValueError(
                f"expected a max_length that leaves room for text, got {max_length}, of which "
                f"{max_length - room} are special tokens"
            )
        return room

    def _cut(self, head: Any, body: Any, room: int, overlap: int | None) -> list[Stretch]:
        """The stretches of a tokenized text `body`, each after the text `head` if there is one."""
        lost = False
        if head is not None:
            lost = len(head.ids) > room // 2
            head.truncate(room // 2, direction=self.truncation_side)
            room -= len(head.ids)
        before = [] if head is None else [head]
        if overlap is None:
            over = max(len(body.ids) - room, 0)
            body.truncate(room, direction=self.truncation_side)
            first = over if self.truncation_side == "left" else 0
            return [self._stretch([*before, body], first, lost or over > 0)]
        repeated = min(overlap, room // 3)
        body.truncate(room, stride=repeated)
        return [
            self._stretch([*before, piece], index * (room - repeated), lost)
            for index, piece in enumerate([body, *body.overflowing])
        ]

    def _stretch(self, parts: Sequence[Any], first: int, truncated: bool) -> Stretch:
        """The tokenized texts `parts`, one or a pair, with the special tokens around them."""
        whole = self.backend.post_process(*parts)
        # Where a token came from, the parts say: a processor that trims white space off a token's
        # characters has done so to each part already, and takes off as much once more.
        own = np.flatnonzero(np.asarray(whole.special_tokens_mask) == 0)
        texts, words = np.full((2, len(whole.ids)), -1, np.int32)
        spans = np.zeros((len(whole.ids), 2), np.int32)
        texts[own] = np.repeat(np.arange(len(parts)), [len(part.ids) for part in parts])
        spans[own] = np.reshape([span for part in parts for span in part.offsets], (-1, 2))
        words[own] = [-1 if word is None else word for part in parts for word in part.word_ids]
        return Stretch(
            ids=np.asarray(whole.ids, np.int32),
            type_ids=np.asarray(whole.type_ids, np.int32),
            truncated=truncated,
            texts=texts.astype(np.int8),
            spans=spans,
            words=words,
            first=first,
        )

    @property
    def mask_token(self) -> tuple[str, int] | None:
        """The token to be filled in by a masked language model, with its id; None without one."""
        return self._first_of(MASKS)

    def check_padding(self, pad_token_id: int) -> None:
        """Refuse a model's `pad_token_id` that is another token than one to pad with.

        The model counts positions from it and passes over it: a word's id shifts all behind it.

        Raises ValueError.
        """
        padding = self._first_of(self._paddings)
        token = self.backend.id_to_token(pad_token_id)
        if padding is not None and token is not None and token not in self._paddings:
            raise ValueError(
                f"expected the model's pad_token_id to be that of its tokenizer, {padding[1]} "
                f"({padding[0]}), got {pad_token_id} ({token}), from which positions would be "
                "counted; take config.json and tokenizer of one checkpoint, or mend pad_token_id"
            )

    def _first_of(self, names: Sequence[str]) -> tuple[str, int] | None:
        """The first of these tokens that there is, with its id."""
        numbers = ((name, self.backend.token_to_id(name)) for name in names)
        return next(((name, number) for name, number in numbers if number is not None), None)

    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        """The text of token ids."""
        numbers = [int(number) for number in ids]
        return self.backend.decode(numbers, skip_special_tokens=skip_special_tokens)

    def save(self, directory: str | Path) -> None:
        """Write the tokenizer's files into a model directory, in place of those of another."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        text = None
        if self.directory is None or not (self.directory / "tokenizer.json").is_file():
            self.backend.no_truncation()
            text = self.backend.to_str(pretty=True)
        elif self.directory.resolve() == directory.resolve():
            return  # they are there
        copy_tokenizer_files(self.directory, directory, text)


def copy_tokenizer_files(source: Path | None, directory: Path, text: str | None = None) -> None:
    """Let a directory hold the tokenizer's files that another one holds, and no others.

    text: of a ``tokenizer.json``, where the other one has none.
    """
    contents: dict[str, bytes | str] = {} if text is None else {"tokenizer.json": text}
    for name in TOKENIZER_FILES:
        if source is not None and (source / name).is_file():
            contents[name] = (source / name).read_bytes()
    with written_together([directory / name for name in TOKENIZER_FILES]) as temporary:
        for name, content in contents.items():
            write_through(temporary, directory / name, content)


def check_text(text: Any, name: str) -> None:
    """Refuse what is no text.

    Raises TypeError for what is not a string, ValueError for what is not Unicode.
    """
    if not isinstance(text, str):
        raise TypeError(f"expected {name} to be a string, got {type(text).__name__}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError(
            f"expected {name} to be Unicode text, got bytes that are not UTF-8 in it; "
            "convert its source to UTF-8"
        ) from None


def _check_texts(texts: Sequence[str], name: str) -> None:
    """Refuse what the tokenizers library would refuse without saying which text it means."""
    if isinstance(texts, str):
        raise TypeError(
            f"expected {name} to be a list of strings, got one string; put it in a list"
        )
    for index, text in enumerate(texts):
        check_text(text, f"{name}[{index}]")


def _none_found(directory: Path) -> str:
    """What to say of a folder with none of the vocabularies; a sentencepiece model is not read."""
    pieces = sorted(path.name for path in directory.glob("*.model"))
    if pieces:
        return (
            f"expected tokenizer.json in {directory}, found {pieces[0]}, a sentencepiece model, "
            "alone; make it once, where transformers and sentencepiece are installed: "
            f"AutoTokenizer.from_pretrained({str(directory)!r}).save_pretrained({str(directory)!r})"
        )
    return (
        f"expected a tokenizer in {directory}, found none of {', '.join(_VOCABULARIES)}; "
        "copy the tokenizer files of the original checkpoint there"
    )


def _read_settings(path: Path) -> dict[str, Any]:
    """What a tokenizer_config.json says; nothing where there is none.

    Raises ValueError for what would count and makes no sense.
    """
    if not path.is_file():
        return {}
    settings = read_json_object(path)
    side, longest = settings.get("truncation_side"), settings.get("model_max_length")
    problems = [
        flag_problem(name, settings[name])
        for name in _LETTERS
        if name in settings and (name, settings[name]) != ("strip_accents", None)
    ]
    if side is not None:
        problems.append(choice_problem("truncation_side", side, ("right", "left")))
    if longest is not None:
        problems.append(number_problem("model_max_length", longest, 3, math.inf, float))
    raise_if_any(str(path), problems)
    return settings


def _set_letters(backend: Any, settings: Mapping[str, Any], path: Path) -> None:
    """Let what tokenizer_config.json says of a BERT's letters replace what tokenizer.json does."""
    from tokenizers.normalizers import BertNormalizer

    normalizer = backend.normalizer
    if not isinstance(normalizer, BertNormalizer) or settings.get("tokenizer_class") in _GENERIC:
        return
    for name, attribute in _LETTERS.items():
        stored = getattr(normalizer, attribute)
        given = settings.get(name, stored)
        if given != stored:
            logger.warning(
                "tokenizer_config.json has %s %s, %s %s; the former counts, as in transformers",
                name, given, path, stored,
            )  # fmt: skip
            setattr(normalizer, attribute, given)


def _read_json(path: Path) -> Any:
    from tokenizers import Tokenizer as Backend

    try:
        return Backend.from_file(str(path))
    except Exception as error:  # the library raises bare Exception for whatever it cannot read
        raise ValueError(
            f"expected a tokenizer in {path}, could not read it ({error}); copy the file again"
        ) from None


def _read_with_transformers(directory: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        loaded = AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # of many kinds: no config, a broken vocabulary, a missing parser
        raise ValueError(
            f"expected transformers to read the tokenizer in {directory}, it said: {error}"
        ) from None
    backend = getattr(loaded, "backend_tokenizer", None)
    if backend is None:
        raise ValueError(
            f"expected a fast tokenizer in {directory}, got {type(loaded).__name__}; "
            "save it once as tokenizer.json with transformers"
        )
    _check_size(backend, directory)
    return backend


def _check_size(backend: Any, directory: Path) -> None:
    """Refuse a tokenizer of another kind than the vocabulary, which transformers leaves empty."""
    words = directory / "vocab.txt"
    if words.is_file():
        lines = words.read_text(encoding="utf-8").split("\n")  # and at no other sign
        count = len({line.rstrip("\r") for line in lines} - {""})
        if backend.get_vocab_size() < count:
            raise ValueError(
                f"expected the {count} entries of {words} in its tokenizer, transformers made one "
                f"of {backend.get_vocab_size()}; set tokenizer_class (such as BertTokenizer) in "
                "tokenizer_config.json, or copy the original tokenizer.json there"
            )
