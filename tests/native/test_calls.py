"""The C++ against XLA's own operations, on sizes that fill no vector evenly."""

import functools
import os
import pathlib
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr import native
from jaxocr.models import depthwise
from jaxocr.models import layers
from jaxocr.models import lstm
from jaxocr.models import norm

pytestmark = pytest.mark.skipif(
  bool(native.missing()), reason=f"no C++ kernels: {native.missing()}"
)


def _random(*shape, seed=0):
  rng = np.random.default_rng([seed, *shape])
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def _close(found, wanted, tolerance=2e-6):
  """Within a share of the largest value: sums are of another order."""
  for one, other in zip(
    jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True
  ):
    assert one.shape == other.shape
    scale = float(jnp.max(jnp.abs(other))) + 1.0
    np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * scale)


def _same(ours, theirs, *arguments):
  """Both results, and all gradients of a random cotangent."""
  given, pull = jax.vjp(ours, *arguments)
  wanted, pull_wanted = jax.vjp(theirs, *arguments)
  _close(given, wanted)
  heard = _random(*wanted.shape, seed=1)
  _close(pull(heard), pull_wanted(heard))


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize(
  ("features", "outputs", "strides", "pad_value"),
  [
    ((2, 5, 11, 7), 19, (1, 1), 0.0),
    ((1, 4, 9, 24), 24, (2, 2), 1.0),
    ((3, 5, 8, 17), 5, (2, 1), 1.0),
    ((2, 2, 21, 3), 70, (1, 3), 0.5),
    ((1, 1, 1, 1), 1, (1, 1), 0.0),
  ],
)
def test_convolution(features, outputs, strides, pad_value, size):
  def by_xla(x, kernel):
    around = layers.same_padding(size)
    x = jnp.pad(x, ((0, 0), around, around, (0, 0)), constant_values=pad_value)
    return jax.lax.conv_general_dilated(
      x, kernel, strides, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )

  _same(
    lambda x, kernel: native.conv(x, kernel, strides, pad_value),
    by_xla,
    _random(*features),
    _random(size, size, features[-1], outputs),
  )


def test_a_convolution_by_hand():
  x = jnp.asarray([[1.0, 2.0], [3.0, 4.0]])[None, :, :, None]
  kernel = jnp.arange(9.0).reshape(3, 3, 1, 1)
  out = native.conv(x, kernel, (1, 1), 0.0)[0, :, :, 0]
  assert out[0, 0] == 4 * 1 + 5 * 2 + 7 * 3 + 8 * 4
  assert out[1, 1] == 0 * 1 + 1 * 2 + 3 * 3 + 4 * 4
  # Whatever lies outside counts: three taps see the row above.
  padded = native.conv(x, kernel, (1, 1), 1.0)[0, :, :, 0]
  assert padded[0, 0] == out[0, 0] + (0 + 1 + 2) + 3 + 6


def test_signs_are_added_without_a_rounding():
  """Sums of +-scale are exact in any order, so both give the same bits."""
  x = jnp.sign(_random(2, 4, 8, 96))
  kernel = jnp.sign(_random(3, 3, 96, 96)) * 0.0625
  ours = native.conv(x, kernel, (1, 1), 1.0)
  theirs = layers.spatial_conv(x, kernel, pad_value=1.0)
  np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize(
  ("features", "strides"),
  [
    ((2, 5, 7, 3), (1, 1)),
    ((3, 4, 8, 24), (2, 2)),
    ((2, 5, 9, 17), (2, 1)),
    ((2, 3, 2, 40), (3, 3)),
    ((1, 1, 1, 16), (1, 1)),
  ],
)
def test_depthwise_convolution(features, strides, size):
  _same(
    lambda x, kernel: native.depthwise(x, kernel, strides),
    functools.partial(depthwise.depthwise_conv, strides=strides),
    _random(*features),
    _random(size, size, features[-1]),
  )


@pytest.mark.parametrize("batch, frames, hidden", [(5, 7, 32), (17, 1, 16)])
def test_recurrence(batch, frames, hidden):
  def by_xla(projected, kernel, bias):
    return lstm._both_ways(projected, [*kernel], [*bias], jnp.float32)

  _same(
    native.lstm,
    by_xla,
    _random(batch, frames, 8 * hidden),
    0.2 * _random(2, hidden, 4 * hidden),
    _random(2, 4 * hidden),
  )


def test_gates_that_are_shut_or_open_stay_finite():
  """Far beyond where exp overflows."""
  projected = jnp.full((1, 3, 8 * 16), 1e4) * jnp.sign(_random(1, 3, 8 * 16))
  arguments = (projected, jnp.zeros((2, 16, 64)), jnp.zeros((2, 64)))
  states, pull = jax.vjp(native.lstm, *arguments)
  assert jnp.all(jnp.abs(states) <= 1)
  assert all(jnp.all(jnp.isfinite(x)) for x in pull(jnp.ones_like(states)))


SHAPES = [(3, 5, 7, 5), (2, 3, 4, 24), (2, 9, 40), (2, 3, 40, 64)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("relu", [False, True])
def test_norm(shape, relu):
  def by_xla(x, scale, bias):
    y = norm._normalised(x, scale, bias, 1e-5)[0]
    return jax.nn.relu(y) if relu else y

  rows = [_random(shape[-1], seed=i) for i in (2, 3)]
  x = 0.5 + 2 * _random(*shape)
  _same(lambda *given: native.norm(*given, 1e-5, relu)[0], by_xla, x, *rows)
  moments = native.norm(x, *rows, 1e-5, relu)[1:]
  _close(moments, norm._normalised(x, *rows, 1e-5)[1:])


def test_what_is_no_number_comes_through():
  """A training that has broken must be seen to be."""
  x = _random(4, 3, 2, 5).at[0, 0, 0, 0].set(jnp.nan)
  y, _, variance = native.norm(x, jnp.ones(5), jnp.zeros(5), 1e-5, True)
  assert jnp.all(jnp.isnan(y[..., 0])) and jnp.all(y[..., 1:] >= 0)
  assert jnp.isnan(variance[0])
  x = _random(4, 3, 2, 5).at[0, 0, 0, 0].set(jnp.nan)
  y = native.norm(x, jnp.ones(5), jnp.zeros(5), 1e-5, True)[0]
  assert jnp.all(jnp.isnan(y[..., 0])) and jnp.all(y[..., 1:] >= 0)


def _rprelu(x, before, slope, after):
  """ReActNet's eq. 4, as it is written."""
  along = (None,) * (x.ndim - 1)
  z = x + before[along]
  return jnp.where(z > 0, z, slope[along] * z) + after[along]


@pytest.mark.parametrize("shape", SHAPES)
def test_rprelu(shape):
  rows = [_random(shape[-1], seed=i) for i in (2, 3, 4)]
  _same(native.rprelu, _rprelu, _random(*shape), *rows)


@pytest.mark.parametrize("shape", SHAPES)
def test_norm_and_rprelu_in_one(shape):
  def apart(x, scale, bias, shortcut, *bend):
    y = norm._normalised(x, scale, bias, 1e-5)[0]
    return _rprelu(y + shortcut, *bend)

  rows = [_random(shape[-1], seed=i) for i in range(2, 7)]
  _same(
    lambda *given: native.norm_rprelu(*given, 1e-5)[0],
    apart,
    _random(*shape),
    *rows[:2],
    _random(*shape, seed=9),
    *rows[2:],
  )


@pytest.mark.parametrize("shape", SHAPES)
def test_shift(shape):
  along = (None,) * (len(shape) - 1)
  _same(
    native.shift,
    lambda x, offset: x + offset[along],
    _random(*shape),
    _random(shape[-1]),
  )


@pytest.mark.parametrize("strides", [(1, 1), (2, 1), (2, 3)])
def test_pool(strides):
  _same(
    lambda x: native.pool(x, strides),
    lambda x: layers.average_pool(x, strides),
    _random(2, 4, 6, 20),
  )


def test_shapes_that_do_not_fit_are_refused():
  """In C++ they would be read from beyond the arrays."""
  x, row = jnp.zeros((2, 4, 5, 3)), jnp.zeros(3)
  with pytest.raises(AssertionError):
    native.conv(x, jnp.zeros((3, 1, 3, 2)), (1, 1), 0.0)
  with pytest.raises(AssertionError):
    native.depthwise(x, jnp.zeros((3, 3, 4)), (1, 1))
  with pytest.raises(AssertionError):
    native.lstm(jnp.zeros((1, 2, 160)), jnp.zeros((2, 20, 80)), jnp.zeros(160))
  with pytest.raises(AssertionError):
    native.norm(x, row, jnp.zeros(4), 1e-5)
  with pytest.raises(AssertionError):
    native.norm_rprelu(x, row, row, x[:1], row, row, row, 1e-5)
  with pytest.raises(AssertionError):
    native.rprelu(x, row, row, jnp.zeros(1))
  with pytest.raises(AssertionError):
    native.pool(x, (2, 2))


_ONE_OF_EACH = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[: int(sys.argv[1])])
import hashlib
import jax
import jax.numpy as jnp
from jaxocr import native

def random(*shape):
  return jax.random.normal(jax.random.key(len(shape)), shape)

assert not native.missing()
row, x = random(24), random(5, 8, 24, 24)
digest = hashlib.sha256()
for function, *arguments in (
  (lambda x, k: native.conv(x, k, (2, 1), 1.0), x, random(3, 3, 24, 40)),
  (lambda x, k: native.depthwise(x, k, (1, 2)), x, random(3, 3, 24)),
  (native.lstm, random(17, 9, 256), random(2, 32, 128), random(2, 128)),
  (lambda *a: native.norm_rprelu(*a, 1e-5)[0], x, row, row, -x, row, row, row),
  (lambda *a: native.norm(*a, 1e-5, True)[0], x, row, row),
):
  y, pull = jax.vjp(function, *arguments)
  for array in jax.tree.leaves((y, pull(y))):
    digest.update(jax.device_get(array).tobytes())
print(digest.hexdigest())
"""


@pytest.mark.slow
def test_nothing_depends_on_how_many_threads_there_are():
  """A task sums alone, in parts that the shapes decide."""
  if len(os.sched_getaffinity(0)) < 2:
    pytest.skip("one processor")
  said = {
    subprocess.run(
      [sys.executable, "-c", _ONE_OF_EACH, str(threads)],
      capture_output=True,
      text=True,
      check=True,
      cwd=pathlib.Path(__file__).parents[2],
    ).stdout
    for threads in (1, 2, 2)
  }
  assert len(said) == 1
