"""What training minimises."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import chex
import flax.traverse_util
import jax
import jax.numpy as jnp
import optax

from jaxocr.compress import distil
from jaxocr.data import batch as batch_lib

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


class Outputs(NamedTuple):
  """What a network gives for a batch."""

  logits: jax.Array  # [B, T, K].
  taps: Mapping[str, jax.Array]  # Name -> features [B, H, W, C].


def outputs(logits: jax.Array, collections: Mapping) -> Outputs:
  """Of what `module.apply(..., mutable=["taps", ...])` returns.

  Taps of submodules go by their own name alone, `block3` rather than
  `backbone/block3_tap`, so that networks can be compared.
  """
  flat = flax.traverse_util.flatten_dict(dict(collections.get("taps", {})))
  return Outputs(
    logits, {path[-1].removesuffix("_tap"): x for path, x in flat.items()}
  )


# (student's, batch, updates done, teacher's or None) -> (mean loss, metrics).
Objective = Callable[
  [Outputs, batch_lib.Batch, jax.Array, Outputs | None],
  tuple[jax.Array, Metrics],
]


def ctc_objective(
  outputs: Outputs,
  batch: batch_lib.Batch,
  step: jax.Array | None = None,
  teacher: Outputs | None = None,
) -> tuple[jax.Array, Metrics]:
  """Mean over lines of the CTC loss (Graves et al. 2006, eq. 8), in nats.

  Args:
    outputs: Logits [B, T, K] of any float type; the loss is taken in float32.
      Class 0 is the blank. T must hold each label with a blank between repeats.
    batch: Lines whose mask is 0 count neither in the sum nor in the number.
    step: Not used; the labels teach the same throughout.
    teacher: Not used.

  Returns:
    The mean, [] float32, and {"loss": (sum, number of lines)}.
  """
  del step, teacher
  logits = outputs.logits
  chex.assert_rank(logits, 3)
  chex.assert_equal_shape_prefix((logits, batch.label), 1)
  places = jnp.arange(batch.label.shape[1])[None, :]
  label_paddings = (places >= batch.length[:, None]).astype(jnp.float32)
  per_line = optax.ctc_loss(
    logits.astype(jnp.float32),
    jnp.zeros(logits.shape[:2], jnp.float32),
    batch.label,
    label_paddings,
  )
  total = jnp.sum(per_line * batch.mask)
  count = jnp.sum(batch.mask)
  return total / jnp.maximum(count, 1), {"loss": (total, count)}


def class_objective(
  outputs: Outputs,
  batch: batch_lib.Batch,
  step: jax.Array | None = None,
  teacher: Outputs | None = None,
) -> tuple[jax.Array, Metrics]:
  """Mean over images of the cross-entropy, in nats, for images of one class.

  Args:
    outputs: Logits [B, K]; no class is a blank.
    batch: Label [B, 1] holds the class. Mask 0 counts neither way.
    step: Not used; the labels teach the same throughout.
    teacher: Not used.
  """
  del step, teacher
  per_image = optax.softmax_cross_entropy_with_integer_labels(
    outputs.logits, batch.label[:, 0]
  )
  total, count = jnp.sum(per_image * batch.mask), jnp.sum(batch.mask)
  return total / count, {"loss": (total, count)}


def make_distilled(
  distillation: distil.Distillation,
  *,
  task: float = 1.0,
  scale: optax.Schedule | None = None,
) -> Objective:
  """CTC and what a teacher says, weighted.

  Args:
    distillation: Weights of the teacher's terms.
    task: Weight of CTC; 0 leaves the teacher alone, as the first of FSP's two
      stages has it (Yim et al. 2017, section 3.4).
    scale: Updates done -> factor on all of the teacher's terms; 1 if None.

  Returns:
    An objective whose metric `loss` is CTC's, as without a teacher, and which
    adds `distil_NAME` for each term that is on.
  """
  distillation.validate()

  def objective(outputs, batch, step, teacher):
    ctc, metrics = ctc_objective(outputs, batch)
    extra, more = distil.distillation_loss(
      distillation,
      student_taps=outputs.taps,
      student_logits=outputs.logits,
      teacher_taps=teacher.taps,
      teacher_logits=teacher.logits,
      mask=batch.mask,
      scale=1.0 if scale is None else scale(step),
    )
    return task * ctc + extra, metrics | more

  return objective
