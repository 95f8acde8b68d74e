"""Reading lines with a model, rendered or real, and scoring what was read.

The last batch is filled up and the filling dropped, so every line counts once
and each shape compiles once. Decoding is that of the reader: `text.ctc`.
"""

import collections
from collections.abc import Callable, Sequence
import dataclasses

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from jaxocr import exact
from jaxocr.data import batch as batch_lib
from jaxocr.data import real as real_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc
from jaxocr.text import scores
from jaxocr.train import report_lines
from jaxocr.train import sharding
from jaxocr.train import state as state_lib

# Rendered evaluation lines are the same in every run, whatever its seed.
_SEED = 20_000
# No training step is this large, so no training key is met again.
_APART = 2**31 - 1


class RenderedLines:
  """The rendered evaluation lines: the same in every run, drawn once.

  They are kept on the host, for all evaluators that share them.
  """

  def __init__(self, sample: Callable, assets, mesh: Mesh, *, batch_size: int):
    """Draws nothing yet.

    Args:
      sample: `sample(assets, keys [B]) -> Batch`.
      assets: For `sample`, on every device of `mesh`.
      mesh: Over whose devices each batch is drawn.
      batch_size: Lines at a time, a multiple of the devices.
    """
    sharding.check_batch_size(batch_size, mesh.size)
    self.batch_size = batch_size
    self._assets = assets
    self._drawn: list[batch_lib.Batch] = []
    self._draw = sharding.shard_sample(sample, mesh, batch_size)

    def keys(first):
      key = jax.random.fold_in(jax.random.key(_SEED), _APART)
      lines = first + jnp.arange(batch_size)
      return jax.vmap(lambda line: jax.random.fold_in(key, line))(lines)

    self._keys = jax.jit(keys, out_shardings=sharding.split_lines(mesh))
    # Every process decodes and scores all lines.
    self._gather = jax.jit(lambda x: x, out_shardings=sharding.replicated(mesh))

  def batches(self, count: int) -> Sequence[batch_lib.Batch]:
    """Host batches that hold the first `count` lines, and perhaps some more."""
    needed = -(-count // self.batch_size)
    while len(self._drawn) < needed:
      first = np.int32(len(self._drawn) * self.batch_size)
      drawn = self._draw(self._assets, self._keys(first))
      self._drawn.append(jax.device_get(self._gather(drawn)))
    return self._drawn[:needed]


def as_trained(params, collections) -> dict:
  """Variables for a model that is judged as it was trained."""
  return {"params": params, **collections}


class Evaluator:
  """Reads lines with the averaged parameters of a state."""

  def __init__(
    self,
    model,
    alphabet: alphabet_lib.Alphabet,
    rendered: RenderedLines,
    mesh: Mesh,
    *,
    deploy: Callable[..., dict] = as_trained,
  ):
    """Compiles nothing yet.

    Args:
      model: Flax module called with images and `train`.
      alphabet: Of the model.
      rendered: Lines for `rendered`; their batch size is that of all reading.
      mesh: Over whose devices each batch is split.
      deploy: Averaged parameters and collections -> variables of `model`, what
        is to be shipped.
    """
    self._alphabet, self._rendered = alphabet, rendered
    self._mesh, self._batch_size = mesh, rendered.batch_size
    whole, split = sharding.replicated(mesh), sharding.split_lines(mesh)

    @exact.products
    def read(variables, image):
      return ctc.best_path(model.apply(variables, image, train=False))

    # Not compiled into reading, whose arithmetic is to be the reader's.
    self._deploy = deploy
    # Results are gathered: every process decodes and scores all lines.
    self._read = jax.jit(read, in_shardings=(whole, split), out_shardings=whole)

  def rendered(
    self, state: state_lib.TrainState, count: int
  ) -> list[report_lines.LineResult]:
    """The first `count` of the evaluation lines; fewer are a part of more."""
    variables = self._variables(state)
    lines = []
    for batch in self._rendered.batches(count):
      read = self._read_batch(variables, batch.image)
      for i in range(min(self._batch_size, count - len(lines))):
        image = _grey(batch.image[i, :, :, 0])
        truth = self._alphabet.decode(batch.label[i, : batch.length[i]])
        lines.append(
          self._result(image, truth, *(r[i] for r in read), "rendered")
        )
    return lines

  def real(
    self, state: state_lib.TrainState, lines: real_lib.RealLines
  ) -> list[report_lines.LineResult]:
    """All lines, in the order of `lines.items`."""
    variables = self._variables(state)
    results = [None] * lines.kept
    for batch, indices in real_lib.batches(lines, batch_size=self._batch_size):
      read = self._read_batch(variables, batch.image)
      for row, index in enumerate(indices):
        line = lines.items[index]
        result = self._result(
          line.pixels, line.label, *(r[row] for r in read), "real"
        )
        results[index] = dataclasses.replace(result, path=line.path)
    return results

  def _variables(self, state):
    deployed = self._deploy(state.ema_params, state.ema_collections)
    return sharding.place(deployed, sharding.replicated(self._mesh))

  def _read_batch(self, variables, image):
    image = sharding.place(image, sharding.split_lines(self._mesh))
    return jax.device_get(self._read(variables, image))

  def _result(self, image, truth, classes, probabilities, source):
    reading = ctc.collapse(
      classes,
      probabilities,
      self._alphabet,
      frame_px=ctc.FRAME_PX,
      width_px=image.shape[1],
    )
    return report_lines.LineResult(image, truth, reading, source)


def real_figures(
  results: Sequence[report_lines.LineResult],
  files: Sequence[real_lib.RealLines],
) -> dict:
  """The `real` part of report.json: scores, and what became of each line."""
  dropped = collections.Counter()
  for file in files:
    dropped.update(file.dropped)
  figures = score(results)
  # Labels that the model cannot write are misread, whatever it reads.
  readable = sum(len(file.all_items) for file in files)
  hits = figures["line_accuracy"] * len(results) if results else 0.0
  return {
    "n": len(results),
    "read": sum(file.read for file in files),
    "dropped": dict(dropped),
    **figures,
    "n_all": readable,
    "line_accuracy_all": scores.divide((round(hits), readable)),
  }


def score(lines: Sequence[report_lines.LineResult]) -> dict[str, float]:
  """Each protocol of `text.scores` over all lines; NaN where none counts."""
  predictions = [line.reading.text for line in lines]
  pairs = scores.score_lines(predictions, [line.truth for line in lines])
  return {name: scores.divide(pair) for name, pair in pairs.items()}


def describe(values: dict[str, float]) -> str:
  """The scores in one line for a person."""
  return ", ".join(f"{name} {value:.3f}" for name, value in values.items())


def samples(lines: Sequence[report_lines.LineResult], count: int) -> str:
  """The first lines with what was read, one a line, as for a person."""
  rows = []
  for line in lines[:count]:
    same = line.truth == line.reading.text
    read = "read" if same else f"read as {line.reading.text!r}"
    rows.append(f"  {line.truth!r} {read}")
  return "\n".join(rows)


def _grey(image: np.ndarray) -> np.ndarray:
  return np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)
