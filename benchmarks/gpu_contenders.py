"""The contenders of ``benchmarks/gpu.py``: one RoBERTa encoder on one GPU, data already there.

Each is made from the same directory of random weights, for one shape, and can be launched (what is
queued is returned) and waited for. Where there is no GPU all of them run on the CPU, to try the
script out.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cpu_contenders import calibration, jax_encoder, prepare_weights

BASE = {
    "vocab_size": 50265,
    "hidden_size": 768,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
}
SMALL = {
    "vocab_size": 50265,
    "hidden_size": 64,
    "num_attention_heads": 2,
    "intermediate_size": 128,
}
LAYERS = {"base": 12, "small": 2}
SIZES = {"base": BASE, "small": SMALL}


@dataclasses.dataclass(frozen=True)
class Forward:
    """One forward pass of fixed inputs.

    Attributes:
        launch: queues it and returns its result.
        wait: returns when a result is there.
        peak: bytes of device memory at most in use so far, 0 if unknown.
        compiled: the program as XLA compiled it, for the profile; None of torch.
    """

    launch: Callable[[], Any]
    wait: Callable[[Any], Any]
    peak: Callable[[], int]
    compiled: Any = None


def operations(size: str, batch: int, length: int) -> int:
    """Multiplications and additions of the matrix products of one forward pass."""
    c, f = SIZES[size]["hidden_size"], SIZES[size]["intermediate_size"]
    return 2 * batch * length * LAYERS[size] * (4 * c * c + 2 * c * f + 2 * length * c)


def prepare(folder: Path, size: str) -> None:
    """Random weights and an integer model of them; what is there stays."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "weights" / "model.safetensors").exists():
        sizes = {**SIZES[size], "num_hidden_layers": LAYERS[size]}
        prepare_weights(folder, sizes.pop("num_hidden_layers"), **sizes)
    if not (folder / "frozen" / "integer_model.json").exists():
        # On the CPU, in a process of its own: the integers are the same, and no memory is taken.
        environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
        command = [sys.executable, __file__, str(folder)]
        subprocess.run(command, env=environment, check=True)


def freeze_repeated(folder: Path) -> None:
    """An integer model of all layers, made of the first one: to freeze twelve takes minutes.

    Once loaded, every layer has arrays of its own in memory, and runs as any other model would.
    """
    import ibert_jax as ib

    whole = ib.IBertModel.from_pretrained(folder / "weights", add_pooling_layer=False)
    layers, config = whole.config.num_hidden_layers, whole.config
    whole.config = dataclasses.replace(config, num_hidden_layers=1)
    del whole.encoder.layer[1:]
    whole.encoder.depth = 1
    first = ib.freeze(ib.calibrate(whole, calibration(8)))
    network = first.network
    network.encoder.unstack()
    network.encoder.stack(list(network.encoder.layer) * layers)
    config = dataclasses.replace(first.config, num_hidden_layers=layers)
    network.config = config
    ib.IntegerModel.of(network, config, dict(first.scales)).save(folder / "frozen")


# ---------------------------------------------------------------------------------------- JAX


def _jax_forward(function: Any, *arguments: Any) -> Forward:
    import jax

    compiled = jax.jit(function).lower(*arguments).compile()
    device = jax.devices()[0]

    def peak() -> int:
        return (device.memory_stats() or {}).get("peak_bytes_in_use", 0)

    return Forward(lambda: compiled(*arguments), jax.block_until_ready, peak, compiled)


def ours(folder: Path, kernels: str, ids: np.ndarray, mask: np.ndarray) -> Forward:
    import jax

    import ibert_jax as ib

    program = ib.IntegerModel.load(folder / "frozen").with_kernels(kernels)
    # Jitted around: a traced argument is not looked at by the host.
    return _jax_forward(
        lambda program, ids, mask: program.integers(ids, attention_mask=mask)[0],
        *jax.device_put((program, ids.astype(np.int32), mask.astype(np.int32))),
    )


def jax_float(
    folder: Path, dtype: str, precision: str | None, ids: np.ndarray, mask: np.ndarray
) -> Forward:
    import jax

    encode, weights = jax_encoder(folder, dtype)
    with jax.default_matmul_precision(precision):
        return _jax_forward(
            encode, weights, *jax.device_put((ids.astype(np.int32), mask.astype(np.int32)))
        )


# -------------------------------------------------------------------------------------- torch


def torch_bfloat16(folder: Path, compiled: bool, ids: np.ndarray, mask: np.ndarray) -> Forward:
    """Hugging Face's encoder with torch's fused attention, as its users run it."""
    import torch
    import transformers

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = transformers.RobertaModel.from_pretrained(
        folder / "weights", add_pooling_layer=False, attn_implementation="sdpa"
    )
    model = model.to(device=device, dtype=torch.bfloat16).eval()
    run = torch.compile(model) if compiled else model
    inputs = {
        "input_ids": torch.from_numpy(ids).to(device),
        "attention_mask": torch.from_numpy(mask).to(device),
    }

    def launch() -> Any:
        with torch.inference_mode():
            return run(**inputs)[0]

    def wait(_: Any) -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    return Forward(
        launch, wait, lambda: torch.cuda.max_memory_allocated() if device == "cuda" else 0
    )


Maker = Callable[[Path, np.ndarray, np.ndarray], Forward]
PALLAS, XLA = "ibert_jax int8 (Pallas)", "ibert_jax int8 (XLA)"
BFLOAT16 = "JAX bfloat16"
CONTENDERS: dict[str, Maker] = {
    PALLAS: lambda folder, *inputs: ours(folder, "pallas", *inputs),
    XLA: lambda folder, *inputs: ours(folder, "xla", *inputs),
    BFLOAT16: lambda folder, *inputs: jax_float(folder, "bfloat16", None, *inputs),
    "torch bfloat16 compiled": lambda folder, *inputs: torch_bfloat16(folder, True, *inputs),
    "torch bfloat16": lambda folder, *inputs: torch_bfloat16(folder, False, *inputs),
    "JAX tf32": lambda folder, *inputs: jax_float(folder, "float32", "tensorfloat32", *inputs),
    "JAX float32": lambda folder, *inputs: jax_float(folder, "float32", "float32", *inputs),
}

if __name__ == "__main__":
    freeze_repeated(Path(sys.argv[1]))
