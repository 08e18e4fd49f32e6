"""What a run starts from: its model and its data, of whatever kind the task is."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from flax import nnx

from ibert_jax.checkpoints import locate
from ibert_jax.checkpoints.files import CONFIG_FILE, open_weights
from ibert_jax.checkpoints.read import missing_from_head
from ibert_jax.config import IBertConfig
from ibert_jax.tokenizer import Tokenizer
from ibert_jax.training.batches import Batcher, bucket_lengths
from ibert_jax.training.examples import load_examples, read_examples, read_tags
from ibert_jax.training.features import TokenizedExamples, tokenize
from ibert_jax.training.kinds import kind_of
from ibert_jax.training.masking import masking_of
from ibert_jax.training.optimizer import check_rate_factors
from ibert_jax.training.options import QUANTIZATION, TrainOptions
from ibert_jax.training.state import take_apart
from ibert_jax.training.tasks import Task

TASK = "task"
"""Where a model's configuration keeps the table of its task."""
_LABELLED = ("classification", "token_classification")
_CALIBRATION_STREAM = 100
"""Of random numbers; the stages' own streams are their numbers."""


def load_model(options: TrainOptions) -> Any:
    """The model that the options name, with the head of the task's kind and its labels.

    Raises:
      ValueError: a checkpoint that cannot be read, or whose head has another number of labels.
    """
    task, kind = options.task, kind_of(options.task)
    labels = task.labels
    if labels is None and task.kind == "token_classification":
        labels = read_tags(options.train_files, task)
    _check_head(options, labels)
    overrides: dict[str, Any] = {
        "hidden_dropout_prob": options.dropout,
        "attention_probs_dropout_prob": options.attention_dropout,
        "id2label": None if labels is None else dict(enumerate(labels)),
        "quantization": _quantization(options),
        "force_dequant": options.force_dequant,
        **kind.settings,
    }
    model = kind.head.from_pretrained(
        options.model,
        rngs=nnx.Rngs(options.seed),
        **{name: value for name, value in overrides.items() if value is not None},
    )
    note_task(model, task)
    return model


def _check_head(options: TrainOptions, labels: tuple[str, ...] | None) -> None:
    """Refuse a checkpoint whose head has another number of labels; one without a head gets one."""
    kind = kind_of(options.task)
    wanted = kind.settings.get("num_labels")
    if labels is not None and options.task.kind in _LABELLED:
        wanted = len(labels)
    directory = locate(options.model)
    problems: list[str] = []
    open_weights(directory, problems)  # which are told of where they are read
    if wanted is None or problems or missing_from_head(directory, kind.head.head):
        return
    found = IBertConfig.from_json_file(directory / CONFIG_FILE).num_labels
    if found != wanted:
        raise ValueError(
            f"expected a head with num_labels={wanted}, as the task has, in {directory}, got "
            f"{found}; start from a checkpoint without a head, such as "
            "IBertModel.from_pretrained(...).save_pretrained(...) writes, or with such a one"
        )


def check_model(options: TrainOptions, model: Any) -> None:
    """Refuse a model that was made already where the task or the options want another.

    Raises:
      ValueError: another head; options that count only where a model is read, by name.
    """
    kind = kind_of(options.task)
    if not isinstance(model, kind.head):
        raise ValueError(
            f"expected a model with the head of {options.task.kind}, {kind.head.__name__}, got "
            f"{type(model).__name__}"
        )
    config, quantization = model.config, model.config.quantization
    wanted = kind.settings.get("num_labels", config.num_labels)
    if config.num_labels != wanted:
        raise ValueError(
            f"expected a model with num_labels={wanted} for {options.task.kind}, got "
            f"{config.num_labels}"
        )
    own = {
        **{name: getattr(quantization, name) for name in QUANTIZATION},
        "dropout": config.hidden_dropout_prob,
        "attention_dropout": config.attention_probs_dropout_prob,
        "force_dequant": config.force_dequant,
        "labels": tuple(config.id2label[i] for i in range(config.num_labels)),
    }
    differing = [
        f"{name}={getattr(options, name)!r} where the model has {value!r}"
        for name, value in own.items()
        if getattr(options, name) not in (None, value)
    ]
    overrides = quantization.replace(overrides=options.bit_overrides).overrides
    if overrides != quantization.overrides[len(quantization.overrides) - len(overrides) :]:
        differing.append(
            f"bit_overrides={overrides!r} where the model has {quantization.overrides!r}"
        )
    if differing:
        raise ValueError(
            f"expected options as the given model has them, got {'; '.join(differing)}; make the "
            "model so, or leave them out"
        )


def _quantization(options: TrainOptions) -> dict[str, Any] | None:
    """The model's `QuantConfig`, as a table, with what the options change of it."""
    changes = options.quantization()
    if not changes and not options.bit_overrides:
        return None
    file = locate(options.model) / CONFIG_FILE
    before = IBertConfig.from_json_file(file).quantization
    overrides = (*before.overrides, *options.bit_overrides)
    return before.replace(**changes, overrides=overrides).to_dict()


def check_fit(options: TrainOptions, model: Any) -> None:
    """Refuse patterns of the options that mean nothing in the model, before hours of training."""
    check_rate_factors(take_apart(model, copy=False)[0], options.rate_factors)
    if options.qat_epochs:
        model.quantize(True)  # complains of widths without effect
        model.quantize(False)


def note_task(model: Any, task: Task) -> None:
    """Write the task into the model's configuration, which goes where the model goes."""
    labelled = task.kind in _LABELLED
    names = tuple(model.config.id2label[i] for i in range(model.config.num_labels))
    table = task.replace(labels=names if labelled else None).to_dict()
    model.config = model.config.replace(extra={**model.config.extra, TASK: table})


def task_of(config: Any) -> Task | None:
    """The task that a model was trained for, from its configuration."""
    table = config.extra.get(TASK)
    return None if table is None else Task.from_dict(table)


@dataclass(frozen=True)
class Data:
    """Batches of the training examples, of a sample of them for calibration, of the dev file."""

    train: Batcher
    calibration: Batcher
    dev: Batcher | None


def load_data(options: TrainOptions, config: Any, tokenizer: Tokenizer) -> Data:
    """Read and tokenize the files of the options (or the hub's splits) for a model.

    Raises FileNotFoundError or ValueError where something does not fit, in one sentence.
    """
    task, files = options.task, options.train_files
    make = partial(
        batches_of,
        tokenizer=tokenizer,
        config=config,
        task=task,
        batch_size=options.batch_size,
        buckets=options.length_buckets,
    )
    limits = options.max_train_examples, options.max_dev_examples
    if files:
        train = make(read_examples(files, task, config.label2id, limit=limits[0]), learning=True)
    else:
        found = load_examples(task, task.splits[0], config.label2id, limit=limits[0])
        train = make(found, learning=True)
    dev = None
    if options.dev_file is not None:
        dev = make(read_examples([options.dev_file], task, config.label2id, limit=limits[1]))
    elif not files:
        dev = make(load_examples(task, task.splits[1], config.label2id, limit=limits[1]))
    random = np.random.default_rng([options.seed, _CALIBRATION_STREAM])
    chosen = random.permutation(len(train.examples))[: options.calibration_sentences]
    sample = Batcher(
        train.examples.select(chosen),
        batch_size=options.batch_size,
        pad_token_id=config.pad_token_id,
        lengths=train.lengths,
        masking=train.masking,
    )
    return Data(train, sample, dev)


def batches_of(
    examples: list[Any],
    *,
    tokenizer: Tokenizer,
    config: Any,
    task: Task,
    batch_size: int,
    buckets: int = 8,
    max_length: int | None = None,
    learning: bool = False,
) -> Batcher:
    """Examples tokenized for a model and cut into batches.

    max_length: the task's if None; never more than the model's positions allow.

    Raises:
      ValueError: the tokenizer belongs to another model, by its ids, its token types or what it
        pads with; the length leaves no room beside the special tokens.
    """
    tokenizer.check_padding(config.pad_token_id)
    asked = (task.max_length or 128) if max_length is None else max_length
    longest = min(asked, config.max_sequence_length)
    found = tokenize(examples, tokenizer, task, max_length=longest, learning=learning)
    _check_fit(found, config)
    masking = None
    if task.kind == "masked_lm":
        masking = masking_of(tokenizer.backend, task.mask_probability)
    # A rounded length may lie beyond the last position.
    lengths = [min(n, config.max_sequence_length) for n in bucket_lengths(found.lengths, buckets)]
    return Batcher(
        found,
        batch_size=batch_size,
        pad_token_id=config.pad_token_id,
        lengths=tuple(lengths),
        masking=masking,
    )


def _check_fit(found: TokenizedExamples, config: Any) -> None:
    if found.tokens.max() >= config.vocab_size:
        raise ValueError(
            f"expected token ids below the model's vocabulary of {config.vocab_size}, got "
            f"{found.tokens.max()}; the tokenizer belongs to another model"
        )
    if found.types is not None and found.types.max() >= config.type_vocab_size:
        raise ValueError(
            f"expected token types below {config.type_vocab_size}, as the model knows them, got "
            f"{found.types.max()}; the tokenizer belongs to another model"
        )
