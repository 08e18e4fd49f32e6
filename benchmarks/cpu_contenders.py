"""The contenders of ``benchmarks/cpu.py``: one RoBERTa encoder, run as its users would run it.

Each contender is made from the same directory with random weights and answers one call,
``run(ids, mask)`` -> last hidden states, computed when it returns; our classifiers answer
logits, for which they need less of the last layer and a head more. ``PREPARE`` makes, once, what a
contender needs on disk: a frozen model, an exported one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from machine import THREADS

VOCABULARY = 50265
Run = Callable[[np.ndarray, np.ndarray], Any]


def calibration(rows: int, length: int = 64) -> list[dict[str, np.ndarray]]:
    """Random sentences in batches of 8; speed does not depend on what they say."""
    draw = np.random.default_rng(7)
    ids = draw.integers(4, VOCABULARY, (rows, length), dtype=np.int64)
    return [
        {"input_ids": some, "attention_mask": np.ones_like(some)}
        for some in np.split(ids, rows // 8)
    ]


def prepare_weights(folder: Path, layers: int, **sizes: int) -> None:
    """RoBERTa-base of so many layers, or of other sizes, random weights, as Hugging Face has it."""
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.RobertaConfig(
        **{
            "vocab_size": VOCABULARY,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "num_hidden_layers": layers,
            "layer_norm_eps": 1e-5,
            **sizes,
        }
    )
    model = transformers.RobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(folder / "weights")


# ----------------------------------------------------------------------------------- ibert_jax


def prepare_ours(folder: Path) -> None:
    import ibert_jax as ib

    model = ib.IBertModel.from_pretrained(folder / "weights", add_pooling_layer=False)
    ib.freeze(ib.calibrate(model, calibration(8))).save(folder / "frozen")


def prepare_classifier(folder: Path) -> None:
    """The same encoder with a head of random weights behind it."""
    import ibert_jax as ib

    model = ib.IBertForSequenceClassification.from_pretrained(folder / "weights")
    ib.freeze(ib.calibrate(model, calibration(8))).save(folder / "classifier")


def ours(folder: Path, kernels: str, model: str = "frozen") -> Run:
    """Last hidden states; of a classifier, its logits."""
    import ibert_jax as ib

    program = ib.IntegerModel.load(folder / model).with_kernels(kernels)
    return lambda ids, mask: np.asarray(
        program.integers(ids.astype(np.int32), attention_mask=mask.astype(np.int32))[0]
    )


# ----------------------------------------------------------------------------- JAX, in floats


def jax_float(folder: Path, dtype: str) -> Run:
    encode, weights = jax_encoder(folder, dtype)
    return lambda ids, mask: np.asarray(
        encode(weights, ids.astype(np.int32), mask.astype(np.int32))
    )


def jax_encoder(folder: Path, dtype: str) -> tuple[Callable[..., Any], dict[str, Any]]:
    """A plain encoder, as XLA likes it, with erf GELU: jitted (weights, ids, mask), and weights."""
    import json

    import jax
    import jax.numpy as jnp
    from jax import lax
    from safetensors.numpy import load_file

    weights = load_file(folder / "weights" / "model.safetensors")
    kind = jnp.dtype(dtype)
    t = {name: jnp.asarray(value, kind) for name, value in weights.items()}
    depth = 1 + max(int(name.split(".")[2]) for name in t if name.startswith("encoder.layer."))
    heads = json.loads((folder / "weights" / "config.json").read_text())["num_attention_heads"]

    def linear(p: dict[str, Any], name: str, x: Any) -> Any:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def norm(p: dict[str, Any], name: str, x: Any) -> Any:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normal = centred * lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return normal.astype(kind) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def attention(p: dict[str, Any], at: str, x: Any, mask: Any) -> Any:
        def split(name: str) -> Any:
            y = linear(p, f"{at}.self.{name}", x)
            return y.reshape(*y.shape[:2], heads, -1)

        q, k, v = split("query"), split("key"), split("value")
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32) / np.sqrt(q.shape[-1])
        shares = jax.nn.softmax(jnp.where(mask[:, None, None, :] > 0, scores, -1e30)).astype(kind)
        context = jnp.einsum("bhqk,bkhd->bqhd", shares, v).reshape(x.shape)
        return norm(p, f"{at}.output.LayerNorm", linear(p, f"{at}.output.dense", context) + x)

    @jax.jit
    def encode(p: dict[str, Any], ids: Any, mask: Any) -> Any:
        positions = jnp.cumsum(mask, 1) * mask + 1
        x = p["embeddings.word_embeddings.weight"][ids]
        x = x + p["embeddings.position_embeddings.weight"][positions]
        x = norm(p, "embeddings.LayerNorm", x + p["embeddings.token_type_embeddings.weight"][0])
        for index in range(depth):
            at = f"encoder.layer.{index}"
            x = attention(p, f"{at}.attention", x, mask)
            inner = jax.nn.gelu(linear(p, f"{at}.intermediate.dense", x), approximate=False)
            x = norm(p, f"{at}.output.LayerNorm", linear(p, f"{at}.output.dense", inner) + x)
        return x.astype(jnp.float32)

    return encode, t


# --------------------------------------------------------------------------------------- torch


def _torch_run(model: Any) -> Run:
    import torch

    torch.set_num_threads(THREADS)

    def run(ids: np.ndarray, mask: np.ndarray) -> Any:
        with torch.inference_mode():
            out = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask))
            return out[0].float().numpy()

    return run


def _encoder(folder: Path, attention: str) -> Any:
    """ids, mask -> last hidden states, for exporters, which want nothing else."""
    import torch
    import transformers

    class Encoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.RobertaModel.from_pretrained(
                folder / "weights", add_pooling_layer=False, attn_implementation=attention
            )

        def forward(self, input_ids: Any, attention_mask: Any) -> Any:
            out = self.model(input_ids=input_ids, attention_mask=attention_mask)
            return out.last_hidden_state

    return Encoder().eval()


def torch_float(folder: Path, dtype: str) -> Run:
    import torch
    import transformers

    model = transformers.RobertaModel.from_pretrained(
        folder / "weights", add_pooling_layer=False, attn_implementation="sdpa"
    )
    return _torch_run(model.to(getattr(torch, dtype)).eval())


def torch_int8(folder: Path) -> Run:
    import warnings

    import torch
    import transformers

    model = transformers.RobertaModel.from_pretrained(folder / "weights", add_pooling_layer=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is called deprecated, and is what people still use
        quantized = torch.ao.quantization.quantize_dynamic(
            model.eval(), {torch.nn.Linear}, dtype=torch.qint8
        )
    return _torch_run(quantized)


def hf_ibert(folder: Path) -> Run:
    """The published simulation in quant_mode; a forward pass in training mode fills its ranges."""
    import torch
    import transformers

    model = transformers.IBertModel.from_pretrained(
        folder / "weights", quant_mode=True, add_pooling_layer=False
    ).train()
    with torch.no_grad():
        model(torch.from_numpy(calibration(8)[0]["input_ids"]))
    return _torch_run(model.eval())


# -------------------------------------------------------------------------- ONNX Runtime


def prepare_onnx(folder: Path) -> None:
    """Export, fuse as ONNX Runtime's own optimizer does, quantize the weights dynamically."""
    import onnx
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    batch = torch.ones((2, 16), dtype=torch.long)
    axes = {0: "batch", 1: "length"}
    plain = folder / "plain.onnx"
    torch.onnx.export(
        _encoder(folder, "eager"),
        (batch, batch),
        str(plain),
        input_names=["input_ids", "attention_mask"],
        output_names=["hidden"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "hidden": axes},
        opset_version=17,
        dynamo=False,
    )
    fused = optimizer.optimize_model(str(plain), "bert", num_heads=12, hidden_size=768)
    fused.save_model_to_file(str(folder / "float32.onnx"))
    quantize_dynamic(
        folder / "float32.onnx",
        folder / "int8.onnx",
        weight_type=QuantType.QInt8,
        per_channel=True,
        # of what the fused operators return, which ONNX's shape inference does not know
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )
    plain.unlink()


def onnx_runtime(folder: Path, name: str) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = THREADS
    session = onnxruntime.InferenceSession(
        folder / f"{name}.onnx", options, providers=["CPUExecutionProvider"]
    )
    names = [x.name for x in session.get_inputs()]
    return lambda ids, mask: session.run(None, dict(zip(names, (ids, mask), strict=False)))[0]


# ------------------------------------------------------------------------------ OpenVINO


def prepare_openvino(folder: Path) -> None:
    """Convert, and quantize with NNCF's recipe for transformers (smooth-quant)."""
    import nncf
    import openvino
    import torch

    batch = torch.ones((2, 16), dtype=torch.long)
    converted = openvino.convert_model(
        _encoder(folder, "sdpa"), example_input={"input_ids": batch, "attention_mask": batch}
    )
    openvino.save_model(converted, folder / "float32.xml", compress_to_fp16=False)
    quantized = nncf.quantize(
        converted,
        nncf.Dataset([{k: v[:1] for k, v in b.items()} for b in calibration(64)]),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=8,
    )
    openvino.save_model(quantized, folder / "int8.xml", compress_to_fp16=False)


def open_vino(folder: Path, name: str) -> Run:
    import openvino

    settings: dict[str, Any] = {"INFERENCE_NUM_THREADS": THREADS, "PERFORMANCE_HINT": "LATENCY"}
    compiled = openvino.Core().compile_model(folder / f"{name}.xml", "CPU", settings)
    return lambda ids, mask: compiled({"input_ids": ids, "attention_mask": mask})[0]


PREPARE: dict[str, Callable[[Path], None]] = {
    "ibert_jax": prepare_ours,
    "classifier": prepare_classifier,
    "ONNX Runtime": prepare_onnx,
    "OpenVINO": prepare_openvino,
}
OURS = "ibert_jax int8"
"""With weights laid out for oneDNN; the other is compiled by XLA alone, which is the default."""
BY_XLA = "ibert_jax, XLA alone"
CONTENDERS: dict[str, Callable[[Path], Run]] = {
    OURS: lambda folder: ours(folder, "onednn"),
    BY_XLA: lambda folder: ours(folder, "xla"),
    "ibert_jax classifier": lambda folder: ours(folder, "onednn", "classifier"),
    "ibert_jax classifier, XLA alone": lambda folder: ours(folder, "xla", "classifier"),
    "OpenVINO int8": lambda folder: open_vino(folder, "int8"),
    "OpenVINO": lambda folder: open_vino(folder, "float32"),
    "ONNX Runtime int8": lambda folder: onnx_runtime(folder, "int8"),
    "ONNX Runtime float32": lambda folder: onnx_runtime(folder, "float32"),
    "JAX bfloat16": lambda folder: jax_float(folder, "bfloat16"),
    "JAX float32": lambda folder: jax_float(folder, "float32"),
    "torch bfloat16": lambda folder: torch_float(folder, "bfloat16"),
    "torch float32": lambda folder: torch_float(folder, "float32"),
    "torch int8 dynamic": torch_int8,
    "HF IBert quant_mode": hf_ibert,
}
