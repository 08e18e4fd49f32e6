"""How far are integer sentence vectors from float ones, by scheme and by calibration?

    python benchmarks/sentence_vectors.py MODEL --calibration TEXT --test TEXT [--pairs PAIRS.tsv]
        [--record benchmarks/results/sentence_vectors.json]

MODEL is an encoder whose sentence vectors are the mean of its last hidden states, such as
sentence-transformers/all-MiniLM-L6-v2. The texts have a sentence a line; those of --test must not
be among those of --calibration. Every row but the peers' is a frozen program: its integers are
averaged as they are.

    1 - cos      between a sentence's integer and its float vector, mean over --test
    neighbours   rank correlation of all pairwise similarities of --test with the float ones
    pairs        rank correlation of the similarities of --pairs (two sentences and a number, tab
                 between) with the numbers

The first rows repeat how the default came about, from I-BERT's own scheme to free scales for every
channel and corrected biases; the others, not corrected unless they say so, compare calibrations.
With `pip install 'ibert-jax[peers]'` ONNX Runtime's dynamic int8 and OpenVINO's int8 are measured,
too.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.stats
from flax import nnx

import ibert_jax as ib
from ibert_jax.commands.options import use_compile_cache
from ibert_jax.layers.activation import QuantAct
from ibert_jax.quantize.ranges import empty_bounds
from ibert_jax.tokenizer import Tokenizer

Vectors = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""int32 ids and mask [B, T] -> float or integer hidden states [B, T, C]."""

AFTER_LAYERNORM = ("input_act", "pre_intermediate_act")
AFTER_GELU = ("pre_output_act",)
ON_VALUES = ("value_activation", "self.output_activation")


@dataclasses.dataclass(frozen=True)
class Row:
    """A line of the table."""

    name: str
    distance: float
    neighbours: float
    pairs: float | None
    seconds: float | None = None


@dataclasses.dataclass(frozen=True)
class Data:
    """Sentences as batches of one shape, and the scores of pairs: the first half with the second.

    calibration, test, pairs: (ids, mask) int32 [B, T]; padding rows have an empty mask.
    """

    calibration: list[tuple[np.ndarray, np.ndarray]]
    test: list[tuple[np.ndarray, np.ndarray]]
    pairs: list[tuple[np.ndarray, np.ndarray]]
    scores: np.ndarray

    def arguments(self) -> list[dict[str, np.ndarray]]:
        """The model's arguments for calibration: whole batches."""
        kept = [(ids[m.any(1)], m[m.any(1)]) for ids, m in self.calibration]
        return [{"input_ids": ids, "attention_mask": mask} for ids, mask in kept]


def batches(
    texts: list[str], tokenizer: Tokenizer, args: argparse.Namespace, pad: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    encodings = tokenizer.encode(texts, max_length=args.max_length)
    found = []
    for start in range(0, len(texts), args.batch_size):
        ids = np.full((args.batch_size, args.max_length), pad, np.int32)
        mask = np.zeros_like(ids)
        for row, encoding in enumerate(encodings[start : start + args.batch_size]):
            ids[row, : len(encoding.ids)] = encoding.ids
            mask[row, : len(encoding.ids)] = 1
        found.append((ids, mask))
    return found


def read(args: argparse.Namespace, tokenizer: Tokenizer, pad: int) -> Data:
    def lines(path: Path | None, rows: int) -> list[str]:
        text = [] if path is None else path.read_text(encoding="utf-8").splitlines()
        return [line.strip() for line in text if line.strip()][:rows]

    calibration = lines(args.calibration, args.calibration_rows)
    known = set(calibration)
    test = [line for line in lines(args.test, args.test_rows) if line not in known]
    pairs = [line.split("\t") for line in lines(args.pairs, args.pair_rows)]
    both = [a for a, _, _ in pairs] + [b for _, b, _ in pairs]
    made = [batches(texts, tokenizer, args, pad) for texts in (calibration, test, both)]
    return Data(*made, np.array([float(score) for _, _, score in pairs]))


def vectors(states: Vectors, data: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Mean over the tokens, of length 1: float64 [sentences, C]."""

    def parts() -> Iterator[np.ndarray]:
        for ids, mask in data:
            hidden = np.asarray(states(ids, mask)).astype(np.float64)
            yield (hidden * mask[..., None]).sum(1)[mask.any(1)]

    total = np.concatenate(list(parts()))
    return total / np.linalg.norm(total, axis=1, keepdims=True)


class Comparison:
    """Float vectors, and how far others are from them."""

    def __init__(self, states: Vectors, data: Data) -> None:
        self.data, self.exact = data, vectors(states, data.test)
        self.above = np.triu_indices(len(self.exact), 1)
        self.similarities = (self.exact @ self.exact.T)[self.above]
        self.rows: list[Row] = []
        self.measure("float32", states)

    def measure(self, name: str, states: Vectors, seconds: float | None = None) -> None:
        found = vectors(states, self.data.test)
        similar = (found @ found.T)[self.above]
        row = Row(
            name,
            float(np.mean(1 - np.sum(found * self.exact, axis=1))),
            float(scipy.stats.spearmanr(similar, self.similarities).statistic),
            self._pairs(states),
            seconds,
        )
        self.rows.append(row)
        pairs = "" if row.pairs is None else f"{row.pairs:8.4f}"
        took = "" if seconds is None else f"{seconds:7.1f} s"
        print(f"{name:52} {row.distance:8.5f} {row.neighbours:8.5f} {pairs} {took}", flush=True)

    def _pairs(self, states: Vectors) -> float | None:
        if not self.data.pairs:
            return None
        first, second = np.split(vectors(states, self.data.pairs), 2)
        return float(scipy.stats.spearmanr(np.sum(first * second, 1), self.data.scores).statistic)


def integer_states(program: ib.IntegerModel) -> Vectors:
    # Scales are static, and of no effect on integers: without them, programs of one structure
    # are compiled once.
    bare = dataclasses.replace(program, scales=(), states=None)

    def states(ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        return np.asarray(bare.integers(ids, attention_mask=mask).last_hidden_state)

    return states


def use_one_scale(model: nnx.Module, places: tuple[str, ...]) -> None:
    """Give the activations at these places one scale for the whole tensor."""
    for path, module in nnx.iter_modules(model):
        if isinstance(module, QuantAct) and ".".join(map(str, path)).endswith(places):
            module.form = module.form._replace(granularity="tensor")
            module.x_min, module.x_max = empty_bounds(())


def schemes(args: argparse.Namespace, comparison: Comparison) -> None:
    """Every row of our own: freeze and measure."""
    everywhere = AFTER_LAYERNORM + AFTER_GELU + ON_VALUES
    arguments = comparison.data.arguments()

    def row(
        name: str,
        *,
        scheme: str = "channel",
        one_scale: tuple[str, ...] = (),
        correct: bool = False,
        **calibration: Any,
    ) -> None:
        if not wanted(args, name):
            return
        model = load(args.model, scheme)
        use_one_scale(model, one_scale)
        started = time.perf_counter()
        ib.calibrate(model, arguments, **calibration)
        if correct:
            ib.correct_biases(model, arguments)
        seconds = time.perf_counter() - started
        if calibration.get("search"):
            name += f" ({model.config.quantization.layernorm_migration})"
        comparison.measure(name, integer_states(ib.freeze(model)), seconds)

    row("I-BERT: one scale a tensor, 8-bit residual", scheme="reference")
    row("LayerNorm's integers as residual, one scale a tensor", one_scale=everywhere)
    row("... and channel factors after LayerNorm", one_scale=AFTER_GELU + ON_VALUES)
    row("... and a scale a channel after GELU", one_scale=ON_VALUES)
    row("... and on values and context")
    row("... and corrected biases: the default", correct=True)
    row("ranges by minmax of tokens alone", method="percentile", percentile=100)
    row("ranges by moving-average", method="moving-average")
    row("ranges by percentile 99.99", method="percentile")
    row("ranges by percentile 99.999", method="percentile", percentile=99.999)
    row("ranges by mse", method="mse")
    row("ranges by entropy", method="entropy")
    row("searched exponent", search=True)
    row("ranges by mse, corrected biases", method="mse", correct=True)


def wanted(args: argparse.Namespace, name: str) -> bool:
    return not args.rows or any(part in name for part in args.rows)


def load(directory: str, scheme: str) -> ib.IBertModel:
    model = ib.IBertModel.from_pretrained(directory, quantization=ib.QuantConfig(scheme=scheme))
    model.pooler = None  # the vectors are means
    return model


def peers(args: argparse.Namespace, comparison: Comparison) -> dict[str, str]:
    """Int8 runtimes, where they are installed; returns versions."""
    found: dict[str, str] = {}
    for measure in (onnxruntime_rows, openvino_rows):
        try:
            found |= measure(args, comparison)
        except ImportError as error:
            print(f"left out: {error}")
    return found


def torch_encoder(model: str) -> Any:
    """A torch module: ids and mask, int64 [B, T] -> last hidden states."""
    import torch
    import transformers

    class States(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = transformers.AutoModel.from_pretrained(model, attn_implementation="eager")

        def forward(self, ids: Any, mask: Any) -> Any:
            return self.model(ids, attention_mask=mask).last_hidden_state

    return States().eval()


def wide(ids: np.ndarray, mask: np.ndarray) -> dict[str, np.ndarray]:
    return {"ids": ids.astype(np.int64), "mask": mask.astype(np.int64)}


def onnxruntime_rows(args: argparse.Namespace, comparison: Comparison) -> dict[str, str]:
    """Dynamic int8: weights beforehand, activations as they come."""
    import onnxruntime
    import torch
    from onnxruntime.quantization import QuantType, quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        exported, quantized = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        example = torch.ones((args.batch_size, args.max_length), dtype=torch.int64)
        torch.onnx.export(
            torch_encoder(args.model),
            (example, example),
            str(exported),
            input_names=["ids", "mask"],
            dynamo=False,
        )
        for name, options in (
            ("ONNX Runtime, dynamic int8, a scale a tensor", {}),
            ("ONNX Runtime, dynamic int8, a scale a row", {"per_channel": True}),
        ):
            if not wanted(args, name):
                continue
            quantize_dynamic(exported, quantized, weight_type=QuantType.QInt8, **options)
            session = onnxruntime.InferenceSession(str(quantized))

            def states(ids: np.ndarray, mask: np.ndarray, session: Any = session) -> np.ndarray:
                return session.run(None, wide(ids, mask))[0]

            comparison.measure(name, states)
    return {"onnxruntime": onnxruntime.__version__}


def openvino_rows(args: argparse.Namespace, comparison: Comparison) -> dict[str, str]:
    """Post-training int8 by NNCF, smooth-quant, calibrated on the same sentences."""
    name = "OpenVINO, int8 (smooth-quant)"
    if not wanted(args, name):
        return {}
    import nncf
    import openvino
    import torch

    example = torch.ones((args.batch_size, args.max_length), dtype=torch.int64)
    converted = openvino.convert_model(
        torch_encoder(args.model), example_input={"ids": example, "mask": example}
    )
    batches = [wide(*batch) for batch in comparison.data.calibration]
    quantized = nncf.quantize(
        converted,
        nncf.Dataset(batches),
        model_type=nncf.ModelType.TRANSFORMER,
        subset_size=len(batches),
    )
    compiled = openvino.compile_model(quantized, "CPU")
    comparison.measure(name, lambda ids, mask: compiled(wide(ids, mask))[0])
    return {"openvino": openvino.__version__, "nncf": nncf.__version__}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("model", help="directory of the float checkpoint, its tokenizer beside it")
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--pairs", type=Path)
    parser.add_argument("--calibration-rows", type=int, default=512)
    parser.add_argument("--test-rows", type=int, default=1000)
    parser.add_argument("--pair-rows", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--max-length", type=int, default=64)
    parser.add_argument(
        "--rows", nargs="+", metavar="TEXT", help="only rows in whose names one of these occurs"
    )
    parser.add_argument("--name", help="of the model, for the record (default: its directory)")
    parser.add_argument("--record", type=Path, help="write the rows here, as JSON")
    args = parser.parse_args()
    use_compile_cache(None)
    model = load(args.model, "channel")
    data = read(args, Tokenizer.load(args.model), model.config.pad_token_id)
    graph, state = nnx.split(model)

    @jax.jit
    def run(state: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(ids, attention_mask=mask).last_hidden_state

    comparison = Comparison(
        lambda ids, mask: np.asarray(run(state, jnp.asarray(ids), jnp.asarray(mask))), data
    )
    schemes(args, comparison)
    versions = {"ibert_jax": ib.__version__, "jax": jax.__version__}
    versions |= peers(args, comparison)
    if args.record:
        record = {
            "versions": versions,
            "device": str(jax.devices()[0].device_kind),
            "model": args.name or Path(args.model).name,
            "sentences": {
                "calibration": sum(len(a["input_ids"]) for a in data.arguments()),
                "test": len(comparison.exact),
                "pairs": len(data.scores),
            },
            "max_length": args.max_length,
            "rows": [dataclasses.asdict(row) for row in comparison.rows],
        }
        args.record.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
