"""Are the integers on this machine those of every other?

    python benchmarks/hashes.py [--record benchmarks/results/hashes.json]
    XLA_FLAGS=--xla_force_host_platform_device_count=8 python benchmarks/hashes.py

Runs committed models on committed inputs, the batch sharded over all devices that JAX finds, and
compares the SHA-256 of the integers that come out with the committed ones. The models: a tiny
language model in the channel scheme and a tiny encoder with its pooler in the reference scheme, of
which every hidden state at every position counts; and the classifier inside the package. Prints
the device, the versions and PASS or FAIL; exits with 1 on FAIL.

``--create`` makes other tiny models, inputs and hashes in place of the committed ones.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import ibert_jax as ib
from ibert_jax.inference import default_directory
from ibert_jax.integer.mixed import vectorized

FOLDER = Path(__file__).parents[1] / "tests" / "data" / "hashes"
TINY = ("channel", "reference")
PACKAGED = "packaged"
Inputs = dict[str, np.ndarray]


def directory(name: str) -> Path:
    """Where a model is."""
    return default_directory() if name == PACKAGED else FOLDER / name


def read_inputs(name: str) -> Inputs:
    """A model's committed inputs, int32 [8, T]: rows of tokens, padded to the longest."""
    committed = json.loads((FOLDER / "inputs.json").read_text())[name]
    rows, width = committed["rows"], committed["length"]
    ids = [row + [committed["padding"]] * (width - len(row)) for row in rows]
    mask = np.arange(width) < np.array([len(row) for row in rows])[:, None]
    return {"input_ids": np.array(ids, np.int32), "attention_mask": mask.astype(np.int32)}


def expected() -> dict[str, str]:
    """The committed hash of every model's outputs."""
    return json.loads((FOLDER / "sha256.json").read_text())


def integers(program: ib.IntegerModel, inputs: Inputs) -> Inputs:
    """The program's outputs by name, int32, computed with the batch sharded over all devices."""
    mesh = Mesh(np.array(jax.devices()), ("batch",))
    everywhere = jax.device_put(program, NamedSharding(mesh, PartitionSpec()))
    outputs = everywhere.integers(
        **jax.device_put(inputs, NamedSharding(mesh, PartitionSpec("batch")))
    )
    found = jax.tree_util.tree_leaves_with_path(outputs)
    return {jax.tree_util.keystr(path): np.asarray(q, "<i4") for path, q in found}


def sha256(outputs: Inputs) -> str:
    """Of the outputs' names, shapes and little-endian int32 values."""
    digest = hashlib.sha256()
    for name, q in sorted(outputs.items()):
        digest.update(f"{name} {q.shape}\n".encode())
        digest.update(np.ascontiguousarray(q, "<i4").tobytes())
    return digest.hexdigest()


def hashes(names: list[str], kernels: str = "xla") -> dict[str, str]:
    """The hash of every model's outputs here."""
    programs = {name: ib.IntegerModel.load(directory(name)) for name in names}
    return {
        name: sha256(integers(program.with_kernels(kernels), read_inputs(name)))
        for name, program in programs.items()
    }


def products(kind: str) -> str:
    """Of which types a network's products are on this kind of platform, on this machine."""
    return "uint8 x int8" if kind == "cpu" and vectorized() else "int8 x int8"


def check(names: list[str], kernels: str = "xla", emulator: str | None = None) -> dict[str, Any]:
    """The record of this machine: device, versions, and the hash of every model named."""
    found = hashes(names, kernels)
    devices = jax.devices()
    return {
        "device": devices[0].device_kind,
        "platform": devices[0].platform,
        "devices": len(devices),
        "architecture": platform.machine(),
        "emulator": emulator,
        "kernels": kernels,
        "products": products(devices[0].platform),
        "versions": {"ibert_jax": ib.__version__, "jax": jax.__version__, "numpy": np.__version__},
        "python": ".".join(map(str, sys.version_info[:3])),
        "sha256": found,
        "passed": found == {name: expected()[name] for name in names},
    }


def keep(record: dict[str, Any], path: Path) -> None:
    """Add a record to a JSON list, in the place of an earlier one of the same machine."""

    def place(entry: dict[str, Any]) -> tuple[Any, ...]:
        # Older records, of x86 with VNNI, do not name what follows the version.
        older = {
            "kernels": "xla",
            "products": "uint8 x int8",
            "architecture": "x86_64",
            "emulator": None,
        }
        machine = entry["platform"], entry["device"], entry["devices"]
        rest = (entry.get(name, usual) for name, usual in older.items())
        return *machine, entry["versions"]["jax"], *rest

    earlier = json.loads(path.read_text()) if path.exists() else []
    records = [entry for entry in earlier if place(entry) != place(record)] + [record]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1) + "\n")


# ------------------------------------------------------------------------------------ --create


def create() -> None:
    """Make the tiny models, the inputs and the hashes anew."""
    from flax import nnx

    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {}
    for scheme in TINY:
        kind = ib.IBertForMaskedLM if scheme == "channel" else ib.IBertModel
        config = ib.IBertConfig(
            vocab_size=100,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            max_position_embeddings=514,
            initializer_range=0.3,
            output_hidden_states=True,
            quantization=ib.QuantConfig(scheme=scheme),
        )
        # Of every kind: longest, long, short, one token, none, a token repeated throughout.
        lengths = (512, 300, 24, 7, 1, 0)
        rows = [rng.integers(3, 100, length).tolist() for length in lengths] + [[5] * 512, [2, 2]]
        inputs[scheme] = {"length": 512, "padding": config.pad_token_id, "rows": rows}
        model = kind(config, rngs=nnx.Rngs(0))
        ids = rng.integers(3, 100, (8, 64))
        ib.freeze(ib.calibrate(model, [{"input_ids": ids}])).save(FOLDER / scheme)
    rows = [rng.integers(1000, 30_000, length).tolist() for length in (30, 20, 9, 5, 2, 1, 0)]
    rows = [[101, *row, 102] for row in rows[:5]] + [rows[5], rows[6], [2023] * 32]
    inputs[PACKAGED] = {"length": 32, "padding": 0, "rows": rows}
    (FOLDER / "inputs.json").write_text(json.dumps(inputs) + "\n")
    found = hashes([*TINY, PACKAGED])
    (FOLDER / "sha256.json").write_text(json.dumps(found, indent=1) + "\n")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", choices=[*TINY, PACKAGED], default=[*TINY, PACKAGED])
    parser.add_argument("--record", type=Path, help="add the result to this JSON file")
    parser.add_argument("--kernels", default="xla", help="see IntegerModel.with_kernels")
    parser.add_argument("--emulator", help="what stands in for the processor, for the record")
    parser.add_argument("--create", action="store_true")
    arguments = parser.parse_args()
    if arguments.create:
        create()
    record = check(arguments.models, arguments.kernels, arguments.emulator)
    for name, found in record["sha256"].items():
        print(f"{name:10} {found} {'as committed' if found == expected()[name] else 'DIFFERS'}")
    print(
        f"{'PASS' if record['passed'] else 'FAIL'} on {record['devices']} x {record['device']} "
        f"({record['platform']}, {record['architecture']}), kernels {record['kernels']}, "
        f"{record['products']}, jax {jax.__version__}, Python {record['python']}"
    )
    if arguments.record is not None:
        keep(record, arguments.record)
    return 0 if record["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
