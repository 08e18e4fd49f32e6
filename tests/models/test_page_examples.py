"""The examples of the published I-BERT page, on a small local checkpoint, against transformers.

Each does here what the page does there (``return_tensors="np"`` for ``"pt"``, no ``no_grad``), and
the original, run by transformers on the same files, says what must come out. All inputs are
padded to one length, because every new shape is compiled operation by operation.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
import transformers
from flax import nnx
from transformers import AutoTokenizer

import ibert_jax as ib

from .oracle import make

TEXTS = (
    "The capital of France is Paris .",
    "Hello , my dog is cute",
    "In Italy , pizza served in formal settings , such as at a restaurant , is unsliced .",
    "It is eaten with a fork and a knife .",
    "It is eaten while held in the hand .",
    "HuggingFace is a company based in Paris and New York",
    "Who was Jim Henson ?",
    "Jim Henson was a nice puppet",
)
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """RoBERTa's special tokens, words of the examples."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing

    words = dict.fromkeys([*SPECIAL, *" ".join(TEXTS).split()])
    backend = Tokenizer(WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = Whitespace()
    backend.post_processor = TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    directory = tmp_path_factory.mktemp("tokenizer")
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    ).save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokenizer.padding = {"return_tensors": "np", "padding": "max_length", "max_length": 36}
    return tokenizer


def checkpoint(directory: Path, task: str, tokenizer: Any, **settings: Any) -> Any:
    """Their model of the task, written to ``directory``."""
    theirs = make(
        "IBert",
        task,
        vocab_size=len(tokenizer),
        max_position_embeddings=48,
        num_hidden_layers=1,
        **settings,
    )
    theirs.save_pretrained(directory)
    return theirs


def as_torch(inputs: Any) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(np.asarray(value)) for name, value in inputs.items()}


def test_masked_lm(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForMaskedLM", tokenizer)
    model = ib.IBertForMaskedLM.from_pretrained(tmp_path)
    inputs = tokenizer("The capital of France is <mask> .", **tokenizer.padding)
    logits = model(**inputs).logits
    (mask_token_index,) = (inputs["input_ids"] == tokenizer.mask_token_id)[0].nonzero()
    predicted_token_id = logits[0, mask_token_index].argmax(axis=-1)
    predicted = tokenizer.decode(np.asarray(predicted_token_id))

    labels = tokenizer("The capital of France is Paris .", **tokenizer.padding)["input_ids"]
    labels = np.where(inputs["input_ids"] == tokenizer.mask_token_id, labels, -100)
    loss = model(**inputs, labels=labels).loss

    with torch.no_grad():
        want = theirs(**as_torch(inputs), labels=torch.tensor(labels))
    assert predicted == tokenizer.decode(want.logits[0, mask_token_index].argmax(axis=-1))
    assert float(loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_single_label_classification(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForSequenceClassification", tokenizer)
    model = ib.IBertForSequenceClassification.from_pretrained(tmp_path)
    inputs = tokenizer("Hello , my dog is cute", **tokenizer.padding)
    predicted_class_id = model(**inputs).logits.argmax().item()
    predicted = model.config.id2label[predicted_class_id]

    num_labels = len(model.config.id2label)
    model = ib.IBertForSequenceClassification.from_pretrained(tmp_path, num_labels=num_labels)
    loss = model(**inputs, labels=np.array([1])).loss

    with torch.no_grad():
        want = theirs(**as_torch(inputs), labels=torch.tensor([1]))
    assert predicted == theirs.config.id2label[want.logits.argmax().item()]
    assert float(loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_multi_label_classification(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForSequenceClassification", tokenizer, num_labels=5)
    theirs.config.problem_type = "multi_label_classification"
    model = ib.IBertForSequenceClassification.from_pretrained(
        tmp_path, problem_type="multi_label_classification"
    )
    inputs = tokenizer("Hello , my dog is cute", **tokenizer.padding)
    logits = model(**inputs).logits
    predicted_class_ids = np.arange(logits.shape[-1])[np.asarray(jax.nn.sigmoid(logits)[0] > 0.5)]

    num_labels = len(model.config.id2label)
    model = ib.IBertForSequenceClassification.from_pretrained(
        tmp_path, num_labels=num_labels, problem_type="multi_label_classification"
    )
    labels = jax.nn.one_hot(predicted_class_ids[None, :], num_labels).sum(axis=1)
    loss = model(**inputs, labels=labels).loss

    with torch.no_grad():
        want = theirs(**as_torch(inputs), labels=torch.tensor(np.asarray(labels)))
    assert predicted_class_ids.tolist() == (want.logits[0] > 0).nonzero()[:, 0].tolist()
    assert 0 < len(predicted_class_ids) < num_labels
    assert float(loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_multiple_choice(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForMultipleChoice", tokenizer)
    model = ib.IBertForMultipleChoice.from_pretrained(tmp_path)
    prompt, choice0, choice1 = TEXTS[2:5]
    labels = np.array(0)[None]  # choice0 is correct, batch size 1
    encoding = tokenizer([prompt, prompt], [choice0, choice1], **tokenizer.padding)
    outputs = model(**{k: v[None] for k, v in encoding.items()}, labels=labels)

    with torch.no_grad():
        want = theirs(
            **{k: v[None] for k, v in as_torch(encoding).items()}, labels=torch.tensor(labels)
        )
    assert outputs.logits.shape == (1, 2)
    np.testing.assert_allclose(outputs.logits, want.logits, atol=2e-5)
    assert float(outputs.loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_token_classification(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForTokenClassification", tokenizer, num_labels=4)
    model = ib.IBertForTokenClassification.from_pretrained(tmp_path)
    inputs = tokenizer(TEXTS[5], add_special_tokens=False, **tokenizer.padding)
    logits = model(**inputs).logits
    predicted_token_class_ids = logits.argmax(-1)
    classes = [model.config.id2label[t.item()] for t in predicted_token_class_ids[0]]
    loss = model(**inputs, labels=predicted_token_class_ids).loss

    with torch.no_grad():
        want = theirs(
            **as_torch(inputs), labels=torch.tensor(np.asarray(predicted_token_class_ids)).long()
        )
    assert classes == [theirs.config.id2label[t.item()] for t in want.logits.argmax(-1)[0]]
    assert float(loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_question_answering(tmp_path: Path, tokenizer: Any) -> None:
    theirs = checkpoint(tmp_path, "ForQuestionAnswering", tokenizer)
    model = ib.IBertForQuestionAnswering.from_pretrained(tmp_path)
    question, text = TEXTS[6:]
    inputs = tokenizer(question, text, **tokenizer.padding)
    outputs = model(**inputs)
    answer_start_index = outputs.start_logits.argmax()
    answer_end_index = outputs.end_logits.argmax()
    predict_answer_tokens = inputs["input_ids"][0, answer_start_index : answer_end_index + 1]
    answer = tokenizer.decode(predict_answer_tokens, skip_special_tokens=True)

    target_start_index, target_end_index = np.array([12]), np.array([13])  # "nice puppet"
    ids = inputs["input_ids"][0, target_start_index[0] : target_end_index[0] + 1]
    assert tokenizer.decode(ids) == "nice puppet"
    loss = model(**inputs, start_positions=target_start_index, end_positions=target_end_index).loss

    with torch.no_grad():
        want = theirs(
            **as_torch(inputs),
            start_positions=torch.tensor(target_start_index),
            end_positions=torch.tensor(target_end_index),
        )
    span = slice(want.start_logits.argmax(), want.end_logits.argmax() + 1)
    assert answer == tokenizer.decode(inputs["input_ids"][0, span], skip_special_tokens=True)
    assert float(loss) == pytest.approx(float(want.loss), rel=1e-5)


def test_a_head_that_the_checkpoint_lacks_is_drawn_and_said_so(
    tmp_path: Path, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    """The page loads every head from a checkpoint of the language model."""
    checkpoint(tmp_path, "ForMaskedLM", tokenizer)
    model = ib.IBertForTokenClassification.from_pretrained(tmp_path, num_labels=7)
    assert "newly initialised" in caplog.text and "classifier.weight" in caplog.text
    drawn_at_once = ib.IBertForTokenClassification(model.config, rngs=nnx.Rngs(0)).classifier
    assert (model.classifier.weight[...] == drawn_at_once.weight[...]).all()
    inputs = tokenizer(TEXTS[5], **tokenizer.padding)
    assert model(**inputs).logits.shape == (1, 36, 7)
