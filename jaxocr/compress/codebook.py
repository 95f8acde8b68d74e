"""Product quantisation: a kernel as codebooks and codes.

The kernel [taps..., C, O] is cut along its input channels into M = ceil(C / d)
sub-spaces of d channels. In each, the sub-vectors of all taps and outputs are
rows of one codebook of K codewords (Wu et al. 2016, sections 3.1 and 3.2). Of
a grouped convolution C is a group's channels, and the groups share codebooks:

  kernel[p, m d + j, o] = books[m, codes[m, p, o], j]

A kernel of two axes has one tap. Where d does not divide C, the last sub-space
is filled up with zeros, which are not stored.
"""

import functools
import math

import chex
import jax
import jax.numpy as jnp

from jaxocr.compress import kmeans

ITERATIONS = 25  # Of Lloyd's; more change inertia by less than a hundredth.


def spaces(shape: tuple[int, ...], d: int) -> tuple[int, int, int, int]:
  """(M, taps, O, d) of a kernel's shape; d is at most its channels."""
  *taps, channels, outputs = shape
  d = min(d, channels)
  return -(-channels // d), math.prod(taps), outputs, d


def split(kernel: jax.Array, d: int) -> jax.Array:
  """Sub-vectors [M, taps, O, d] of a kernel [taps..., C, O]."""
  sets, taps, outputs, d = spaces(kernel.shape, d)
  rows = kernel.reshape(taps, -1, outputs)
  missing = sets * d - rows.shape[1]
  rows = jnp.pad(rows, ((0, 0), (0, missing), (0, 0)))
  return rows.reshape(taps, sets, d, outputs).transpose(1, 0, 3, 2)


def join(
  books: jax.Array, codes: jax.Array, shape: tuple[int, ...]
) -> jax.Array:
  """The kernel of books [M, K, d] and codes [M, taps, O]; see `split`.

  Its gradient with respect to the books is the sum over each codeword's uses.
  """
  sets, _, d = books.shape
  _, taps, outputs = codes.shape
  chex.assert_axis_dimension(codes, 0, sets)
  rows = jax.vmap(lambda book, code: book[code])(books, codes)
  rows = rows.transpose(1, 0, 3, 2).reshape(taps, sets * d, outputs)
  return rows[:, : shape[-2]].reshape(shape)


def fit(
  kernel: jax.Array,
  *,
  d: int,
  codewords: int,
  storage: str,
  seed: int = 0,
  iterations: int = ITERATIONS,
) -> tuple[jax.Array, jax.Array]:
  """Codebooks and codes by k-means.

  Args:
    kernel: [taps..., C, O].
    d: Channels of a sub-vector.
    codewords: K.
    storage: Of the codebooks, float16 or float32: what the codes are nearest
      to are the codewords as stored.
    seed: Of the starts.
    iterations: Of Lloyd's.

  Returns:
    Books [M, K, d] float32, with values of `storage`, and codes [M, taps, O]
    int32.

  Raises:
    ValueError: See `unfit`.
  """
  reason = unfit(kernel.shape, d=d, codewords=codewords, storage=storage)
  if reason:
    raise ValueError(reason)
  return _fit(
    kernel.astype(jnp.float32),
    jnp.asarray(seed, jnp.uint32),
    d=d,
    codewords=codewords,
    storage=storage,
    iterations=iterations,
  )


@functools.partial(
  jax.jit, static_argnames=("d", "codewords", "storage", "iterations")
)
def _fit(kernel, seed, *, d, codewords, storage, iterations):
  vectors = split(kernel, d)
  sets, taps, outputs, d = vectors.shape
  vectors = vectors.reshape(sets, taps * outputs, d)
  # What comes before and after must not change how this is compiled, or a
  # training step and a file would have other codes.
  vectors = jax.lax.optimization_barrier(vectors)
  books, _ = kmeans.fit(
    vectors,
    jax.random.key(seed),
    codewords=codewords,
    iterations=iterations,
  )
  books = stored(books, storage)
  codes = jax.lax.map(lambda given: kmeans.assign(*given), (vectors, books))
  return books, codes.reshape(sets, taps, outputs)


def stored(books: jax.Array, storage: str) -> jax.Array:
  """Float32 with values of `storage`; too large ones become its largest."""
  limit = float(jnp.finfo(storage).max)
  narrow = jnp.clip(books, -limit, limit).astype(storage)
  # XLA may else drop the two conversions where it is free to compute in more.
  return jax.lax.optimization_barrier(narrow).astype(jnp.float32)


def code_bits(codewords: int) -> int:
  """Bits of a code: log2 K, rounded up."""
  return max(1, math.ceil(math.log2(codewords)))


def nbytes(
  *, codeword_values: int, codes: int, codewords: int, storage: str
) -> tuple[int, int]:
  """Bytes of all codebooks, and of all codes.

  Args:
    codeword_values: Floats of all codewords of all codebooks: C K.
    codes: How many: M taps O.
    codewords: K.
    storage: Of the codewords.
  """
  books = codeword_values * jnp.dtype(storage).itemsize
  return books, -(-codes * code_bits(codewords) // 8)


def kernel_nbytes(
  shape: tuple[int, ...], *, d: int, codewords: int, storage: str
) -> tuple[int, int]:
  """`nbytes` of a kernel of this shape."""
  sets, taps, outputs, _ = spaces(shape, d)
  return nbytes(
    codeword_values=shape[-2] * codewords,
    codes=sets * taps * outputs,
    codewords=codewords,
    storage=storage,
  )


def unfit(
  shape: tuple[int, ...], *, d: int, codewords: int, storage: str
) -> str:
  """Why a parameter of this shape is not to be product-quantised, or ""."""
  if len(shape) < 2:
    return f"shape {shape} has no inputs and outputs; leave it to Float"
  if shape[-2] == 1:
    return (
      f"shape {shape} has one input channel (depthwise, or grey images), and "
      "codes of single numbers gain nothing on integers; leave it to Affine"
    )
  _, taps, outputs, _ = spaces(shape, d)
  if codewords > taps * outputs:
    return (
      f"codewords={codewords}, but shape {shape} has {taps * outputs} vectors "
      f"in a sub-space; give {taps * outputs // 4} or fewer"
    )
  books, codes = kernel_nbytes(shape, d=d, codewords=codewords, storage=storage)
  saved = 4 * math.prod(shape) - codes
  if books >= saved:
    return (
      f"shape {shape} is too thin: its codebooks take {books:,} bytes, more "
      f"than the {saved:,} that codes of d={d}, codewords={codewords} save "
      "against float32; lower codewords, or leave it to Affine"
    )
  return ""
