"""A recogniser and a source of lines so small that a run takes seconds.

As a script it trains them, for tests that need a process to kill or several to
train together:

  python tests/train/tiny.py WORKDIR [--steps=N] [--processes=PORT,N,ID]
"""

import argparse
import sys
import time

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import batch as batch_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import clock as clock_lib
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import interrupt
from jaxocr.train import loop
from jaxocr.train import objective
from jaxocr.train import optimiser
from jaxocr.train import sharding
from jaxocr.train import state as state_lib
from jaxocr.train import step as step_lib

ALPHABET = alphabet_lib.Alphabet("abc")
HEIGHT, WIDTH, MAX_LENGTH = 8, 32, 3
BATCH_SIZE = 16


class TinyModel(nn.Module):
  """[B, 8, W, 1] to [B, W / 4, K], with BatchNorm and a latent kernel."""

  num_classes: int = ALPHABET.num_classes

  @nn.compact
  def __call__(self, image, *, train=False):
    patch = (HEIGHT, 4)
    # No bias: BatchNorm would leave it without a gradient, to Adam's noise.
    x = nn.Conv(6, patch, strides=patch, padding="VALID", use_bias=False)(image)
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x[:, 0])
    kernel = self.param(
      "binary_kernel", nn.initializers.uniform(0.5), (6, self.num_classes)
    )
    return nn.relu(x) @ kernel


def sample(assets, keys):
  """Each character is a block of its own grey level, given by `assets`."""

  def line(key):
    length_key, label_key, noise_key = jax.random.split(key, 3)
    length = jax.random.randint(length_key, (), 1, MAX_LENGTH + 1)
    label = jax.random.randint(
      label_key, (MAX_LENGTH,), 1, ALPHABET.num_classes
    )
    label = jnp.where(jnp.arange(MAX_LENGTH) < length, label, 0)
    columns = jnp.repeat(assets[label], WIDTH // MAX_LENGTH)
    columns = jnp.pad(columns, (0, WIDTH - columns.shape[0]))
    noise = 0.05 * jax.random.normal(noise_key, (HEIGHT, WIDTH))
    return (columns[None, :] + noise)[..., None], label, length

  image, label, length = jax.vmap(line)(keys)
  mask = jnp.ones(label.shape[:1], jnp.float32)
  return batch_lib.Batch(image=image, label=label, length=length, mask=mask)


LEVELS = np.array([0.0, 0.3, 0.6, 0.9], np.float32)


def schedule(steps):
  return optimiser.make_schedule(
    learning_rate=0.02, warmup_steps=2, steps=steps
  )


def make_run(mesh, *, steps=20, seed=0):
  """(new state, train_step(state, done), evaluator) on a mesh."""
  model = TinyModel()
  tx = optimiser.make_optimiser(
    schedule(steps), weight_decay=1e-3, clip_norm=1.0
  )
  whole = sharding.replicated(mesh)
  assets = sharding.place(LEVELS, whole)

  init_key, run_key = jax.random.split(jax.random.key(seed))

  def start():
    image = jnp.zeros((1, HEIGHT, WIDTH, 1))
    return state_lib.init_state(model, tx, init_key, image)

  state = jax.jit(start, out_shardings=whole)()
  train_step = step_lib.make_train_step(
    model, tx, objective.ctc_objective, ema_decay=0.9
  )
  train_step = sharding.TrainStep(
    train_step, sample, mesh, batch_size=BATCH_SIZE
  )
  rendered = evaluate.RenderedLines(sample, assets, mesh, batch_size=BATCH_SIZE)
  evaluator = evaluate.Evaluator(model, ALPHABET, rendered, mesh)

  def update(state, done):
    return train_step(state, assets, run_key, done)

  return state, update, evaluator


def fit(
  workdir,
  mesh,
  *,
  steps=20,
  on_step=lambda step: None,
  spoil=None,
  stage="",
  earlier_steps=0,
):
  """Trains in `workdir`; `spoil` is the step whose loss becomes NaN."""
  state, train_step, evaluator = make_run(mesh, steps=steps)

  def watched(state, done):
    on_step(int(state.step) + 1)
    spoilt = int(state.step) + 1 == spoil
    state, metrics = train_step(state, done)
    if spoilt:
      metrics = metrics | {"finite": (jnp.zeros(()), jnp.ones(()))}
    return state, metrics

  return loop.fit(
    state,
    watched,
    lambda state: evaluator.rendered(state, 20),
    plan=loop.Plan(
      steps=steps,
      batch_size=BATCH_SIZE,
      log_every=3,
      eval_every=10,
      checkpoint_every=4,
      keep_checkpoints=2,
      stage=stage,
      earlier_steps=earlier_steps,
    ),
    workdir=workdir,
    clock=clock_lib.Clock(),
    learning_rate=schedule(steps),
  )


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("workdir")
  parser.add_argument("--steps", type=int, default=20)
  parser.add_argument("--step-s", type=float, default=0.0)
  parser.add_argument("--processes", default="")
  args = parser.parse_args()
  if args.processes:
    port, count, process = map(int, args.processes.split(","))
    distributed.start(f"127.0.0.1:{port}", count, process)

  def on_step(step):
    print("step", step, flush=True)
    time.sleep(args.step_s)

  with interrupt.plain_exit(interrupt.Stopped):
    state = fit(
      args.workdir, sharding.make_mesh(), steps=args.steps, on_step=on_step
    )
  if distributed.is_writer():
    leaves = jax.tree_util.tree_leaves_with_path(jax.device_get(state))
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    with open(f"{args.workdir}/final.npz", "wb") as file:
      np.savez(file, **named)


if __name__ == "__main__":
  sys.exit(main())
