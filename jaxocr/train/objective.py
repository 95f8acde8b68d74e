"""What training minimises."""

import chex
import jax
import jax.numpy as jnp
import optax

from jaxocr.data import batch as batch_lib

Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)


def ctc_objective(
  logits: jax.Array, batch: batch_lib.Batch
) -> tuple[jax.Array, Metrics]:
  """Mean over lines of the CTC loss (Graves et al. 2006, eq. 8), in nats.

  Args:
    logits: [B, T, K] of any float type; the loss is taken in float32. Class 0
      is the blank. T must hold each label with a blank between repeats.
    batch: Lines whose mask is 0 count neither in the sum nor in the number.

  Returns:
    The mean, [] float32, and {"loss": (sum, number of lines)}.
  """
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
