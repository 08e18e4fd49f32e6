"""The audit's two sides: the simulation is the published code mended, and we are a step from it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from conversion import audit, simulation
from ibert_jax.checkpoints import CheckpointError

from .conftest import quantized_ibert

WORDS = ("[CLS]", "[PAD]", "[SEP]", "[UNK]", *(f"w{i}" for i in range(96)))
SIZES = {
    "vocab_size": len(WORDS),
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 40,
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A quantized I-BERT, and a tokenizer that knows its words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    directory = tmp_path_factory.mktemp("audit") / "checkpoint"
    quantized_ibert(3, **SIZES).save_pretrained(directory)
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 0), ("[SEP]", 2)]
    )
    backend.save(str(directory / "tokenizer.json"))
    return directory


@pytest.fixture(scope="module")
def inputs(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, np.ndarray]:
    text = tmp_path_factory.mktemp("text") / "text.txt"
    draw = np.random.default_rng(0)
    sentences = [" ".join(f"w{i}" for i in draw.integers(96, size=n)) for n in (14, 9, 3, 14)]
    text.write_text("\n".join(["", *sentences, "never read"]) + "\n")
    return audit.read_inputs(checkpoint, text, lines=4, length=12)


@pytest.fixture(scope="module")
def found(checkpoint: Path, inputs: dict[str, np.ndarray]) -> audit.Audit:
    return audit.audit(checkpoint, inputs)


def test_sentences_become_padded_batches(inputs: dict[str, np.ndarray]):
    assert inputs["input_ids"].shape == (4, 12)
    assert inputs["attention_mask"].sum(1).tolist() == [12, 11, 5, 12]
    assert (inputs["input_ids"][2, 5:] == 1).all()


def test_left_as_it_is_the_simulation_is_the_published_code(
    checkpoint: Path, inputs: dict[str, np.ndarray]
):
    model = simulation.load(checkpoint)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    asis = simulation.run(model, inputs, handed_on=False, exact=False, settled=False)
    mended = simulation.run(model, inputs)
    after = model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    with torch.no_grad():
        logits = model(**{k: torch.from_numpy(v) for k, v in inputs.items()}).logits.numpy()
    np.testing.assert_array_equal(asis["logits"].value, logits)
    assert np.abs(mended["logits"].value - logits).max() > 1e-4, "mending changes something"


def test_mended_every_layer_works_on_integers(checkpoint: Path, inputs: dict[str, np.ndarray]):
    """What enters a layer's matmuls is a whole multiple of the scale beside it."""
    model = simulation.load(checkpoint)

    def off_the_integers(**options: bool) -> float:
        entering = simulation.run(model, inputs, **options)[
            f"{simulation.INPUT}encoder.layer.1.attention.self.query"
        ]
        assert entering.scale is not None
        return float(np.abs(entering.value / entering.scale - entering.integers).max())

    assert off_the_integers() < 1e-9
    assert off_the_integers(handed_on=False) > 0.1


def test_mended_the_softmax_spans_its_exponentials(checkpoint: Path, inputs: dict[str, np.ndarray]):
    """Each row's largest exponential, that of 0, takes the whole of the 16 bits."""
    model = simulation.load(checkpoint)
    act = "encoder.layer.1.attention.self.softmax.act"
    assert simulation.run(model, inputs)[act].integers.max() == 2**15 - 1
    # Three training steps in, the moving average is off the range by more than a step.
    entering = simulation.run(model, inputs, settled=False)
    stale, largest = entering[act].scale, entering[simulation.INPUT + act].value.max()
    assert stale is not None
    assert abs(largest / stale - (2**15 - 1)) > 10


def test_every_leaf_is_within_a_step_of_the_simulation(found: audit.Audit):
    """The same integers come in; 99% of what comes out is the same but for one step."""
    judged = [d for d in found.distances if d.fed_within is not None]
    assert len(judged) == 4 + 2 + 2 * 23
    assert found.failing == ()
    for distance in judged:
        assert distance.fed_mean is not None and distance.fed_mean < 0.5, distance


def test_free_running_drift_and_defects_are_reported(found: audit.Audit):
    layers = {f"encoder.layer.{i}" for i in range(2)}
    assert found.defects.keys() == layers
    # Every layer but the first starts from what the published encoder lost.
    assert found.defects["encoder.layer.0"][audit.LOST_SCALE] == 0
    assert found.defects["encoder.layer.1"][audit.LOST_SCALE] > 0.05
    for layer in layers:
        (output,) = (d for d in found.distances if d.leaf == f"{layer}.output.output_activation")
        # Measured 0.24 and 0.72 for the two layers of another such model; noise would be 30.
        assert 0 < output.free_mean < 3
        assert 0 < output.float_mean < 5


def test_the_frozen_program_and_the_logits(found: audit.Audit):
    assert found.frozen is None, "the frozen logits are those of the quantized life"
    for pair in (
        "simulation and quantized",
        "simulation and float",
        "simulation and lost scale",
        "published and quantized",
    ):
        # Logits spread over several units here. Two 8-bit roundings of one network are about as
        # far apart as either is from the float one; a wrong range or scale would give units.
        assert 0 < found.logits[pair] < 0.4, pair
        assert 0 <= found.agreement[pair] <= 1
    assert found.logits["published and quantized"] < 2 * found.logits["published and float"]


def test_the_report_names_leaves_figures_and_defects(found: audit.Audit):
    text = audit.report(found)
    for distance in found.distances:
        assert distance.leaf in text
    for name in audit.DEFECTS:
        assert f"\n  {name}: " in text
    assert "every integer of the quantization-aware life" in text
    assert text.splitlines()[-1] == (
        "52 of 52 leaves are within one step in 99% of elements, fed the same integers"
    )
    row = next(line for line in text.splitlines() if line.startswith("classifier.dense "))
    assert row.endswith("float head")


def test_a_multiple_choice_model_chooses_among_the_sentences(
    checkpoint: Path, inputs: dict[str, np.ndarray], tmp_path: Path
):
    torch.manual_seed(0)  # of its head
    transformers.IBertForMultipleChoice.from_pretrained(checkpoint).save_pretrained(tmp_path)
    found = audit.audit(tmp_path, inputs)
    assert (found.failing, found.frozen) == ((), None)
    assert "classifier" in {d.leaf for d in found.distances}
    assert set(found.agreement.values()) <= {0.0, 1.0}, "one question"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"quant_mode": False}, "must be an I-BERT of Hugging Face's layout with quant_mode true"),
        ({"architectures": ["RobertaModel"]}, "must be an I-BERT of Hugging Face's layout"),
        ({"architectures": []}, "names no architecture of I-BERT"),
    ],
)
def test_what_cannot_be_audited(
    checkpoint: Path, tmp_path: Path, change: dict[str, Any], sentence: str
):
    config = json.loads((checkpoint / "config.json").read_text()) | change
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=sentence):
        simulation.load(tmp_path)


def test_ranges_that_were_never_filled_are_named(tmp_path: Path, inputs: dict[str, np.ndarray]):
    quantized_ibert(0, **SIZES).save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"ranges were never calibrated \(.*act"):
        audit.audit(tmp_path, inputs)


def test_no_text(tmp_path: Path, checkpoint: Path):
    (tmp_path / "empty.txt").write_text("\n\n")
    with pytest.raises(ValueError, match=r"expected sentences, one a line; .*empty.txt holds none"):
        audit.read_inputs(checkpoint, tmp_path / "empty.txt", lines=4, length=12)


def test_nonlinearities_left_in_float_are_those_of_the_published_code(
    inputs: dict[str, np.ndarray], tmp_path: Path
):
    quantized_ibert(3, **SIZES, force_dequant="nonlinear").save_pretrained(tmp_path)
    found = audit.audit(tmp_path, inputs)
    assert found.failing == ()
    fed = {d.leaf: d.fed_mean for d in found.distances}
    nonlinear = [fed[path] for path in fed if path.endswith(("LayerNorm", "act_fn", "softmax"))]
    assert len(nonlinear) == 9
    # In integers they are some 0.02 steps away.
    assert max(x for x in nonlinear if x is not None) < 2e-3
