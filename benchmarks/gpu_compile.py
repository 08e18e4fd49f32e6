"""What would a GPU run? The program compiled for an H200, on a machine that has none.

    pip install "jax[cuda13]"
    JAX_SKIP_CUDA_CONSTRAINTS_CHECK=1 JAX_PLATFORMS=cpu PYTHONPATH=. \\
        python benchmarks/gpu_compile.py --cache DIR [--kernels pallas] [--case 128x128]

XLA compiles for a described device where there is no driver (JAX 0.11 and later). Printed are the
census of the optimized program (is every operation an integer one, which products of which types),
its kernels by stage, in order, and the memory that it plans for. XLA chooses among kernels by
timing them, which it cannot do here: how it cuts its own products on a GPU may differ.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
from gpu_contenders import prepare
from gpu_profile import LEAF
from jax.experimental import topologies
from jax.sharding import AbstractDevice, AbstractMesh, Mesh, NamedSharding, PartitionSpec

import ibert_jax as ib
from ibert_jax.frozen import parts as batch_parts
from ibert_jax.models import layer_stack
from ibert_jax.proof.walk_hlo import walk_hlo

NAME = "NVIDIA H200"
TARGET = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 device_memory_size: 150000000000 l2_cache_size: 62914560
  clock_rate_ghz: 1.98 cuda_compute_capability {{ major: 9 }}
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 12 }}
runtime_version {{ major: 13 }} device_description_str: "{NAME}"
"""
KERNEL = re.compile(
    r"^\s*(?:ROOT )?%?([\w.\-]+) = (\(.*?\)|\S+) (fusion|custom-call|copy)\(.*?op_name=\"([^\"]*)\""
)


def compiled_for_h200(program: ib.IntegerModel, batch: int, length: int) -> Any:
    """``program.integers`` at a shape; arrays are described, none is on a device."""
    topology = topologies.get_topology_desc(platform="cuda", target_config=TARGET, topology="1x1x1")
    sharding = NamedSharding(Mesh(np.array(topology.devices[:1]), ("gpu",)), PartitionSpec())

    def described(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)

    def run(program: ib.IntegerModel, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return program.integers(ids, attention_mask=mask)[0]

    tokens = described(np.empty((batch, length), np.int32))
    # Pallas asks for the device's name.
    mesh = AbstractMesh((), (), abstract_device=AbstractDevice(NAME, 132, "gpu"))
    with jax.sharding.use_abstract_mesh(mesh):
        lowered = jax.jit(run).lower(jax.tree.map(described, program), tokens, tokens)
    return lowered.compile()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cache", type=Path, required=True, help="where the model is prepared")
    parser.add_argument("--kernels", default="xla", help="see IntegerModel.with_kernels")
    parser.add_argument("--case", default="128x128", help="sentences x tokens")
    parser.add_argument("--small", action="store_true", help="a tiny encoder, to try this out")
    parser.add_argument("--hlo", type=Path, help="write the optimized program to this file")
    options = parser.parse_args()
    size = "small" if options.small else "base"
    prepare(options.cache / size, size)
    # As where the platform is a GPU: all matrices stacked, the batch whole.
    layer_stack.LARGE = batch_parts.WORTH_IT = sys.maxsize
    program = ib.IntegerModel.load(options.cache / size / "frozen").with_kernels(options.kernels)
    compiled = compiled_for_h200(program, *map(int, options.case.split("x")))
    text = compiled.as_text()
    if options.hlo:
        options.hlo.write_text(text)
    for line in text.splitlines():
        found = KERNEL.match(line)
        # What runs inside of fusions is indented alike, but is neither fusion nor call.
        if found:
            name, result, _, origin = found.groups()
            leaves = LEAF.findall(origin)
            print(f"  {name:52} {result.split('{')[0]:22} {leaves[-1] if leaves else ''}")
    modules = compiled.runtime_executable().hlo_modules()
    operations = [operation for module in modules for operation in walk_hlo(module)]
    objections = Counter(f"{x.label} {x.types}: {x.objection()}" for x in operations)
    refused = {what: n for what, n in objections.items() if not what.endswith(": None")}
    print("products:", dict(Counter(x.kind for x in operations if x.name == "dot")))
    print("kernels:", dict(Counter(x.label for x in operations if x.opaque)))
    print(f"{len(operations)} operations, {len(refused)} kinds of them not integer: {refused}")
    memory = compiled.memory_analysis()
    parts = {
        "model": memory.argument_size_in_bytes,
        "temporary": memory.temp_size_in_bytes,
        "results": memory.output_size_in_bytes,
    }
    print("MiB:", {name: round(size / 2**20, 1) for name, size in parts.items()})
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
