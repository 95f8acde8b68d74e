"""Layers computed from codebooks and codes, without their dense kernels.

The inner products of each sub-vector of the input with all codewords are made
once; an output is then a sum of entries of this table, looked up by its codes
(Wu et al. 2016, section 3.1, equations 3 and 8). Fewer operations than the
dense product, but gathers instead of multiply-adds: `benchmarks/lookup.py`
measures when that pays. Codes as uint8 take half the time of int32.
"""

from typing import NamedTuple

import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.compress import codebook
from jaxocr.models import layers


class Operations(NamedTuple):
  """Of one input."""

  products: int  # Multiply-accumulates of sub-vectors and codewords.
  look_ups: int  # Gathers, each with an addition.
  dense: int  # Multiply-accumulates of the dense layer.

  @property
  def ratio(self) -> float:
    """How many times fewer, a look-up counted as a multiply-accumulate."""
    return self.dense / (self.products + self.look_ups)


def operations(
  shape: tuple[int, ...],
  *,
  d: int,
  codewords: int,
  places_in: int = 1,
  places_out: int = 1,
  groups: int = 1,
) -> Operations:
  """Counts operations (Wu et al. 2016, table 1).

  Args:
    shape: Of the kernel, [taps..., C, O], C of a group.
    d: Channels of a sub-vector.
    codewords: K.
    places_in: Pixels of the input; 1 for a dense layer.
    places_out: Pixels of the output.
    groups: Of the convolution.
  """
  sets, taps, outputs, _ = codebook.spaces(shape, d)
  channels = shape[-2]
  return Operations(
    places_in * groups * channels * codewords,
    places_out * outputs * taps * sets,
    places_out * outputs * taps * channels,
  )


def inner_products(x: jax.Array, books: jax.Array) -> jax.Array:
  """Tables [..., M * K] of inputs x [..., C] and books [M, K, d]."""
  sets, codewords, d = books.shape
  missing = sets * d - x.shape[-1]
  x = jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, missing)])
  x = x.reshape(*x.shape[:-1], sets, d)
  table = jnp.einsum("...md,mkd->...mk", x, books)
  return table.reshape(*table.shape[:-2], sets * codewords)


def dense(x: jax.Array, books: jax.Array, codes: jax.Array) -> jax.Array:
  """A dense layer: x [..., C], books [M, K, d], codes [M, 1, O] to [..., O]."""
  table = inner_products(x, books)
  return _gather(table, codes[:, 0], books.shape[1])


def conv(
  x: jax.Array,
  books: jax.Array,
  codes: jax.Array,
  *,
  size: int,
  strides: layers.Strides = (1, 1),
  padding: tuple[int, int] = (0, 0),
  groups: int = 1,
) -> jax.Array:
  """A square convolution with zero padding.

  Args:
    x: [B, H, W, C], C of all groups.
    books: [M, K, d], of a group's channels; all groups share them.
    codes: [M, size * size, O].
    size: k.
    strides: Step in H and W.
    padding: Px before and after, in H and W alike.
    groups: Outputs are split into as many parts as the channels.

  Returns:
    [B, H', W', O].
  """
  sets, _, outputs = codes.shape
  around = ((0, 0), padding, padding, (0, 0), (0, 0))
  x = x.reshape(*x.shape[:3], groups, -1)
  # What is padded has inner products of 0.
  table = jnp.pad(inner_products(x, books), around)
  height, width = table.shape[1] - size + 1, table.shape[2] - size + 1
  codes = codes.reshape(sets, -1, groups, outputs // groups)
  total = 0
  for tap in range(size * size):
    i, j = divmod(tap, size)
    seen = table[:, i : i + height : strides[0], j : j + width : strides[1]]
    total += jax.vmap(
      lambda seen, codes: _gather(seen, codes, books.shape[1]),
      in_axes=(3, 1),
      out_axes=3,
    )(seen, codes[:, tap])
  return total.reshape(*total.shape[:3], outputs)


def _gather(table, codes, codewords):
  """Sums over sub-spaces [..., O] of table [..., M * K] at codes [M, O].

  A sub-space at a time: its part of the table stays in the first cache, and
  sums in the next. Gathered at once, all entries took five times as long.
  """
  sets, outputs = codes.shape
  entries = table.reshape(-1, sets, codewords).transpose(1, 2, 0)

  def add(total, given):
    entries, codes = given
    places = codes.astype(jnp.int32)
    found = entries.at[places].get(mode="promise_in_bounds")
    return total + found, None

  start = jnp.zeros((outputs, entries.shape[2]), table.dtype)
  total, _ = lax.scan(add, start, (entries, codes))
  return total.T.reshape(*table.shape[:-1], outputs)
