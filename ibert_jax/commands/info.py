"""`ibert-jax info`: versions, devices, which fast paths are on and why not."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
from importlib import metadata, util
from pathlib import Path
from typing import Any

from ibert_jax import __version__
from ibert_jax.commands import console
from ibert_jax.commands.options import add_command

_EXAMPLES = """\
  ibert-jax info
  ibert-jax info --json > report.json     (to go with a question or a bug report)
"""

_PACKAGES = (
    "jax", "jaxlib", "flax", "numpy", "optax", "orbax-checkpoint", "safetensors", "tokenizers",
    "transformers",
)  # fmt: skip

# Extra -> the modules that it brings, and what they are for.
_EXTRAS: dict[str, tuple[tuple[str, ...], str]] = {
    "parquet": (("pyarrow",), "predict and train from Parquet files"),
    "export": (("flatbuffers", "onnx"), "ibert-jax export"),
    "datasets": (("datasets",), "training data by name from the Hugging Face hub"),
    "notebooks": (("matplotlib", "ipykernel", "nbclient"), "the notebooks, and plots"),
    "tensorboard": (("tensorboardX",), "ibert-jax train --tensorboard"),
    "ray": (("ray",), "BatchPredictor on several machines"),
    "conversion": (("torch",), "pytorch_model.bin and fairseq's model.pt, in a checkout"),
}

# On each kind of platform: what was tried of this version, and what never.
_TRIED = {
    "cpu": "the tests, the benchmarks and every figure of the README ran on x86-64; emulated "
    "ARM processors gave the same integers, never run on a real one",
    "gpu": "the hashes and a forward pass ran on one NVIDIA H200 and gave the same integers; never "
    "trained on one, other cards never tried",
    "tpu": "never run on a TPU; programs are lowered for one in the tests, not compiled",
}

# Instructions for 8-bit products, of x86 and ARM, as Linux names them.
_INSTRUCTIONS = ("avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm")


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the command's arguments."""
    parser = add_command(
        commands,
        "info",
        summary="say which versions and devices there are, and which fast paths are on and why not",
        examples=_EXAMPLES,
    )
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print what a report about this machine should say."""
    found = collect()
    print(json.dumps(found) if args.json else _told(found))
    return 0


def collect() -> dict[str, Any]:
    """Everything as plain values; the keys are those of `ibert-jax info --json`."""
    devices, failure = _devices()
    return {
        "ibert_jax": __version__,
        "from": str(Path(__file__).parents[1]),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": _processor(),
        "versions": {name: _version(name) for name in _PACKAGES},
        "devices": devices,
        "problem": failure,
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name.startswith(("JAX_", "XLA_", "IBERT_JAX_", "CUDA_VISIBLE"))
        },
        "fast_paths": _fast_paths(devices) if devices else [],
        "extras": _extras(),
        "tried": _TRIED,
    }


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _devices() -> tuple[list[dict[str, Any]], str | None]:
    """The devices that JAX computes on, or why it found none."""
    import jax

    try:
        found = jax.devices()
    except RuntimeError as error:  # JAX_PLATFORMS names one that is not there, say
        return [], f"JAX found no device: {error}"
    return [
        {"id": d.id, "platform": d.platform, "kind": d.device_kind, "process": d.process_index}
        for d in found
    ], None


def _processor() -> dict[str, Any]:
    """The host's: its name, the cores that this process may use, its 8-bit instructions."""
    name, flags = platform.processor(), None
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:  # not Linux
        text = ""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key.strip() == "model name":
            name = value.strip()
        if key.strip() in ("flags", "Features"):
            flags = set(value.split())
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    instructions = None if flags is None else [each for each in _INSTRUCTIONS if each in flags]
    return {"name": name or platform.machine(), "cores": cores, "instructions": instructions}


def _fast_paths(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What makes programs faster, whether it is on here, and the reason."""
    found = (
        ("mixed 8-bit products", *_mixed_products(devices[0]["platform"])),
        ("weights laid out for oneDNN", *_packed(devices[0]["platform"])),
        ("fused GPU kernels", *_fused(devices[0]["platform"])),
        ("compiled code", *_compiled()),
        ("compilation cache", *_cache()),
        ("programs side by side", *_streams(devices[0]["platform"])),
        ("several devices", *_several(devices)),
        ("parallel tokenization", *_tokenization()),
    )
    return [{"name": name, "on": on, "why": why} for name, on, why in found]


def _mixed_products(kind: str) -> tuple[bool, str]:
    """Whether a linear layer is lowered to uint8 x int8 here: asked of the lowering itself."""
    import jax
    import jax.numpy as jnp

    from ibert_jax.integer.compiled import cpu_features
    from ibert_jax.integer.matmul import int8_linear

    q, weight = jnp.zeros((8, 64), jnp.int8), jnp.zeros((64, 64), jnp.int8)
    bias = jnp.zeros(64, jnp.int32)
    lines = jax.jit(int8_linear).lower(q, weight, bias, bias).as_text().splitlines()
    if any("dot_general" in line and "ui8" in line for line in lines):
        return True, "activations travel as uint8, which runs on this processor's VNNI instructions"
    if kind != "cpu":
        return False, f"on {kind} int8 x int8 is the fast product; the integers are the same"
    if not cpu_features():
        return False, (
            "this JAX does not say what the processor can do, so that it is int8 x int8, slower "
            "where there are VNNI instructions of AVX-512; the integers are the same"
        )
    return False, (
        "this processor has no VNNI instructions of AVX-512, on which uint8 x int8 would be fast: "
        "it is int8 x int8, slower than the published speed; the integers are the same"
    )


def _packed(kind: str) -> tuple[bool, str]:
    """Whether oneDNN gives the exact product here: asked of it."""
    from ibert_jax.integer.mixed import vectorized
    from ibert_jax.integer.packed import BLOCK, answers

    if kind != "cpu":
        return False, f"they are for CPUs, this is {kind}"
    if not vectorized():
        return False, "they are for VNNI instructions of AVX-512"
    if not answers(BLOCK, (BLOCK, BLOCK)):
        return False, "oneDNN did not give the exact product here"
    return False, "on request, for few tokens at a time: program.with_kernels('onednn')"


def _fused(kind: str) -> tuple[bool, str]:
    if kind != "gpu":
        return False, f"they are for NVIDIA GPUs, this is {kind}"
    return (
        False,
        "on request: program.with_kernels('pallas'); twice as fast as without on an H200",
    )


def _compiled() -> tuple[bool, str]:
    import jax

    if jax.config.jax_disable_jit:  # type: ignore[attr-defined]
        return False, "JAX_DISABLE_JIT is set: every operation runs by itself"
    return True, "programs run as one compiled function a shape"


def _cache() -> tuple[bool, str]:
    import jax

    folder = jax.config.jax_compilation_cache_dir  # type: ignore[attr-defined]
    if folder:
        return True, f"compiled programs are kept in {folder}"
    return False, (
        "switched off by --compile-cache or IBERT_JAX_CACHE, or its folder cannot be written; "
        "every start compiles anew"
    )


def _streams(kind: str) -> tuple[bool, str]:
    from ibert_jax.integer.streams import streams

    count = streams()
    if count > 1:
        return True, f"batches are computed {count} at a time, one large batch in {count} parts"
    if kind != "cpu":
        return False, f"they are for CPUs, this is {kind}"
    return False, "they are for one device of several cores, and not for JAX_DISABLE_JIT"


def _several(devices: list[dict[str, Any]]) -> tuple[bool, str]:
    if len(devices) == 1:
        return False, "there is one device"
    return True, f"predict shares the rows of each batch among {len(devices)} devices"


def _tokenization() -> tuple[bool, str]:
    setting = os.environ.get("TOKENIZERS_PARALLELISM", "true")
    if setting.lower() in ("false", "0", "off", "no", "n", "f"):
        return False, f"TOKENIZERS_PARALLELISM is {setting}"
    return True, "texts are tokenized on all cores, while the batches before them are computed"


def _extras() -> list[dict[str, Any]]:
    rows = []
    for name, (modules, purpose) in _EXTRAS.items():
        missing = [module for module in modules if util.find_spec(module) is None]
        rows.append({"name": name, "installed": not missing, "missing": missing, "for": purpose})
    return rows


def _told(found: dict[str, Any]) -> str:
    """The same for people."""
    processor = found["processor"]
    instructions = processor["instructions"]
    lines = [
        f"ibert-jax {found['ibert_jax']} in {found['from']}",
        f"Python {found['python']} on {found['system']}; {sys.executable}",
        f"processor: {processor['name']}, {processor['cores']} cores; 8-bit instructions: "
        + ("not known" if instructions is None else ", ".join(instructions) or "none known"),
        ", ".join(f"{name} {version or 'missing'}" for name, version in found["versions"].items()),
        *(f"{name}={value}" for name, value in found["environment"].items()),
        "",
        *(f"device {d['id']}: {d['kind']} ({d['platform']})" for d in found["devices"]),
    ]
    if found["problem"]:
        lines.append(found["problem"])
    if found["fast_paths"]:
        rows = [(f["name"], "on" if f["on"] else "off", f["why"]) for f in found["fast_paths"]]
        lines += ["", console.format_table(("fast path", "", "why"), rows)]
    rows = [
        (x["name"], "yes" if x["installed"] else f"no {', '.join(x['missing'])}", x["for"])
        for x in found["extras"]
    ]
    lines += ["", console.format_table(("extra", "installed", "for"), rows)]
    lines += ["", *(f"{name}: {what}" for name, what in found["tried"].items())]
    return "\n".join(lines)
