"""Input is read strictly, and what is wrong with it is named by its line."""

from __future__ import annotations

import gzip
import io
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from ibert_jax.lines import Line, decode_lines, read_lines


def _decode(data: bytes) -> list[Line]:
    return list(decode_lines(io.BytesIO(data), "input"))


def test_only_a_newline_ends_a_line() -> None:
    text = "one\u2028still one\x0bstill\rone\r\ntwo\n\nlast"
    assert _decode(text.encode()) == [
        Line(1, "one\u2028still one\x0bstill\rone"),
        Line(2, "two"),
        Line(3, ""),
        Line(4, "last"),
    ]


def test_byte_order_mark_is_dropped() -> None:
    assert _decode(b"\xef\xbb\xbfone\n") == [Line(1, "one")]


def test_not_utf8_names_the_line() -> None:
    with pytest.raises(ValueError, match=r"byte 0xe9 in line 3 of input; convert"):
        _decode(b"fine\n\xc3\xa9\ncaf\xe9\n")


def test_files(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError, match="is a folder"):
        list(read_lines(tmp_path))
    with pytest.raises(FileNotFoundError, match="does not exist"):
        list(read_lines(tmp_path / "absent"))
    (tmp_path / "file").write_bytes(b"one\n")
    assert list(read_lines(tmp_path / "file")) == [Line(1, "one")]


@pytest.mark.parametrize(("ending", "pack"), [(".gz", gzip.compress), (".xz", lzma.compress)])
def test_compressed_files_are_read_as_others(
    tmp_path: Path, ending: str, pack: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"rows.txt{ending}"
    packed = pack("good\ncafé\n".encode() * 9000)
    path.write_bytes(packed)
    assert [line.text for line in read_lines(path)][:2] == ["good", "café"]
    path.write_bytes(packed[: len(packed) // 2])
    with pytest.raises(ValueError, match="damaged or cut short"):
        list(read_lines(path))
