"""Is the integer square root right for every one of the 2^32 inputs?

    python benchmarks/isqrt.py

Checks root^2 <= n < (root + 1)^2 for every uint32 n, in chunks compiled once; takes about a
minute on a laptop's core. Prints what was checked and exits with 1 at the first wrong input.
"""

from __future__ import annotations

import argparse
import sys
import time

import jax
import jax.numpy as jnp

from ibert_jax.integer.isqrt import isqrt

CHUNK = 2**20


@jax.jit
def wrong_inputs(start: jax.Array) -> tuple[jax.Array, jax.Array]:
    """How many of the CHUNK inputs from ``start`` (uint32) have a wrong root, and the first."""
    n = start + jax.lax.iota(jnp.uint32, CHUNK)
    root = isqrt(n)
    # n - root^2 <= 2 root: (root + 1)^2 itself may not fit 32 bits.
    wrong = (root >> 16 != 0) | (root * root > n) | (n - root * root > 2 * root)
    return jnp.sum(wrong, dtype=jnp.int32), n[jnp.argmax(wrong)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--chunks", type=int, default=2**32 // CHUNK, help="fewer, for a trial")
    chunks = parser.parse_args().chunks
    started = time.perf_counter()
    for index in range(chunks):
        count, first = wrong_inputs(jnp.uint32(index * CHUNK))
        if count:
            print(f"isqrt is wrong for {int(count)} inputs of chunk {index}, first {int(first)}")
            return 1
    print(
        f"isqrt: {chunks * CHUNK} inputs (2^32 is {2**32}), all right, "
        f"{time.perf_counter() - started:.0f} s on {jax.devices()[0]}, jax {jax.__version__}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
