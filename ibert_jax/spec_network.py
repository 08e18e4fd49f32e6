"""The whole network in plain Python integers: ``spec``'s operations in the order of I-BERT.

What a frozen program computes from token ids to int32 logits, a sentence at a time and a number
at a time: nothing but ``spec`` and Python lists. It is slow, and it is the definition: a
program's every tensor is tested for equality with it.

A leaf is a mapping of its ``kind`` and its fields, arrays as nested lists and a multiplier as a
mapping of m, offset, shift and pre; ``leaves`` maps each leaf's path to it. Tensors of one
sentence are lists: [T][C], attention's [H][T][T]. Dropout, which is nothing in a frozen program,
is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import repeat
from typing import Any

from ibert_jax import spec

Leaf = Mapping[str, Any]
Rows = list[list[int]]

# ------------------------------------------------------------------------ one leaf at a time


def constants(multiplier: Leaf, channels: int) -> list[spec.Multiplier]:
    """A multiplier's constants for each of so many channels."""
    columns = [multiplier[name] for name in ("m", "offset", "shift", "pre")]
    columns[3] = columns[3] or 0  # None: no left shift anywhere
    each = [c if isinstance(c, list) else repeat(c, channels) for c in columns]
    return [(m, offset, shift, pre) for m, offset, shift, pre in zip(*each, strict=True)]


def embedding(leaf: Leaf, ids: Sequence[int]) -> Rows:
    return [spec.embedding(leaf["weight"][i], leaf["ratio"][i]) for i in ids]


def activation(leaf: Leaf, *operands: Rows) -> Rows:
    channels = len(operands[0][0])
    per_operand = [constants(m, channels) for m in leaf["multipliers"]]
    per_channel = list(zip(*per_operand, strict=True))
    return [
        [
            spec.activation(parts, c, leaf["bits"])
            for parts, c in zip(zip(*rows, strict=True), per_channel, strict=True)
        ]
        for rows in zip(*operands, strict=True)
    ]


def narrow_activation(leaf: Leaf, x: Rows) -> Rows:
    """Where layers differ in width: saturated at the widest layer's, then at its own."""
    rows = activation({"multipliers": [leaf["multiplier"]], "bits": leaf["bits"]}, x)
    return [[min(max(q, ~leaf["highest"]), leaf["highest"]) for q in row] for row in rows]


def linear(leaf: Leaf, x: Rows) -> Rows:
    return [spec.linear(row, leaf["weight"], leaf["bias"]) for row in x]


def layernorm(leaf: Leaf, x: Rows) -> Rows:
    return [spec.layernorm(row, (leaf["eps_mantissa"], leaf["eps_exponent"])) for row in x]


def to_16_bits(leaf: Leaf, row: list[int]) -> list[int]:
    """A row on the fixed grid of a nonlinear kernel."""
    pairs = zip(row, constants(leaf["multiplier"], len(row)), strict=True)
    return [spec.requantize(q, c, 16, wide=False) for q, c in pairs]


def gelu(leaf: Leaf, x: Rows) -> Rows:
    return [[spec.igelu(q, leaf["grid"]) for q in to_16_bits(leaf, row)] for row in x]


def tanh(leaf: Leaf, x: Rows) -> Rows:
    return [[spec.itanh(q) for q in to_16_bits(leaf, row)] for row in x]


def split(leaf: Leaf, x: Rows) -> list[Rows]:
    """[T][H D] -> [H][T][D]."""
    width = len(x[0]) // leaf["heads"]
    return [[row[h * width : (h + 1) * width] for row in x] for h in range(leaf["heads"])]


def scores(leaf: Leaf, query: Rows, key: Rows) -> list[Rows]:
    return [
        [[sum(a * b for a, b in zip(q, k, strict=True)) for k in keys] for q in queries]
        for queries, keys in zip(split(leaf, query), split(leaf, key), strict=True)
    ]


def softmax(leaf: Leaf, x: list[Rows], mask: Sequence[bool]) -> tuple[list[Rows], list[Rows]]:
    """Numerators [H][T][T] and row sums [H][T][1]."""
    row_softmax = spec.softmax_reference if leaf["published"] else spec.softmax_numerators
    (factor,) = constants(leaf["multiplier"], 1)
    rows = [[row_softmax(row, mask, factor) for row in head] for head in x]
    return [[n for n, _ in head] for head in rows], [
        [[total] for _, total in head] for head in rows
    ]


def context(leaf: Leaf, weights: tuple[list[Rows], list[Rows]], value: Rows) -> Rows:
    """The weighted mean of the values, heads side by side again: [T][H D]."""
    heads = [
        [
            [
                spec.divide_by_row_sum(sum(n * v for n, v in zip(row, column, strict=True)), total)
                for column in zip(*values, strict=True)
            ]
            for row, (total,) in zip(numerators, sums, strict=True)
        ]
        for numerators, sums, values in zip(*weights, split(leaf, value), strict=True)
    ]
    return [[x for head in heads for x in head[t]] for t in range(len(value))]


def decoder(leaf: Leaf, x: Rows, table: Leaf) -> Rows:
    """Every row of the embedding table against x, brought to one scale, the bias on the way."""
    nothing = [0] * len(table["weight"])
    per_row = constants(leaf["multiplier"], len(nothing))
    return [
        [
            spec.rescale(q, c, wide=False)
            for q, c in zip(spec.linear(row, table["weight"], nothing), per_row, strict=True)
        ]
        for row in x
    ]


def unchanged(leaf: Leaf, x: Any) -> Any:
    del leaf
    return x


OPERATIONS: dict[str, Callable[..., Any]] = {
    "IntegerEmbedding": embedding,
    "IntegerAct": activation,
    "IntegerNarrowAct": narrow_activation,
    "IntegerPass": unchanged,
    "IntegerLinear": linear,
    "IntegerLayerNorm": layernorm,
    "IntegerGELU": gelu,
    "IntegerTanh": tanh,
    "IntegerScores": scores,
    "IntegerSoftmax": softmax,
    "IntegerContext": context,
    "IntegerDecoder": decoder,
}

# -------------------------------------------------------------------------------- the network


class Sentence:
    """One sentence on its way; ``tensors`` keeps every leaf's result by path, in order."""

    def __init__(self, leaves: Mapping[str, Leaf]) -> None:
        self.leaves = leaves
        self.tensors: dict[str, Any] = {}

    def apply(self, path: str, *operands: Any) -> Any:
        """The leaf at ``path``; a softmax's row sums are kept beside its numerators."""
        leaf = self.leaves[path]
        if leaf["kind"] not in OPERATIONS:
            raise ValueError(f"{path}: there is no integer specification of a {leaf['kind']}")
        result = OPERATIONS[leaf["kind"]](leaf, *operands)
        if isinstance(result, tuple):
            self.tensors[path], self.tensors[f"{path}.row_sum"] = result
        else:
            self.tensors[path] = result
        return result

    def embeddings(
        self, at: str, ids: Sequence[int], types: Sequence[int], positions: Sequence[int]
    ) -> Rows:
        tables = (
            self.apply(f"{at}.word_embeddings", ids),
            self.apply(f"{at}.token_type_embeddings", types),
            self.apply(f"{at}.position_embeddings", positions),
        )
        total = self.apply(f"{at}.embeddings_act1", *tables)
        return self.apply(f"{at}.output_activation", self.apply(f"{at}.LayerNorm", total))

    def attention(self, at: str, x: Rows, mask: Sequence[bool]) -> Rows:
        query, key, value = (
            self.apply(f"{at}.{name}_activation", self.apply(f"{at}.{name}", x))
            for name in ("query", "key", "value")
        )
        weights = self.apply(f"{at}.softmax", self.apply(f"{at}.scores", query, key), mask)
        return self.apply(f"{at}.output_activation", self.apply(f"{at}.context", weights, value))

    def residual_block(self, at: str, x: Rows, residual: Rows) -> Rows:
        x = self.apply(f"{at}.dense", x)
        x = self.apply(f"{at}.LayerNorm", self.apply(f"{at}.ln_input_act", x, residual))
        return self.apply(f"{at}.output_activation", x)

    def layer(self, at: str, hidden: Rows, mask: Sequence[bool], narrow_residual: bool) -> Rows:
        x = self.apply(f"{at}.input_act", hidden)
        residual = x if narrow_residual else hidden
        attended = self.residual_block(
            f"{at}.attention.output", self.attention(f"{at}.attention.self", x, mask), residual
        )
        x = self.apply(f"{at}.pre_intermediate_act", attended)
        residual = x if narrow_residual else attended
        inner = under(f"{at}.intermediate", "dense", "intermediate_act_fn", "output_activation")
        x = self.chain((*inner, f"{at}.pre_output_act"), x)
        return self.residual_block(f"{at}.output", x, residual)

    def chain(self, paths: Sequence[str], x: Rows, *operands: Any) -> Rows:
        """One leaf after the other; ``operands`` go to the last."""
        for path in paths[:-1]:
            x = self.apply(path, x)
        return self.apply(paths[-1], x, *operands)


def under(at: str, *names: str) -> tuple[str, ...]:
    return tuple(f"{at}.{name}" for name in names)


POOLER = ("input_act", "dense", "activation")
HEADS = (
    # (leaves in their order, what they are applied to)
    (under("classifier", "input_act", "dense", "activation", "hidden_act", "out_proj"), "first"),
    (("hidden_act", "classifier"), "pooled"),
    (("input_act", "classifier"), "every"),
    (("input_act", "qa_outputs"), "every"),
    (
        under(
            "lm_head",
            *("input_act", "dense", "activation", "ln_input_act", "layer_norm"),
            *("output_act", "decoder"),
        ),
        "every",
    ),
)
"""The heads: on the first token, on what the pooler made of it, or on every token."""


def positions_of(ids: Sequence[int], padding: int) -> list[int]:
    """RoBERTa's positions: tokens so far + ``padding``; ``padding`` itself where padded."""
    count, result = 0, []
    for token in ids:
        count += token != padding
        result.append(padding + count * (token != padding))
    return result


def run_sentence(
    leaves: Mapping[str, Leaf],
    ids: Sequence[int],
    mask: Sequence[bool],
    *,
    padding: int,
    narrow_residual: bool,
) -> dict[str, Any]:
    """Every leaf's result for one sentence; the types are all 0.

    Args:
        leaves: by path, of the encoder alone or of a model with a head (encoder under ``ibert``).
        ids: token ids [T].
        mask: [T], true where a token counts.
        padding: the padding token's id.
        narrow_residual: whether the residual stream is the matmul's 8-bit operand, as published.
    """
    base = "ibert." if any(path.startswith("ibert.") for path in leaves) else ""
    sentence = Sentence(leaves)
    x = sentence.embeddings(f"{base}embeddings", ids, [0] * len(ids), positions_of(ids, padding))
    depth = len([p for p in leaves if p.startswith(f"{base}encoder.") and p.endswith(".scores")])
    for index in range(depth):
        x = sentence.layer(f"{base}encoder.layer.{index}", x, mask, narrow_residual)
    x = sentence.apply(f"{base}output_act", x)
    head(sentence, base, x)
    return sentence.tensors


def head(sentence: Sentence, base: str, x: Rows) -> None:
    """The pooler and the head, of those that there are."""
    of, single = {"every": x, "first": x[:1]}, []
    pooler = under(f"{base}pooler", *POOLER)
    if pooler[0] in sentence.leaves:
        of["pooled"] = sentence.chain(pooler, x[:1])
        single += pooler
    for paths, where in HEADS:
        if all(path in sentence.leaves for path in paths):
            shared = [sentence.leaves[f"{base}embeddings.word_embeddings"]]
            sentence.chain(paths, of[where], *(shared if paths[-1].endswith("decoder") else ()))
            single += paths if where != "every" else ()
    for path in single:  # one row for a sentence: [C] rather than [1][C]
        (sentence.tensors[path],) = sentence.tensors[path]


def run(
    leaves: Mapping[str, Leaf],
    ids: Sequence[Sequence[int]],
    mask: Sequence[Sequence[bool]],
    *,
    padding: int,
    narrow_residual: bool,
) -> dict[str, list[Any]]:
    """``run_sentence`` for every sentence: each tensor gets a leading batch dimension."""
    each = [
        run_sentence(leaves, row, keep, padding=padding, narrow_residual=narrow_residual)
        for row, keep in zip(ids, mask, strict=True)
    ]
    return {path: [tensors[path] for tensors in each] for path in each[0]}
