import itertools

import jax
from jax import lax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.models import depthwise

KEY = jax.random.key(0)


@pytest.mark.parametrize(
  "strides, height, size",
  [
    *itertools.product([(1, 1), (2, 1), (2, 2)], [1, 7, 8], [3]),
    ((1, 1), 6, 5),
    ((2, 3), 7, 4),
    ((3, 2), 7, 2),  # Pixels of some rows are seen by no tap.
  ],
)
def test_depthwise_lowerings_agree_in_value_and_gradient(strides, height, size):
  x = jax.random.normal(KEY, (2, height, 12, 5))
  kernel = jax.random.normal(KEY, (size, size, 5))

  def reference(x, kernel):
    around = ((size - 1) // 2, size // 2)
    padded = jnp.pad(x, ((0, 0), around, around, (0, 0)))
    return lax.conv_general_dilated(
      padded,
      kernel[:, :, None],
      strides,
      "VALID",
      dimension_numbers=("NHWC", "HWIO", "NHWC"),
      feature_group_count=5,
    )

  def ours(x, kernel):
    return depthwise.depthwise_conv(x, kernel, strides=strides)

  def off_cpu(x, kernel):
    return depthwise._depthwise_lax(x, kernel, strides)

  def gradients(f):
    return jax.grad(lambda *a: jnp.sum(jnp.sin(f(*a))), (0, 1))(x, kernel)

  for lowering in (ours, off_cpu):
    np.testing.assert_allclose(
      lowering(x, kernel), reference(x, kernel), atol=1e-5
    )
    both = zip(gradients(lowering), gradients(reference), strict=True)
    for a, b in both:
      np.testing.assert_allclose(a, b, atol=1e-4)
