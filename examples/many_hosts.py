"""Finetuning, and the integer program's answers, on the devices of several processes or hosts.

    python examples/many_hosts.py MODEL TRAIN.tsv OUTPUT --coordinator HOST:PORT \\
        --processes N --process I            (once for each I below N)

Every process runs the same lines and makes the same batches; each computes the rows that fall to
its devices, and XLA adds up what they find. A cluster that JAX knows (Slurm, a TPU pod) needs none
of the three options. On one host nothing of this is needed: `ibert-jax train` uses all its devices.
"""

import argparse
from pathlib import Path

import jax
import numpy as np

import ibert_jax as ib
from ibert_jax import training
from ibert_jax.tokenizer import Tokenizer

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("train")
parser.add_argument("output", type=Path)
parser.add_argument("--coordinator")
parser.add_argument("--processes", type=int)
parser.add_argument("--process", type=int)
parser.add_argument("--batch-size", type=int, default=32)
args = parser.parse_args()

jax.distributed.initialize(args.coordinator, args.processes, args.process)
sharing = training.Sharing(jax.devices())  # of all processes; the batch size is a multiple

task = training.load_task("classification")
model = ib.IBertForSequenceClassification.from_pretrained(args.model)
examples = training.read_examples([args.train], task, model.config.label2id)
data = training.batches_of(
    examples,
    tokenizer=Tokenizer.load(args.model),
    config=model.config,
    task=task,
    batch_size=args.batch_size,
    buckets=1,
)

model.train()
schedule = training.warmup_linear_decay(5e-5, data.steps_per_epoch, 0)
optimizer = training.make_optimizer(schedule, weight_decay=0.01, clip_norm=1.0)
key, loss_of = training.dropout_key(0, 0), training.KINDS[task.kind].loss
train_step = training.make_train_step(model, optimizer, key, loss_of, sharing=sharing)
state = sharing.replicate(training.initial_state(model, optimizer))
for batch in data.epoch((0,)):
    state, loss = train_step(state, batch)
    print(f"loss {float(loss):.6f}")
training.Skeleton(model).put_into(model, *jax.device_get((state.params, state.others)))
model.eval()

ib.calibrate(model, (batch.inputs for batch, _ in data.in_order()))
program = sharing.replicate(ib.freeze(model))
answer = jax.jit(lambda p, x: p.integers(**x).logits, out_shardings=sharing.everywhere)
logits = np.zeros((len(examples), model.config.num_labels), np.int32)
for batch, members in data.in_order():
    logits[members] = np.asarray(answer(program, sharing.share(batch.inputs)))[: len(members)]

if jax.process_index() == 0:  # the same in all
    model.save_pretrained(args.output)
    np.save(args.output / "logits.npy", logits)
