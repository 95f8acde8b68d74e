"""Packed tensors: the layout by hand, and what comes back."""

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import packed


def bit_tensor(positive, scale=None, dtype="float32"):
  scale = None if scale is None else jnp.asarray(scale)
  return packed.pack_bits(jnp.asarray(positive, bool), scale, dtype)


def affine_tensor(codes, scale, zero_point=None, **stated):
  stated = {"bits": 3, "lowest": 0, "dtype": "float32"} | stated
  return packed.pack_codes(jnp.asarray(codes), scale, zero_point, **stated)


def test_the_first_input_is_the_lowest_bit():
  tensor = bit_tensor(np.array([1, 0, 1, 1, 0, 0, 0, 0, 1])[:, None])
  # 1 + 4 + 8; then one bit, and seven zeros to fill up.
  np.testing.assert_array_equal(tensor.bits, [[0b0000_1101, 0b0000_0001]])
  assert tensor.bits.dtype == jnp.uint8


def test_each_output_channel_has_its_row():
  # [k, k, C_in, C_out] = [1, 2, 2, 3]; inputs in the order of the axes.
  positive = np.zeros((1, 2, 2, 3), bool)
  positive[0, 0, 1, 0] = True  # Input 1 of channel 0.
  positive[0, 1, 0, 1] = True  # Input 2 of channel 1.
  positive[..., 2] = True
  tensor = bit_tensor(positive, [0.5, 2.0, 3.0])
  np.testing.assert_array_equal(tensor.bits, [[2], [4], [15]])
  values = tensor.dequantise()
  assert values.shape == (1, 2, 2, 3)
  np.testing.assert_array_equal(
    values.reshape(4, 3),
    [[-0.5, -2, 3], [0.5, -2, 3], [-0.5, 2, 3], [-0.5, -2, 3]],
  )


def test_without_a_scale_bits_are_plus_and_minus_one():
  tensor = bit_tensor([[True, False]])
  assert tensor.scale is None
  np.testing.assert_array_equal(tensor.dequantise(), [[1, -1]])


@pytest.mark.parametrize(
  "shape, row_bytes",
  [((7, 2), 1), ((8, 2), 1), ((9, 2), 2), ((3, 3, 5, 4), 6), ((3,), 1)],
)
def test_bits_fill_whole_bytes_of_a_channel(shape, row_bytes):
  positive = np.random.default_rng(0).random(shape) < 0.5
  channels = shape[-1]
  bare = bit_tensor(positive)
  scaled = bit_tensor(positive, np.ones(channels, np.float32))
  assert bare.bits.shape == (channels, row_bytes)
  assert bare.nbytes == channels * row_bytes
  assert scaled.nbytes == channels * (row_bytes + 2)  # A float16 each.
  for tensor in (bare, scaled):
    np.testing.assert_array_equal(tensor.dequantise() > 0, positive)


def test_codes_lie_in_a_stream():
  # Codes 0..7 of three bits, the lowest first:
  # 100 011 10|1 111 000 1|00
  tensor = affine_tensor([1, 6, 5, 7, 0, 1], jnp.float32(1))
  stream = "100011101111000100"
  expected = [int(stream[i : i + 8][::-1], 2) for i in (0, 8, 16)]
  assert expected == [0b0111_0001, 0b1000_1111, 0b0000_0000]
  np.testing.assert_array_equal(tensor.codes, expected)
  assert tensor.nbytes == 3 + 2


def test_the_lowest_code_is_stored_as_zero():
  tensor = affine_tensor(
    [[-127, 0], [1, 127]], jnp.array([0.5, 2.0]), bits=8, lowest=-127
  )
  np.testing.assert_array_equal(tensor.codes, [0, 127, 128, 254])
  np.testing.assert_array_equal(tensor.dequantise(), [[-63.5, 0], [0.5, 254]])
  assert tensor.nbytes == 4 + 4


def test_zero_points_are_taken_off_before_scaling():
  tensor = affine_tensor(
    [[0, 3], [1, 7]], jnp.array([2.0, 0.5]), jnp.array([1.0, 3.0])
  )
  np.testing.assert_array_equal(tensor.dequantise(), [[-2, 0], [0, 2]])
  whole = affine_tensor([[0, 7]], jnp.float32(2), jnp.float32(3.5))
  np.testing.assert_array_equal(whole.dequantise(), [[-7, 7]])
  # Two bytes for each scale and zero point.
  assert tensor.nbytes == 2 + 4 + 4
  assert whole.nbytes == 1 + 2 + 2


@hypothesis.given(st.data())
@hypothesis.settings(deadline=None, max_examples=20, derandomize=True)
def test_codes_come_back(data):
  bits = data.draw(st.integers(2, 8), "bits")
  lowest = data.draw(st.sampled_from([0, -1, 1 - 2 ** (bits - 1)]), "lowest")
  shape = data.draw(st.sampled_from([(1,), (3, 3), (2, 5, 1)]), "shape")
  seed = data.draw(st.integers(0, 99), "seed")
  codes = np.random.default_rng(seed).integers(
    lowest, lowest + 2**bits, shape, np.int32
  )
  tensor = affine_tensor(codes, jnp.float32(1), bits=bits, lowest=lowest)
  np.testing.assert_array_equal(tensor.dequantise(), codes)
  assert tensor.codes.shape == (-(-codes.size * bits // 8),)
  assert (tensor.form, tensor.shape) == (f"int{bits}", shape)


def test_floats_keep_their_storage_and_come_back_as_computed_with():
  values = jnp.array([1.0, 1 / 3], jnp.float16)
  tensor = packed.FloatTensor(values, "float32")
  assert (tensor.form, tensor.nbytes, tensor.shape) == ("float16", 4, (2,))
  assert tensor.dequantise().dtype == jnp.float32
  np.testing.assert_array_equal(
    tensor.dequantise(), np.float32(np.float16([1, 1 / 3]))
  )


def tensors(dtype):
  return {
    "bit": bit_tensor([[True, False], [False, False]], [0.1, 3.0], dtype),
    "bare": bit_tensor([[True, False]], None, dtype),
    "affine": affine_tensor(
      [[1, 2], [3, 4]], jnp.array([0.1, 2.0]), jnp.float32(3), dtype=dtype
    ),
    "float": packed.FloatTensor(jnp.array([0.1, 2.0], jnp.float16), dtype),
  }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bfloat16_is_the_float32_value_rounded_once(dtype):
  for name, tensor in tensors(dtype).items():
    values = tensor.dequantise()
    wide = tensors("float32")[name].dequantise()
    assert values.dtype == dtype, name
    np.testing.assert_array_equal(values, wide.astype(dtype), name)


def test_they_are_pytrees_of_their_arrays():
  tree = tensors("float32")
  assert len(jax.tree.leaves(tree)) == 2 + 1 + 3 + 1
  names = {
    jax.tree_util.keystr(path, simple=True, separator=".")
    for path, _ in jax.tree_util.tree_leaves_with_path(tree)
  }
  assert names == {
    "bit.bits",
    "bit.scale",
    "bare.bits",
    "affine.codes",
    "affine.scale",
    "affine.zero_point",
    "float.values",
  }
  host = jax.device_get(tree)
  for name, tensor in host.items():
    assert type(tensor) is type(tree[name])
    assert tensor.shape == tree[name].shape
    assert packed.is_packed(tensor)
    assert all(isinstance(x, np.ndarray) for x in jax.tree.leaves(tensor))


def test_they_pass_through_jit():
  tree = tensors("float32")

  @jax.jit
  def dequantise(tree):
    return jax.tree.map(
      lambda t: t.dequantise(), tree, is_leaf=packed.is_packed
    )

  for name, values in dequantise(tree).items():
    np.testing.assert_array_equal(values, tree[name].dequantise(), name)


def test_packing_under_jit_gives_the_same_bytes():
  codes = jnp.arange(10).reshape(5, 2) % 8
  positive = codes > 3

  def pack(codes, positive):
    scale = jnp.array([0.1, 0.2])
    return (
      packed.pack_bits(positive, scale, "float32"),
      affine_tensor(codes, scale),
    )

  eager, jitted = pack(codes, positive), jax.jit(pack)(codes, positive)
  assert jax.tree.structure(eager) == jax.tree.structure(jitted)
  for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(jitted), strict=True):
    np.testing.assert_array_equal(a, b)


def test_sizes_are_known_from_shapes_alone():
  shapes = jax.eval_shape(lambda: tensors("float32"))
  for name, tensor in tensors("float32").items():
    assert shapes[name].nbytes == tensor.nbytes
    assert shapes[name].form == tensor.form
