"""A model directory becomes a model, whatever its head and whichever its life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# What the parameters of each head are called, in any checkpoint that holds it.
_HEADS = {
    "sequence_classification": ("classifier",),
    "token_classification": ("classifier",),
    "multiple_choice": ("classifier",),
    "question_answering": ("qa_outputs",),
    "masked_lm": ("lm_head", "cls.predictions"),
    "model": (),
}

_RUN = ("qat", "calibrated", "float")
"""The models that `ibert-jax train` leaves in its directory."""


def load_model(directory: str | Path, task: str | None = None) -> Any:
    """Read a model: an `IntegerModel` where the directory holds one, else a checkpoint.

    A checkpoint that was trained quantization-aware answers in that life, another one in float.

    directory: a folder, or a checkpoint's id on the Hugging Face hub.
    task: which head to read a checkpoint for, a key of `TASKS` ("model", which gives vectors, can
        be read of any); by default the one that the checkpoint declares.

    Raises FileNotFoundError where the directory is missing or holds neither, ValueError where the
    head was never trained or the frozen model is of another one.
    """
    from ibert_jax.checkpoints import locate

    if task is not None and task not in _HEADS:
        raise ValueError(f"expected a task of {', '.join(_HEADS)}, got {task!r}")
    directory = locate(directory)
    if (directory / "integer_model.json").is_file():
        from ibert_jax.frozen import IntegerModel

        program = IntegerModel.load(directory)
        if task is not None and program.kind.head != task:
            raise ValueError(
                f"expected a frozen model of {task}, {directory} holds one of "
                f"{program.kind.head}; a frozen model has one head, freeze another"
            )
        return program
    if (directory / "config.json").is_file():
        return _load_checkpoint(directory, task)
    models = [name for name in _RUN if (directory / name / "config.json").is_file()]
    if models:
        named = " or ".join(str(directory / name) for name in models)
        raise FileNotFoundError(
            f"expected a model directory, {directory} holds a training run; give {named}"
        )
    raise FileNotFoundError(
        f"expected integer_model.json (a frozen model) or config.json (a checkpoint) in "
        f"{directory}, found neither; it is not a model directory or lost files in copying"
    )


def load_classifier(directory: str | Path) -> Any:
    """`load_model` for what must be a sequence classifier."""
    return load_model(directory, "sequence_classification")


def _load_checkpoint(directory: Path, task: str | None) -> Any:
    """A float or quantization-aware model whose head was trained."""
    from ibert_jax import models
    from ibert_jax.checkpoints.files import open_weights
    from ibert_jax.checkpoints.keys import HEADS, declared_head
    from ibert_jax.files import read_json_object

    if task is None:
        declared = declared_head(read_json_object(directory / "config.json").get("architectures"))
        task = declared if declared in _HEADS else "model"
    problems: list[str] = []
    names = open_weights(directory, problems)  # reads names alone, not the weights
    own = _HEADS[task]
    if not problems and own and not any(part in name for name in names for part in own):
        kind = "a classifier" if own == ("classifier",) else f"a head for {task}"
        raise ValueError(
            f"expected {kind} in {directory}, got an encoder without a head, whose answers "
            "would be random; train it first"
        )
    model = getattr(models, HEADS[task].architecture).from_pretrained(directory)
    # A model that was trained quantization-aware answers in the life it was trained for.
    return model.quantize() if model.config.quant_mode else model


def default_directory() -> Path:
    """Where the model that ships inside the package lies."""
    directory = Path(__file__).parents[1] / "assets"
    if not (directory / "integer_model.json").is_file():
        raise FileNotFoundError(
            f"expected the default model in {directory}, it is not there; install the package again"
        )
    return directory
