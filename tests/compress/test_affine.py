"""Affine quantisation against PyTorch, and by hand where it has no say."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import affine

SETTINGS = hypothesis.settings(deadline=None, derandomize=True, max_examples=40)
_absmax_scale = jax.jit(affine.absmax_scale, static_argnums=1)
GRIDS = [
  affine.Grid(5, symmetric, rounding, order)
  for symmetric in (True, False)
  for rounding in ("even", "away")
  for order in ("after", "before")
]


@st.composite
def _problems(draw, channels):
  """Grid, scales, zero points and values [16, C] with ties and edges."""
  grid = affine.Grid(draw(st.integers(2, 8)), draw(st.booleans()))
  scales = st.floats(2.0**-10, 16, width=32)
  zero_points = st.integers(grid.lowest, grid.highest)
  scale = draw(st.lists(scales, min_size=channels, max_size=channels))
  zero = draw(st.lists(zero_points, min_size=channels, max_size=channels))
  # In half steps: an odd number is a tie, the outermost lie beyond the edges.
  halves = st.integers(-600, 600).map(float) | st.floats(-600, 600, width=32)
  size = 16 * channels
  half_steps = draw(st.lists(halves, min_size=size, max_size=size))
  scale = np.array(scale, np.float32)
  x = np.array(half_steps, np.float32).reshape(16, channels) / 2 * scale
  return grid, scale, np.array(zero, np.int32), x


def _check_against_torch(fake, grid, scale, zero_point, x):
  torch = pytest.importorskip("torch")
  inputs = torch.tensor(x, requires_grad=True)
  expected = fake(torch, inputs, grid.lowest, grid.highest)
  expected.backward(torch.full(x.shape, 3.0))
  out, pull = jax.vjp(
    lambda v: affine.fake_quant(v, scale, zero_point, grid), jnp.asarray(x)
  )
  np.testing.assert_array_equal(out, expected.detach().numpy())
  (gradient,) = pull(jnp.full(x.shape, 3.0))
  np.testing.assert_array_equal(gradient, inputs.grad.numpy())


@hypothesis.given(_problems(channels=1))
@SETTINGS
def test_per_tensor_against_torch(problem):
  grid, scale, zero_point, x = problem

  def fake(torch, inputs, low, high):
    return torch.fake_quantize_per_tensor_affine(
      inputs, float(scale[0]), int(zero_point[0]), low, high
    )

  _check_against_torch(fake, grid, scale[0], zero_point[0], x)


@hypothesis.given(_problems(channels=3))
@SETTINGS
def test_per_channel_against_torch(problem):
  grid, scale, zero_point, x = problem

  def fake(torch, inputs, low, high):
    return torch.fake_quantize_per_channel_affine(
      inputs, torch.tensor(scale), torch.tensor(zero_point), 1, low, high
    )

  _check_against_torch(fake, grid, scale, zero_point, x)


@pytest.mark.parametrize(
  ("rounding", "order", "expected"),
  [
    # round(-1.5), round(-0.5), round(0.5), round(1.5), and 3 more.
    ("even", "after", [1, 3, 3, 5]),
    ("away", "after", [1, 2, 4, 5]),
    # round(1.5), round(2.5), round(3.5), round(4.5).
    ("even", "before", [2, 2, 4, 4]),
    ("away", "before", [2, 3, 4, 5]),
  ],
)
def test_ties_by_hand(rounding, order, expected):
  grid = affine.Grid(4, False, rounding, order)
  x = jnp.array([-1.5, -0.5, 0.5, 1.5]) * 0.25
  np.testing.assert_array_equal(affine.quantise(x, 0.25, 3, grid), expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_rounding_against_float64(grid):
  steps = np.arange(-40, 1200).astype(np.float32) / 4 - 100
  near = np.nextafter(np.float32([0.5, -0.5, 1.5]), np.float32(0))
  steps = np.concatenate([steps, near])
  for zero_point in (0, 1, grid.highest - 1):
    shift = zero_point if grid.zero_point_order == "before" else 0
    exact = steps.astype(np.float64) + shift
    if grid.rounding == "even":
      codes = np.rint(exact)
    else:
      codes = np.sign(exact) * np.floor(np.abs(exact) + 0.5)
    codes = np.clip(codes + zero_point - shift, grid.lowest, grid.highest)
    np.testing.assert_array_equal(
      affine.quantise(jnp.asarray(steps * 2), 2.0, zero_point, grid), codes
    )


def test_eight_symmetric_bits_divide_by_127():
  grid = affine.Grid(bits=8, symmetric=True)
  scale, zero_point = affine.absmax_scale(jnp.array([63.5, 0.0]), grid)
  # Not 63.5 / 127.5; and a range of nothing gives 1.
  np.testing.assert_array_equal(scale, [0.5, 1])
  np.testing.assert_array_equal(zero_point, [0, 0])
  assert scale.dtype == jnp.float32 and zero_point.dtype == jnp.int32
  assert (grid.lowest, grid.highest) == (-127, 127)


@hypothesis.given(
  st.integers(2, 8), st.floats(0, 65504, width=32, exclude_min=True)
)
@hypothesis.example(8, float(np.float32(1e-30)))
@hypothesis.example(2, 65504.0)
@SETTINGS
def test_the_scale_is_the_smallest_float16_that_covers(bits, absmax):
  hypothesis.assume(absmax > 1e-37)  # XLA takes what is smaller for zero.
  grid = affine.Grid(bits)
  scale, _ = _absmax_scale(absmax, grid)
  held = np.float16(scale)
  assert np.float32(held) == scale
  assert float(scale) * grid.highest >= absmax
  assert float(np.nextafter(held, np.float16(0))) * grid.highest < absmax


def test_no_scale_beyond_float16_nor_a_hidden_nan():
  scale, _ = affine.absmax_scale(jnp.array([1e30, jnp.nan]), affine.Grid())
  np.testing.assert_array_equal(scale, [65504, np.nan])


def test_min_max_by_hand():
  grid = affine.Grid(bits=8, symmetric=False)
  # Widened to hold zero: [0, 255], [-255, 0]; then within, and nothing at all.
  low = jnp.array([100.0, -255, -64, -0.25, 0])
  high = jnp.array([255.0, -3, 191, 127.25, 0])
  scale, zero_point = affine.min_max_scale(low, high, grid)
  np.testing.assert_array_equal(scale, [1, 1, 1, 0.5, 1])
  # 0.25 / 0.5 is a tie.
  np.testing.assert_array_equal(zero_point, [0, 255, 64, 0, 0])
  assert scale.dtype == jnp.float32 and zero_point.dtype == jnp.int32


def test_zero_is_exact_whatever_the_range():
  grid = affine.Grid(bits=4, symmetric=False)
  edges = jax.random.normal(jax.random.key(0), (2, 200))
  low, high = jnp.min(edges, axis=0), jnp.max(edges, axis=0)
  scale, zero_point = affine.min_max_scale(low, high, grid)
  zeros = affine.fake_quant(jnp.zeros((1, 200)), scale, zero_point, grid)
  np.testing.assert_array_equal(zeros, np.zeros((1, 200)))


def test_a_range_goes_with_its_grid():
  with pytest.raises(ValueError, match="is not symmetric; give its range to"):
    affine.absmax_scale(1.0, affine.Grid(symmetric=False))
  with pytest.raises(ValueError, match="is symmetric; give its range to"):
    affine.min_max_scale(0.0, 1.0, affine.Grid(symmetric=True))


def test_grids_check_their_fields():
  for bits in (1, 9):
    with pytest.raises(ValueError, match=f"bits={bits}; must be 2 to 8"):
      affine.Grid(bits=bits)
  with pytest.raises(ValueError, match="rounding='up'"):
    affine.Grid(rounding="up")
  with pytest.raises(ValueError, match="zero_point_order='between'"):
    affine.Grid(zero_point_order="between")


def _kernel(dtype=jnp.float32):
  kernel = jax.random.normal(jax.random.key(0), (3, 3, 16, 6))
  # Among them what float16 holds as subnormals, and a channel of zeros.
  sizes = jnp.array([1, 30, 1e-3, 1e-5, 0, 2]).reshape(1, 1, 1, 6)
  return (kernel * sizes).astype(dtype)


@pytest.mark.parametrize(
  ("per_channel", "dtype"), [(True, jnp.float32), (False, jnp.bfloat16)]
)
@pytest.mark.parametrize("grid", GRIDS)
def test_training_computes_with_the_codes(grid, dtype, per_channel):
  kernel = _kernel(dtype)

  def fake(k):
    return affine.fake_quant_kernel(k, grid, per_channel=per_channel)

  codes, scale, zero_point = affine.kernel_codes(
    kernel, grid, per_channel=per_channel
  )
  assert scale.shape == zero_point.shape == ((6,) if per_channel else ())
  assert codes.dtype == zero_point.dtype == jnp.int32
  np.testing.assert_array_equal(scale, scale.astype(jnp.float16))
  expected = affine.dequantise(codes, scale, zero_point, dtype)
  assert expected.dtype == dtype
  np.testing.assert_array_equal(fake(kernel), expected)
  np.testing.assert_array_equal(jax.jit(fake)(kernel), expected)
  gradient = jax.grad(lambda k: fake(k).sum())(kernel)
  assert gradient.dtype == dtype


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 5, 8])
def test_the_range_covers_the_kernel(bits, symmetric, per_channel):
  grid = affine.Grid(bits, symmetric)
  kernel = _kernel()
  codes, scale, zero_point = affine.kernel_codes(
    kernel, grid, per_channel=per_channel
  )
  values = affine.dequantise(codes, scale, zero_point, jnp.float32)
  error = np.abs(np.asarray(values - kernel)).max((0, 1, 2))
  assert np.all(error <= np.asarray(scale) * 0.5001)
  if symmetric:
    gradient = jax.grad(
      lambda k: affine.fake_quant_kernel(k, grid, per_channel=per_channel).sum()
    )(kernel)
    np.testing.assert_array_equal(gradient, np.ones(kernel.shape))
    again = affine.kernel_codes(values, grid, per_channel=per_channel)
    filled = np.abs(codes).max((0, 1, 2)) == grid.highest
    # Where float16 is fine enough, the largest weight has the largest code,
    # and what was quantised once stays as it is.
    assert filled[[0, 1, 5]].all() if per_channel else filled.any()
    np.testing.assert_array_equal(again[0][..., filled], codes[..., filled])


@pytest.mark.parametrize("grid", GRIDS)
def test_codes_are_the_same_under_jit(grid):
  x = jax.random.normal(jax.random.key(0), (4096, 8)) * 3
  x = jnp.concatenate([x, jnp.arange(-80.0, 80.0).reshape(20, 8) / 16])
  scale = jnp.array([0.01, 0.03, 0.1, 0.125, 1 / 3, 0.7, 0.02, 0.05])
  zero_point = jnp.arange(8) % (grid.highest + 1)
  expected = np.asarray(affine.quantise(x, scale, zero_point, grid))
  np.testing.assert_array_equal(
    jax.jit(affine.quantise, static_argnums=3)(x, scale, zero_point, grid),
    expected,
  )
  constant = jax.jit(lambda v: affine.quantise(v, scale, zero_point, grid))
  np.testing.assert_array_equal(constant(x), expected)


def test_nan_is_not_hidden_and_the_infinite_saturates():
  x = jnp.array([jnp.nan, jnp.inf, -jnp.inf])
  out = affine.fake_quant(x, 0.5, 3, affine.Grid(2, symmetric=False))
  np.testing.assert_array_equal(out, [np.nan, 0, -1.5])


def test_scale_and_zero_point_receive_no_gradient():
  gradient = jax.grad(
    lambda s: affine.fake_quant(jnp.ones(3), s, 0, affine.Grid()).sum()
  )(0.5)
  assert gradient == 0
