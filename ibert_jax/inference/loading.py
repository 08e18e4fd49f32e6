"""A model directory becomes a model, whatever its head and whichever its life."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
    from ibert_jax.checkpoints.keys import HEADS

    if task is not None and task not in HEADS:
        raise ValueError(f"expected a task of {', '.join(HEADS)}, got {task!r}")
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
    from ibert_jax.checkpoints.keys import HEADS, declared_head
    from ibert_jax.checkpoints.read import missing_from_head
    from ibert_jax.files import read_json_object

    if task is None:
        declared = declared_head(read_json_object(directory / "config.json").get("architectures"))
        task = declared if declared is not None and declared in HEADS else "model"
    # Vectors are means of hidden states, for which nothing beyond the encoder is needed.
    missing = missing_from_head(directory, task) if task != "model" else ()
    if missing:
        raise ValueError(
            f"expected a head for {task} in {directory}, got an encoder without one (there is no "
            f"{missing[0]}), whose answers would be random; train it first"
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
