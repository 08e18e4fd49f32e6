"""How far a quantized I-BERT is apart in PyTorch and here, leaf by leaf, and why.

    python -m conversion.audit DIRECTORY --text sentences.txt

DIRECTORY is an I-BERT of Hugging Face's layout that was trained quantization-aware. It runs as a
float64 simulation of the published code, its known defects mended (``conversion.simulation``),
and here in three lives: float, quantization-aware, frozen. Distances are in steps of a leaf's
output: of an activation, its own scale; of softmax, 1/256; of an embedding, the published table's;
of a result that is not requantized yet, the 8-bit step of its range. Only real tokens count.
"""

from __future__ import annotations

import argparse
import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conversion import lives, simulation
from conversion.command import run
from conversion.simulation import Result
from ibert_jax import models
from ibert_jax.checkpoints import CheckpointError
from ibert_jax.config import IBertConfig
from ibert_jax.frozen import freeze
from ibert_jax.lines import read_lines
from ibert_jax.models.pretrained import IBertPreTrainedModel
from ibert_jax.proof.divergence import first_divergence
from ibert_jax.tokenizer import Tokenizer

WANTED = 0.99
"""The share of elements that must be within one step where the same integers come in."""

LOST_SCALE = "lost scale"
FLOAT32 = "float32"
STALE_RANGE = "stale range"
DEFECTS: Mapping[str, str] = {
    LOST_SCALE: "the published encoder hands no scale to the next layer, whose integers are none",
    FLOAT32: "the published integers are float32, which holds 24 bits of the up to 46 they need",
    STALE_RANGE: "the published range of exponentials lags behind its unit: large weights saturate",
    "float head": "the published code leaves poolers, heads and tanh in float",
    "clamp": "published weights are clipped to -127..126, here to -127..127",
    "softmax": "the published exponential floors ln2 / scale; weights may reach 256, here 255",
    "layer norm": "the published LayerNorm divides the bias by the weight, with a shift per tensor",
    "two additions": "the published embeddings are added in two steps, each rounded to 16 bits",
    "short scale": "scales here are rounded up to 12 bits, by at most 0.05%",
}

# The end of a leaf's path -> the differences that are known of it.
KNOWN: Mapping[str, tuple[str, ...]] = {
    "embeddings_act1": ("two additions", "short scale"),
    "word_embeddings": ("clamp",),
    "token_type_embeddings": ("clamp",),
    "position_embeddings": ("clamp",),
    "softmax": ("softmax", STALE_RANGE),
    "LayerNorm": ("layer norm",),
    "query": ("clamp", "short scale"),
    "key": ("clamp", "short scale"),
    "value": ("clamp", "short scale"),
    "dense": ("clamp", "short scale"),
    "ln_input_act": ("short scale",),
}
HEADS = ("classifier", "pooler", "lm_head", "qa_outputs", "hidden_act")


class Distance(NamedTuple):
    """Of one leaf, in steps of its output.

    Attributes:
      leaf: its path.
      fed_within, fed_mean: where the simulation's integers come in: the share of elements within
        one step, the mean distance; None for leaves of heads, which the simulation has in float.
      free_within, free_mean: where everything before has run here too.
      float_mean: of the float life.
    """

    leaf: str
    fed_within: float | None
    fed_mean: float | None
    free_within: float
    free_mean: float
    float_mean: float


class Audit(NamedTuple):
    """What there is to report.

    Attributes:
      distances: one for each leaf, in the order of execution.
      defects: by layer, the mean distance in steps between the mended simulation and the one with
        a single defect left in it, by the defect's name.
      frozen: None where the frozen program has every integer of the quantization-aware life, else
        the first that differs.
      logits: by pair of runs, the largest distance between logits.
      agreement: by pair of runs, the share of equal argmaxes over the last dimension.
    """

    distances: tuple[Distance, ...]
    defects: Mapping[str, Mapping[str, float]]
    frozen: str | None
    logits: Mapping[str, float]
    agreement: Mapping[str, float]

    @property
    def failing(self) -> tuple[str, ...]:
        """Leaves that are not within one step often enough though fed the same integers."""
        return tuple(
            d.leaf for d in self.distances if d.fed_within is not None and d.fed_within < WANTED
        )


def audit(directory: str | os.PathLike[str], inputs: Mapping[str, np.ndarray]) -> Audit:
    """Measure; ``inputs`` are the arguments of a model, ``input_ids`` and ``attention_mask``.

    They are [B, T]; a multiple-choice model takes the B sentences for the choices of one question.

    Raises:
        CheckpointError: no quantized I-BERT, or one whose ranges were never filled.
    """
    theirs = simulation.load(directory)
    kind: type[IBertPreTrainedModel] = getattr(models, type(theirs).__name__)
    ours = kind.from_pretrained(directory)
    try:
        program = freeze(ours)
    except ValueError as error:
        raise CheckpointError(directory, [str(error)]) from None
    arguments = dict(inputs)
    if ours.head == "multiple_choice":
        arguments = {name: array[None] for name, array in inputs.items()}
    mended = simulation.run(theirs, arguments)
    published = simulation.run(theirs, arguments, handed_on=False, exact=False, settled=False)
    defective = {
        LOST_SCALE: simulation.run(theirs, arguments, handed_on=False),
        FLOAT32: simulation.run(theirs, arguments, exact=False),
        STALE_RANGE: simulation.run(theirs, arguments, settled=False),
    }
    floats = lives.run(ours.quantize(False), arguments, mended)
    integers = lives.run(ours.quantize(), arguments, mended)
    apart = first_divergence(integers.integers, program, **arguments)

    mask = np.asarray(inputs["attention_mask"]) != 0
    head_size = ours.config.head_size
    simulations = {"simulation": mended, **defective, "published": published}
    runs: dict[str, np.ndarray] = {
        name: r["logits"].value for name, r in simulations.items() if "logits" in r
    }
    if runs:
        runs |= {"quantized": integers.logits, "float": floats.logits}
    pairs = [("simulation", other) for other in runs if other != "simulation"]
    pairs += [("published", other) for other in ("quantized", "float") if runs]
    return Audit(
        tuple(_distances(integers.leaves, floats.leaves, mended, mask, head_size)),
        _by_layer(mended, defective, mask),
        None if apart is None else str(apart),
        {f"{a} and {b}": float(np.abs(runs[a] - runs[b]).max()) for a, b in pairs},
        {f"{a} and {b}": _same_argmax(runs[a], runs[b]) for a, b in pairs},
    )


def _distances(
    integers: Mapping[str, lives.LeafResult],
    floats: Mapping[str, lives.LeafResult],
    simulated: Mapping[str, Result],
    mask: np.ndarray,
    head_size: int,
) -> Iterable[Distance]:
    for path, mine in integers.items():
        source = lives.counterpart(path, simulated, head_size)
        if source is None or source.value.shape != mine.value.shape:
            continue  # operations that the published code does not have
        expected = _real(source.value, mask)
        whole = True  # integers on either side
        if mine.step is not None:
            step = float(mine.step)
        elif path.endswith("_embeddings") and source.scale is not None:
            step = float(source.scale)
        else:
            step, whole = max(float(np.abs(expected).max()), 1e-12) / 127, False

        def steps(value: np.ndarray, expected=expected, step=step, whole=whole) -> np.ndarray:
            real = _real(value, mask)
            if whole:
                return np.abs(np.round(real / step) - np.round(expected / step))
            return np.abs(real - expected) / step

        fed = None if mine.fed is None or _is_head(path) else steps(mine.fed)
        free = steps(mine.value)
        yield Distance(
            path,
            None if fed is None else _within(fed),
            None if fed is None else float(fed.mean()),
            _within(free),
            float(free.mean()),
            float(np.abs(_real(floats[path].value, mask) - expected).mean() / step)
            if path in floats
            else float("nan"),
        )


def _within(steps: np.ndarray) -> float:
    """The share of distances of one step and less, but for float64's rounding of exactly one."""
    return float((steps <= 1 + 1e-6).mean())


def _real(value: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The elements of real tokens: [B, T, C] -> [N, C], [B, H, T, T] -> [N]; others flat."""
    value = np.asarray(value, np.float64)
    if value.ndim == 4:
        pairs = mask[:, None, :, None] & mask[:, None, None, :]
        return value[np.broadcast_to(pairs, value.shape)]
    return value[mask] if value.shape[:2] == mask.shape else value.reshape(-1)


def _is_head(path: str) -> bool:
    return path.startswith(HEADS)


def _by_layer(
    mended: Mapping[str, Result], defective: Mapping[str, Mapping[str, Result]], mask: np.ndarray
) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for path, result in mended.items():
        name = path.removesuffix(".output.output_activation")
        if name == path or not name.split(".")[-1].isdigit() or path.startswith(simulation.INPUT):
            continue
        expected, scale = _real(result.value, mask), result.scale
        found[name] = {
            defect: float((np.abs(_real(run[path].value, mask) - expected) / scale).mean())
            for defect, run in defective.items()
        }
    return found


def _same_argmax(a: np.ndarray, b: np.ndarray) -> float:
    return float((a.argmax(-1) == b.argmax(-1)).mean())


def report(found: Audit) -> str:
    """The audit as text."""
    lines = [
        "Steps of the leaf's output; fed: the simulation's integers come in; free: its own.",
        f"{'leaf':58} {'fed: mean':>10} {'within 1':>9} {'free: mean':>10} {'within 1':>9} "
        f"{'float':>8}  known differences",
    ]
    for d in found.distances:
        known = ("float head",) if _is_head(d.leaf) else KNOWN.get(d.leaf.rpartition(".")[2], ())
        fed = " " * 20 if d.fed_mean is None else f"{d.fed_mean:10.4f} {d.fed_within:9.2%}"
        lines.append(
            f"{d.leaf:58} {fed} {d.free_mean:10.3f} {d.free_within:9.2%} {d.float_mean:8.2f}  "
            f"{', '.join(known)}"
        )
    lines += ["", "What is left where one defect of the published code stays in the simulation:"]
    for layer, defects in found.defects.items():
        shown = ", ".join(f"{name} {steps:.3f} steps" for name, steps in defects.items())
        lines.append(f"  {layer}: {shown}")
    lines += ["", "Known differences:"]
    lines += [f"  {name}: {meaning}" for name, meaning in DEFECTS.items()]
    same = "every integer of the quantization-aware life" if found.frozen is None else found.frozen
    lines += ["", f"The frozen program has: {same}"]
    for pair, apart in found.logits.items():
        agreement = f"{found.agreement[pair]:.2%} of argmaxes"
        lines.append(f"Logits of {pair}: at most {apart:.4f} apart, {agreement} agree")
    judged = [d.fed_within for d in found.distances if d.fed_within is not None]
    lines.append(
        f"{len(judged) - len(found.failing)} of {len(judged)} leaves are within one step in "
        f"{WANTED:.0%} of elements, fed the same integers"
        + (f"; not {', '.join(found.failing)}" if found.failing else "")
    )
    return "\n".join(lines)


def read_inputs(
    directory: str | os.PathLike[str], text: str | os.PathLike[str], lines: int, length: int
) -> dict[str, np.ndarray]:
    """The first lines of a text that are not empty, tokenized and padded."""
    read = (line.text.strip() for line in read_lines(Path(text)))
    sentences = list(itertools.islice(filter(None, read), lines))
    if not sentences:
        raise ValueError(f"expected sentences, one a line; {text} holds none")
    padding = IBertConfig.from_json_file(Path(directory) / "config.json").pad_token_id
    encoded = [e.ids for e in Tokenizer.load(Path(directory)).encode(sentences, max_length=length)]
    ids = np.full((len(encoded), max(map(len, encoded))), padding, np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m conversion.audit",
        description="How far a quantized I-BERT is apart in PyTorch and here, leaf by leaf.",
    )
    parser.add_argument("directory", help="a quantized I-BERT of Hugging Face's layout")
    parser.add_argument("--text", required=True, metavar="FILE", help="one sentence a line")
    parser.add_argument("--lines", type=int, default=32, help="how many of them (default 32)")
    parser.add_argument("--length", type=int, default=64, help="tokens at most (default 64)")
    options = parser.parse_args(arguments)
    inputs = read_inputs(options.directory, options.text, options.lines, options.length)
    print(report(audit(options.directory, inputs)))


if __name__ == "__main__":
    run(main)
