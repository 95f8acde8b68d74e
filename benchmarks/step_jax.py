"""Contestant: a training step of the experiment's CRNN, whole or in parts.

  step_jax.py BACKBONE BATCH WIDTH step|draw|whole

`step` learns from one fixed batch, `draw` only draws a batch, `whole` does
both, as training does.
"""

import pathlib
import sys
import tempfile

import jax
import turns

from jaxocr import cpu
from jaxocr import native
from jaxocr.compress import rules
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import sharding
from jaxocr.train import stages
from jaxocr.train import state as state_lib
from jaxocr.train import text_config
from jaxocr.train import text_lines
from jaxocr.train import text_run
from jaxocr.train import text_step

RULES = {"binary": rules.BINARY_KERNELS, "mobilenet": rules.ALL_FLOAT}


def main(backbone: str, batch_size: int, width: int, what: str) -> None:
  cpu.set_up()  # As launch.py does.
  config = text_config.TextConfig(batch_size=batch_size, width=width)
  alphabet = alphabet_lib.load_alphabet(config.alphabet)
  stage = stages.Stage(
    "bench",
    steps=10_000,
    learning_rate=config.learning_rate,
    rules=RULES[backbone],
  )
  architecture = text_run.architecture(config, alphabet, backbone=backbone)
  mesh = sharding.make_mesh()
  with tempfile.TemporaryDirectory() as folder:
    assets, sample = text_lines.make_source(
      config, alphabet, pathlib.Path(folder)
    )
  assets = jax.device_put(assets)
  draw = jax.jit(sample)
  key = jax.random.key(0)
  keys = sharding.line_keys(key, 0, batch_size)
  batch = draw(assets, keys)
  if what == "step":
    assets, sample = batch, _given
  begin, step = text_step.make_step(config, stage, architecture, sample, mesh)
  state, _ = begin(None)
  parameters = state_lib.count_parameters(state.params)
  held = [state]

  def learn():
    # On from the last turn's state, whose buffers it takes.
    held[0], metrics = step(held[0], assets, key, 0)
    jax.block_until_ready((held[0], metrics))

  turns.serve(
    (lambda: jax.block_until_ready(draw(assets, keys)))
    if what == "draw"
    else learn,
    batch_size,
    parameters=parameters,
    jax=jax.__version__,
    kernels=native.lacking(mesh.size) or "C++",
  )


def _given(batch, keys):
  """A source of lines that has but one batch."""
  del keys
  return batch


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
