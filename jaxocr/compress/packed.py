"""Compressed parameters as they are stored: registered pytrees of arrays.

Each has `dequantise()`, the parameter as the network computes with it, and
`nbytes`, what it occupies. A size report is a sum of these.
"""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp

from jaxocr.compress import affine
from jaxocr.compress import binarise
from jaxocr.compress import codebook


class Packed:
  """What is common to all: `shape`, `dtype`, `form` (a word), `nbytes`."""

  @property
  def nbytes(self) -> int:
    return sum(
      leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self)
    )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["values"],
  meta_fields=["dtype"],
)
@dataclasses.dataclass(frozen=True)
class FloatTensor(Packed):
  """Floats, perhaps narrower than what is computed with."""

  values: jax.Array
  dtype: str  # Of the parameter.

  @property
  def shape(self) -> tuple[int, ...]:
    return self.values.shape

  @property
  def form(self) -> str:
    return str(self.values.dtype)

  def dequantise(self) -> jax.Array:
    return self.values.astype(self.dtype)


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["bits", "scale"],
  meta_fields=["shape", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class BitTensor(Packed):
  """One bit a weight, +1 where it is set, and a scale per output channel.

  Bits lie along the inputs of each output channel, so that a dot product reads
  them in order: bit i of a channel is bit i % 8 (from the lowest) of its byte
  i // 8, inputs counted over all axes but the last in row-major order. The last
  byte is filled up with zeros.
  """

  bits: jax.Array  # [C_out, ceil(inputs / 8)] uint8.
  scale: jax.Array | None  # [C_out] float16; None is 1.
  shape: tuple[int, ...]  # Of the parameter; the last is C_out.
  dtype: str  # Of the parameter.

  @property
  def form(self) -> str:
    return "bit"

  def dequantise(self) -> jax.Array:
    inputs = math.prod(self.shape[:-1])
    bits = jnp.unpackbits(self.bits, axis=-1, count=inputs, bitorder="little")
    positive = jnp.transpose(bits).reshape(self.shape).astype(bool)
    if self.scale is None:
      return jnp.where(positive, 1, -1).astype(self.dtype)
    codes = jnp.where(positive, 1, -1)
    return binarise.dequantise(
      codes, self.scale.astype(jnp.float32), self.dtype
    )


def pack_bits(
  positive: jax.Array, scale: jax.Array | None, dtype: str
) -> BitTensor:
  """A BitTensor of booleans [..., C_out] and scales [C_out] or None."""
  rows = jnp.transpose(positive.reshape(-1, positive.shape[-1]))
  return BitTensor(
    bits=jnp.packbits(rows, axis=-1, bitorder="little"),
    scale=None if scale is None else scale.astype(jnp.float16),
    shape=positive.shape,
    dtype=str(dtype),
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["codes", "scale", "zero_point"],
  meta_fields=["bits", "lowest", "shape", "dtype"],
)
@dataclasses.dataclass(frozen=True)
class AffineTensor(Packed):
  """Integers of 1 to 8 bits: value = (code - zero_point) * scale.

  Scales belong to the last axis, or there is one for all. Stored are
  code - lowest, in a stream of `bits` bits each, lowest bit first, in row-major
  order of the parameter.
  """

  codes: jax.Array  # [ceil(size * bits / 8)] uint8.
  scale: jax.Array  # [C_out] or [] float16.
  zero_point: jax.Array | None  # [C_out] or [] float16; None is 0.
  bits: int
  lowest: int  # The code that is stored as 0.
  shape: tuple[int, ...]  # Of the parameter.
  dtype: str  # Of the parameter.

  @property
  def form(self) -> str:
    return f"int{self.bits}"

  def dequantise(self) -> jax.Array:
    codes = _unpack_stream(self.codes, self.bits, math.prod(self.shape))
    codes = (codes + self.lowest).reshape(self.shape)
    zero_point = 0 if self.zero_point is None else self.zero_point
    return affine.dequantise(codes, self.scale, zero_point, self.dtype)


def pack_codes(
  codes: jax.Array,
  scale: jax.Array,
  zero_point: jax.Array | None,
  *,
  bits: int,
  lowest: int,
  dtype: str,
) -> AffineTensor:
  """An AffineTensor of integer codes in lowest..lowest + 2**bits - 1."""
  return AffineTensor(
    codes=_pack_stream(codes.reshape(-1).astype(jnp.int32) - lowest, bits),
    scale=scale.astype(jnp.float16),
    zero_point=None if zero_point is None else zero_point.astype(jnp.float16),
    bits=bits,
    lowest=lowest,
    shape=codes.shape,
    dtype=str(dtype),
  )


@functools.partial(
  jax.tree_util.register_dataclass,
  data_fields=["codebooks", "codes"],
  meta_fields=["d", "shape", "dtype", "errors"],
)
@dataclasses.dataclass(frozen=True)
class CodebookTensor(Packed):
  """Sub-vectors as rows of codebooks, see `compress.codebook`.

  Codes are stored in the order [M, taps, O], in a stream of log2 K bits each,
  lowest bit first. Columns of the codebooks are codewords, cut to the channels
  that there are.
  """

  codebooks: jax.Array  # [C, K] float16 or float32.
  codes: jax.Array  # [ceil(M * taps * O * log2(K) / 8)] uint8.
  d: int  # Channels of a sub-vector.
  shape: tuple[int, ...]  # Of the parameter, [taps..., C, O].
  dtype: str  # Of the parameter.
  # Relative response error as of `compress.correct`, before and after it; None:
  # nothing was measured.
  errors: tuple[float, float] | None = None

  @property
  def codewords(self) -> int:
    return self.codebooks.shape[-1]

  @property
  def storage(self) -> str:
    """Of the codebooks."""
    return str(self.codebooks.dtype)

  @property
  def form(self) -> str:
    return f"pq{self.d}x{self.codewords}"

  def open(self) -> tuple[jax.Array, jax.Array]:
    """Books [M, K, d] float32 and codes [M, taps, O] int32."""
    sets, taps, outputs, d = codebook.spaces(self.shape, self.d)
    channels, codewords = self.codebooks.shape
    missing = sets * d - channels
    columns = jnp.pad(
      self.codebooks.astype(jnp.float32), ((0, missing), (0, 0))
    )
    books = columns.reshape(sets, d, codewords).transpose(0, 2, 1)
    codes = _unpack_stream(
      self.codes, codebook.code_bits(codewords), sets * taps * outputs
    )
    return books, codes.reshape(sets, taps, outputs)

  def dequantise(self) -> jax.Array:
    return codebook.join(*self.open(), self.shape).astype(self.dtype)


def pack_codebooks(
  books: jax.Array,
  codes: jax.Array,
  *,
  shape: tuple[int, ...],
  storage: str,
  dtype: str,
  errors: tuple[float, float] | None = None,
) -> CodebookTensor:
  """A CodebookTensor of books [M, K, d] and codes [M, taps, O]."""
  sets, codewords, d = books.shape
  columns = books.transpose(0, 2, 1).reshape(sets * d, codewords)
  return CodebookTensor(
    codebooks=columns[: shape[-2]].astype(storage),
    codes=_pack_stream(
      codes.reshape(-1).astype(jnp.int32), codebook.code_bits(codewords)
    ),
    d=d,
    shape=tuple(shape),
    dtype=str(dtype),
    errors=errors,
  )


def is_packed(node) -> bool:
  """For `jax.tree.map(..., is_leaf=is_packed)`."""
  return isinstance(node, Packed)


def _pack_stream(numbers: jax.Array, bits: int) -> jax.Array:
  if bits == 8:
    return numbers.astype(jnp.uint8)
  places = jnp.arange(bits, dtype=jnp.int32)[None, :]
  stream = (numbers[:, None] >> places) & 1
  return jnp.packbits(stream.reshape(-1).astype(jnp.uint8), bitorder="little")


def _unpack_stream(stream: jax.Array, bits: int, count: int) -> jax.Array:
  if bits == 8:
    return stream.astype(jnp.int32)
  flat = jnp.unpackbits(stream, count=count * bits, bitorder="little")
  places = jnp.arange(bits, dtype=jnp.int32)[None, :]
  return jnp.sum(flat.reshape(count, bits).astype(jnp.int32) << places, axis=1)
