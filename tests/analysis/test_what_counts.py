"""Only tokens that the mask keeps count, every batch by what it holds."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import ibert_jax as ib
from ibert_jax.proof.saturation import at_the_ends, saturation
from ibert_jax.quantize.kept_tokens import kept_tokens
from ibert_jax.quantize.migration import search_migration

pytestmark = pytest.mark.usefixtures("unoptimized")


def batch(rows: int, length: int, seed: int, filler: int = 7) -> dict[str, np.ndarray]:
    """Rows of several lengths; where the mask is 0 stands ``filler``."""
    rng = np.random.default_rng(seed)
    ids, lengths = rng.integers(3, 50, (rows, length)), rng.integers(1, length + 1, (rows, 1))
    mask = (np.arange(length) < lengths).astype(np.int32)
    return {"input_ids": np.where(mask, ids, filler), "attention_mask": mask}


def calibrated(kind: str = "IBertModel") -> Any:
    config = ib.IBertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=16, initializer_range=0.3,
        quantization=ib.QuantConfig(activation_bits=4),
    )  # fmt: skip
    model = getattr(ib, kind)(config, rngs=nnx.Rngs(0))
    return ib.calibrate(model, [batch(4, 9, 0)])


def shifts(model: Any, batches: list[Any]) -> dict[str, np.ndarray]:
    """What bias correction adds to each bias."""
    corrected = ib.correct_biases(nnx.clone(model), batches)
    before = model.tensors()
    return {
        n: np.asarray(v - before[n])
        for n, v in corrected.tensors().items()
        if n.endswith("dense.bias")
    }


def test_biases_are_corrected_by_the_tokens_that_count() -> None:
    model = calibrated()
    one, other = batch(2, 9, 1), batch(6, 9, 2)
    mine, refilled = shifts(model, [one]), shifts(model, [batch(2, 9, 1, filler=40)])
    theirs, both = shifts(model, [other]), shifts(model, [one, other])
    counts = [each["attention_mask"].sum() for each in (one, other)]
    for name in (n for n in mine if n.startswith("encoder")):
        assert np.abs(mine[name]).max() > 1e-4
        np.testing.assert_allclose(mine[name], refilled[name], rtol=0, atol=1e-6)
        mean = (counts[0] * mine[name] + counts[1] * theirs[name]) / sum(counts)
        np.testing.assert_allclose(both[name], mean, rtol=0, atol=1e-6)


def test_saturation_is_of_the_tokens_that_count() -> None:
    model = calibrated()
    one, other = (ib.calibration_report(model, [batch(4, 9, 3, f)]).rows for f in (7, 40))
    assert [row.saturated for row in one] == [row.saturated for row in other]


@pytest.mark.parametrize("kind", ["IBertModel", "IBertForQuestionAnswering"])
def test_sensitivity_is_of_the_tokens_that_count_in_all_batches(kind: str) -> None:
    model = calibrated(kind)

    def everything(*batches: Any) -> float:
        return ib.sensitivity(model, batches, leaves="*.query").everything

    one, two = batch(4, 9, 3), batch(4, 9, 4)
    alone = everything(one), everything(two)
    assert alone[0] != pytest.approx(alone[1], rel=1e-3)
    assert everything(batch(4, 9, 3, filler=40)) == pytest.approx(alone[0], rel=1e-4)
    assert everything(one, two) == pytest.approx(everything(two, one), rel=1e-5)


def test_of_scored_tokens_those_count_that_the_mask_keeps() -> None:
    """A masked language model that is asked for some tokens, among them one of padding."""
    model, seen = calibrated("IBertForMaskedLM"), batch(4, 9, 3)
    seen["attention_mask"] = (np.arange(9) < np.full((4, 1), 5)).astype(np.int32)
    one, other = ({**seen, "scored_tokens": np.tile(s, (4, 1))} for s in ([1, 3], [1, 3, 7]))
    assert kept_tokens(other, (4, 3)).tolist() == [[True, True, False]] * 4
    assert kept_tokens(other, (4, 9)).tolist() == (seen["attention_mask"] == 1).tolist()
    assert kept_tokens({"scored_tokens": other["scored_tokens"]}, (4, 3)) is None

    found = [ib.sensitivity(model, [asked], leaves="*.query").everything for asked in (one, other)]
    assert found[0] == pytest.approx(found[1], rel=1e-5) and found[0] > 0
    assert search_migration(model, [one]) == pytest.approx(search_migration(model, [other]), 1e-4)
    model.quantize(True)
    whole = shifts(model, [seen])
    for name, shift in shifts(model, [other]).items():  # every token tells of biases
        np.testing.assert_allclose(shift, whole[name], rtol=0, atol=1e-6)
    program, head = ib.freeze(model), []
    for asked in (one, other):
        shares = saturation(program, [asked])
        head.append({path: share for path, share in shares.items() if "lm_head" in path})
    assert head[0] == head[1] and max(head[0].values()) > 0
    ends = []
    for asked in (one, other):
        acts = ib.calibrate(model, [asked], "mse").leaves()
        ends.append(np.asarray(acts["lm_head.output_act"].absolute_range()))
    assert ends[0].tolist() == ends[1].tolist()


def test_ignored_labels_take_no_part_in_accuracy() -> None:
    model = calibrated("IBertForSequenceClassification")
    one = batch(6, 9, 3)
    labels = np.asarray(nnx.clone(model).quantize(False)(**one).logits).argmax(-1)
    labels[1] = 1 - labels[1]
    labels[3:] = -100
    found = ib.sensitivity(model, [{**one, "labels": labels}], leaves="*.query")
    assert found.accuracy_float == pytest.approx(2 / 3)


def test_both_ends_of_a_range_saturate():
    q = jnp.asarray([[-128, 0, 127, 5]], jnp.int8)
    assert [int(x) for x in at_the_ends(q, 127, {})] == [2, 4]


def test_a_certificates_saturation_is_of_the_tokens_that_count() -> None:
    program = ib.freeze(calibrated())
    one, other = (saturation(program, [batch(4, 9, 3, filler)]) for filler in (7, 40))
    per_token = {path for path in one if not path.startswith("pooler")}
    assert {p: one[p] for p in per_token} == {p: other[p] for p in per_token}
    assert max(one.values()) > 0


def test_the_exponent_is_searched_on_the_tokens_that_count() -> None:
    model = calibrated()
    one, other = (search_migration(model, [batch(4, 9, 3, filler)]) for filler in (7, 40))
    assert one == pytest.approx(other, rel=1e-4)
