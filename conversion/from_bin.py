"""``pytorch_model.bin``, whole or in shards, to a directory of safetensors.

    python -m conversion.from_bin SOURCE OUTPUT

The tensors keep their names, shapes, dtypes and bits; ``config.json`` and the tokenizer's files
are copied. What the result holds is for ``from_pretrained`` to judge.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np

from conversion.command import run
from conversion.pickles import as_arrays, load_pickle
from ibert_jax.checkpoints import CheckpointError
from ibert_jax.checkpoints.files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    indexed_files,
    write_tensors,
)
from ibert_jax.files import write_whole, written_together
from ibert_jax.tokenizer import copy_tokenizer_files

PICKLE = "pytorch_model.bin"
INDEX = "pytorch_model.bin.index.json"


def convert(source: str | os.PathLike[str], output: str | os.PathLike[str]) -> None:
    """Write ``output/model.safetensors`` from the pickles of ``source``.

    Raises:
        CheckpointError: everything that is wrong with the files; nothing is written.
    """
    source, output = Path(source), Path(output)
    problems: list[str] = []
    tensors = _read(source, problems)
    if not (source / CONFIG_FILE).is_file():
        problems.append(f"{CONFIG_FILE} is missing")
    if problems:
        raise CheckpointError(source, problems)
    output.mkdir(parents=True, exist_ok=True)
    weights = output / WEIGHTS_FILE
    with written_together([weights]) as temporary:
        write_tensors(temporary[weights], tensors, {"format": "pt"})
    if source.resolve() != output.resolve():
        write_whole(output / CONFIG_FILE, (source / CONFIG_FILE).read_bytes())
        copy_tokenizer_files(source, output)


def _read(source: Path, problems: list[str]) -> dict[str, np.ndarray]:
    if (source / PICKLE).is_file():
        return as_arrays(source / PICKLE, load_pickle(source / PICKLE), problems)
    if not (source / INDEX).is_file():
        problems.append(f"there is neither {PICKLE} nor {INDEX}")
        return {}
    tensors: dict[str, np.ndarray] = {}
    for name, promised in indexed_files(source, INDEX, problems).items():
        shard = as_arrays(source / name, load_pickle(source / name), problems)
        problems += [
            f"{name} lacks {tensor}, though {INDEX} says it is there"
            for tensor in promised
            if tensor not in shard
        ]
        problems += [
            f"tensor {tensor} is in two shards, one of them {name}"
            for tensor in shard
            if tensor in tensors
        ]
        tensors |= shard
    return tensors


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m conversion.from_bin", description="pytorch_model.bin to model.safetensors."
    )
    parser.add_argument("source", help="directory with config.json and pytorch_model.bin or shards")
    parser.add_argument("output", help="directory to write; may be the same one")
    options = parser.parse_args(arguments)
    convert(options.source, options.output)
    print(f"wrote {Path(options.output) / WEIGHTS_FILE}")


if __name__ == "__main__":
    run(main)
