"""Make the model inside the package: MiniLM, finetuned on SST-2, quantized, frozen.

    python benchmarks/embedded_model.py --checkpoint MINILM --data SST2 --work RUNS

MINILM is a directory with the sentence-transformers/all-MiniLM-L6-v2 checkpoint, SST2 one with
GLUE's SST-2 as ``train.tsv`` (and ``train_holdout.tsv``, if the training split is in two files)
and ``dev.tsv``. Everything is fixed beforehand: seed, epochs, learning rates; nothing is chosen by
looking at the dev set, which only the final figures are taken from. Each stage resumes where it
was killed. The run's logs stay in RUNS; ``--output`` receives model, tokenizer and model card.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path

import jax
import jaxlib

import ibert_jax
from ibert_jax.cli import main as command
from ibert_jax.frozen.storage import TENSORS_FILE

FLOAT: dict[str, object] = {
    "--float-epochs": 2,
    "--qat-epochs": 0,
    "--learning-rate": 5e-5,
    "--warmup": 0.1,
    "--length-buckets": 6,
}
QAT: dict[str, object] = {
    "--float-epochs": 0,
    "--qat-epochs": 1,
    "--qat-learning-rate": 5e-6,
    "--max-steps": 1000,
    "--length-buckets": 4,
    "--checkpoint-every": 200,
}
COMMON = {"--batch-size": 32, "--max-length": 128, "--seed": 0}

CARD = """\
# MiniLM-L6 on SST-2, integers only

Says of an English sentence whether its sentiment is `negative` or `positive`. Between token ids and
int32 logits this model holds no floating-point operation; `ibert-jax certify` shows it.

| | |
|---|---|
| base | sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0): 6 layers, 384 channels, 12 heads |
| data | SST-2 of GLUE, the whole training split, {sentences} phrases of film reviews |
| float stage | {float_epochs} epochs, AdamW, rate {float_rate}, batch {batch}, warm-up 10% |
| quantization-aware stage | {qat_steps} steps, rate {qat_rate}, no warm-up |
| both | seed {seed}; rate decays linearly to 0, gradient norm clipped at 1 |
| scheme | {scheme} |
| made by | `benchmarks/embedded_model.py`, ibert_jax {version}, jax {jax}, jaxlib {jaxlib} |

Accuracy on SST-2 dev ({rows} sentences), which nothing was selected on:

| model | accuracy |
|---|---|
| float | {float_accuracy:.2%} |
| quantized, calibrated only | {calibrated:.2%} |
| quantized, trained; the frozen program gives the same integers | {qat:.2%} |

Trained on short phrases of English film reviews, it knows nothing else: other languages, domains
and long texts (beyond {length} tokens) are out of scope, and it inherits the biases of its data.
The model is {size:.1f} MB, nearly all of it integers of 8 bits.
"""


def flags(values: dict[str, object]) -> list[str]:
    """Command-line words of options."""
    return [str(word) for item in values.items() for word in item]


def train(model: Path, data: Path, run: Path, stage: dict[str, object]) -> dict[str, object]:
    """Run (or resume, or find finished) one stage; its summary."""
    files = [data / name for name in ("train.tsv", "train_holdout.tsv")]
    words = ["train", str(model), "--output", str(run), "--dev", str(data / "dev.tsv")]
    words += ["--train", *(str(file) for file in files if file.is_file())]
    words += ["--labels", "negative", "positive", *flags(COMMON), *flags(stage)]
    if command(words) != 0:
        raise SystemExit(f"the stage in {run} failed")
    return json.loads((run / "summary.json").read_text())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(ibert_jax.__file__).parent / "assets")
    arguments = parser.parse_args()

    first = train(arguments.checkpoint, arguments.data, arguments.work / "float", FLOAT)
    second = train(arguments.work / "float" / "float", arguments.data, arguments.work / "qat", QAT)
    frozen = arguments.work / "frozen"
    if command(["freeze", str(arguments.work / "qat" / "qat"), str(frozen)]) != 0:
        raise SystemExit("freezing failed")
    write(frozen, arguments.output, first, second)


def write(frozen: Path, output: Path, first: dict, second: dict) -> None:
    """Copy the frozen model and write its card."""
    output.mkdir(parents=True, exist_ok=True)
    for file in frozen.iterdir():
        shutil.copyfile(file, output / file.name)
    program = ibert_jax.IntegerModel.load(output)
    accuracy = {**first["results"], **second["results"]}
    size = (output / TENSORS_FILE).stat().st_size / 1e6
    card = CARD.format(
        sentences="67,349",
        float_epochs=FLOAT["--float-epochs"],
        float_rate=FLOAT["--learning-rate"],
        batch=COMMON["--batch-size"],
        seed=COMMON["--seed"],
        qat_steps=QAT["--max-steps"],
        qat_rate=QAT["--qat-learning-rate"],
        scheme=program.config.quantization.scheme,
        version=ibert_jax.__version__,
        jax=jax.__version__,
        jaxlib=jaxlib.__version__,
        rows=872,
        float_accuracy=first["results"]["float"]["accuracy"],
        calibrated=accuracy["calibrated"]["accuracy"],
        qat=accuracy["qat"]["accuracy"],
        length=program.config.max_sequence_length,
        size=size,
    )
    (output / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(card)


if __name__ == "__main__":
    main()
