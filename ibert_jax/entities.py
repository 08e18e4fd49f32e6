"""Entities in tagged words: what trains, scores and predicts them reads tags alike."""

from __future__ import annotations

from collections.abc import Sequence

_OUTSIDE = "O"
_CONTINUES = {"B": False, "S": False, "U": False, "I": True, "E": True, "L": True}
"""What may stand before the hyphen of a tag, and whether such a word follows on the last one."""
_LAST = ("S", "U", "E", "L")
_BARE = ("B", "I")
"""Prefixes that are tags by themselves, where there is but one type, which has no name."""


def entities(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The entities of a sentence, as conlleval finds them: type, first word, word after the last.

    B- begins an entity and I- continues one of its type (and begins one where there is none);
    BIOES and BILOU are understood too, and B, I and O alone, whose entities have the type "". Tags
    of another form continue their like.
    """
    found: list[tuple[str, int, int]] = []
    open_kind: str | None = None
    for index, tag in enumerate(tags):
        prefix, hyphen, kind = tag.partition("-")
        if prefix not in (_CONTINUES if hyphen else _BARE):
            prefix, kind = "I", tag
        if kind == _OUTSIDE:
            open_kind = None
            continue
        if _CONTINUES[prefix] and open_kind == kind:
            found[-1] = (kind, found[-1][1], index + 1)
        else:
            found.append((kind, index, index + 1))
        open_kind = None if prefix in _LAST else kind
    return found
