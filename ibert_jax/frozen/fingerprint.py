"""Which program this is: a hash of all that decides its integers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np


def array_bytes(name: str, array: Any) -> bytes:
    """Name, type, shape and little-endian bytes of an array."""
    values = np.asarray(array)
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return f"{name} {values.dtype.name} {values.shape}\n".encode() + little.tobytes()


def fingerprint(described: Mapping[str, Any], arrays: Mapping[str, Any]) -> str:
    """SHA-256 of a JSON object and named arrays, in an order that does not depend on theirs."""
    digest = hashlib.sha256(json.dumps(described, sort_keys=True).encode())
    for name in sorted(arrays):
        digest.update(array_bytes(name, arrays[name]))
    return digest.hexdigest()
