"""Objects out of one JSON document, a piece at a time: a list of them, or SQuAD's nesting."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from typing import Any, Protocol

from ibert_jax.lines import LONGEST_LINE

LONGEST_VALUE = 2**24
"""Characters of one object of a document, an article of SQuAD's with all its questions, say."""

_BLANKS = re.compile(r"[ \t\r\n]*")
_DATA = re.compile(rb'"data"\s*:\s*\[')
_DECODER = json.JSONDecoder()


class Stream(Protocol):
    """What lines of bytes are read from."""

    def readline(self, size: int, /) -> bytes: ...


def sniff(stream: Stream) -> tuple[bool, Stream]:
    """Whether JSON is one document, not an object a line; and the stream from its start."""
    read = [stream.readline(LONGEST_LINE + 1)]
    while read[-1] and not read[-1].strip():
        read.append(stream.readline(LONGEST_LINE + 1))
    return _begins_document(read[-1]), _Again(read, stream)


def _begins_document(line: bytes) -> bool:
    text = line.removeprefix(codecs.BOM_UTF8).strip().decode(errors="replace")
    if not text.startswith("{"):
        return text.startswith("[")
    if len(line) > LONGEST_LINE:
        return _DATA.search(line) is not None
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:  # one that goes on in the next line has no other fault
        return error.pos >= len(text)
    except RecursionError:
        return False
    data = found.get("data")
    if data == []:
        return found.keys() <= {"data", "version"}  # of SQuAD's, without an article
    return isinstance(data, list) and all(isinstance(item, dict) for item in data)


class _Again:
    """A stream of which some lines have been read, from its start."""

    def __init__(self, read: list[bytes], stream: Stream) -> None:
        self._read, self._stream = read, stream

    def readline(self, size: int, /) -> bytes:
        if not self._read:
            return self._stream.readline(size)
        line, rest = self._read[0][:size], self._read[0][size:]
        self._read[:1] = [rest] if rest else []
        return line


def read_objects(stream: Stream, name: str) -> Iterator[dict[str, Any]]:
    """The objects of a list, of the list `data` of an object, or of SQuAD's nesting in either.

    Of the nesting (`paragraphs`, `qas`) each question becomes an object, with what its paragraph
    and its article say. name: what to call the stream in an error.

    Raises ValueError: not UTF-8, not JSON, cut short, of another shape, or an object of more than
    `LONGEST_VALUE` characters.
    """
    text = _Text(stream, name)
    if text.take("[{") == "[":
        yield from _listed(text)
    else:
        found = False
        more = text.peek() != "}"
        if not more:
            text.take("}")
        while more:
            key = text.value()
            text.take(":")
            if key == "data" and text.peek() == "[":
                text.take("[")
                yield from _listed(text)
                found = True
            else:
                text.value()
            more = text.take(",}") == ","
        if not found:
            raise _misshapen(name)
    if text.peek():
        raise text.problem("something follows its end")


def _listed(text: _Text) -> Iterator[dict[str, Any]]:
    """The objects of a list whose bracket has been read."""
    if text.peek() == "]":
        text.take("]")
        return
    more = True
    while more:
        yield from _unnested(text.value(), text.name)
        more = text.take(",]") == ","


def _unnested(item: Any, name: str) -> Iterator[dict[str, Any]]:
    if not isinstance(item, dict):
        raise _misshapen(name)
    for nest in ("paragraphs", "qas"):
        if isinstance(item.get(nest), list):
            shared = {key: value for key, value in item.items() if key != nest}
            for inner in item[nest]:
                if not isinstance(inner, dict):
                    raise _misshapen(name)
                yield from _unnested({**shared, **inner}, name)
            return
    yield item


def _misshapen(name: str) -> ValueError:
    return ValueError(
        f"expected a list of objects, or SQuAD's nesting (data, paragraphs, qas), in {name}"
    )


class _Text:
    """The text of a stream, of which no more is held than the value being read, and its reader."""

    def __init__(self, stream: Stream, name: str) -> None:
        self.name = name
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._held, self._at, self._line = "", 0, 1

    def peek(self) -> str:
        """The next character but blanks; empty at the end."""
        while True:
            match = _BLANKS.match(self._held, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._held):
                return self._held[self._at]
            if not self._more():
                return ""

    def take(self, among: str) -> str:
        """The next character but blanks, which must be one of these."""
        found = self.peek()
        if not found or found not in among:
            raise self.problem("it ends too early" if not found else f"unexpected {found!r}")
        self._at += 1
        return found

    def value(self) -> Any:
        """The JSON value that comes next."""
        if not self.peek():
            raise self.problem("it ends too early")
        while True:
            try:
                value, end = _DECODER.raw_decode(self._held, self._at)
            except (ValueError, RecursionError) as error:
                if len(self._held) - self._at > LONGEST_VALUE:
                    raise self.problem(f"no whole value in {LONGEST_VALUE} characters") from None
                if not self._more():
                    self._at = getattr(error, "pos", self._at)
                    what = str(getattr(error, "msg", error)).removesuffix(" starting at")
                    raise self.problem(what) from None
                continue
            if end == len(self._held) and self._more():  # a number may go on
                continue
            self._at = end
            return value

    def problem(self, what: str) -> ValueError:
        """The error that says what is wrong where the reader stands."""
        line = self._line + self._held.count("\n", 0, self._at)
        return ValueError(f"expected JSON in {self.name}, could not read it (line {line}: {what})")

    def _more(self) -> bool:
        """Hold twice as much, without what was passed; whether there was more."""
        self._line += self._held.count("\n", 0, self._at)
        pieces, got = [self._held[self._at :]], 0
        self._at = 0
        wanted = max(len(pieces[0]), 2**16)
        while got < wanted and (raw := self._stream.readline(LONGEST_LINE)):
            pieces.append(self._decoded(raw))
            got += len(raw)
        if not got:
            self._decoded(b"", final=True)
        self._held = "".join(pieces)
        return got > 0

    def _decoded(self, raw: bytes, *, final: bool = False) -> str:
        try:
            return self._decoder.decode(raw, final)
        except UnicodeDecodeError as error:
            raise ValueError(
                f"expected UTF-8 text, got byte 0x{error.object[error.start]:02x} in {self.name}; "
                "convert the file to UTF-8"
            ) from None
