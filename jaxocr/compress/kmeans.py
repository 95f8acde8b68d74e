"""k-means over many small sets at once: k-means++, then Lloyd's iterations.

Everything is a pure function of its arguments and the key, vmapped over sets;
products with ones take the place of scatters, whose order is not defined on
every device.
"""

import chex
import jax
from jax import lax
import jax.numpy as jnp

# Distances held at once, in floats: 64 MiB, whatever the number of sets.
_AT_ONCE = 2**24


def fit(
  vectors: jax.Array, key: jax.Array, *, codewords: int, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """Clusters each set by itself, from a k-means++ start.

  Args:
    vectors: [S, N, d], float32.
    key: One for all sets.
    codewords: K, at most N.
    iterations: Of Lloyd's.

  Returns:
    Codebooks [S, K, d], and codes [S, N] int32 of the nearest codewords.
  """
  chex.assert_rank(vectors, 3)
  sets, count, _ = vectors.shape
  chex.assert_scalar_in(codewords, 1, count)

  def one(given):
    vectors, key = given
    start = plus_plus(vectors, key, codewords=codewords)
    return lloyd(vectors, start, iterations=iterations)

  keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(sets))
  together = max(1, min(sets, _AT_ONCE // (count * codewords)))
  return lax.map(one, (vectors, keys), batch_size=together)


def plus_plus(
  vectors: jax.Array, key: jax.Array, *, codewords: int
) -> jax.Array:
  """A start that spreads (Arthur and Vassilvitskii 2007, section 2.2).

  The first codeword is any vector, each further one a vector drawn by its
  squared distance to the nearest codeword so far.

  Args:
    vectors: [N, d].
    key: Of the draws.
    codewords: K.

  Returns:
    [K, d], rows of `vectors`.
  """
  count, length = vectors.shape
  draws = jax.random.uniform(key, (codewords,))

  def choose(k, carry):
    chosen, nearest = carry
    # Before the first all are equally far.
    upto = jnp.cumsum(nearest)
    place = jnp.searchsorted(upto, draws[k] * upto[-1], side="right")
    chosen = chosen.at[k].set(vectors[jnp.minimum(place, count - 1)])
    away = jnp.sum(jnp.square(vectors - chosen[k][None]), axis=-1)
    nearest = jnp.where(k == 0, away, jnp.minimum(nearest, away))
    return chosen, nearest

  empty = jnp.zeros((codewords, length), vectors.dtype)
  ones = jnp.ones(count, vectors.dtype)
  return lax.fori_loop(0, codewords, choose, (empty, ones))[0]


def lloyd(
  vectors: jax.Array, start: jax.Array, *, iterations: int
) -> tuple[jax.Array, jax.Array]:
  """Lloyd's iterations: assign to the nearest codeword, then take means.

  A codeword without a vector becomes the vector that is farthest from the
  codeword of the largest cluster; the second such one that of the second
  largest, and so on.

  Args:
    vectors: [N, d].
    start: [K, d].
    iterations: How many.

  Returns:
    Codebook [K, d], and codes [N] int32 of its nearest codewords.
  """

  def iterate(_, book):
    return means(vectors, assign(vectors, book), book)

  book = lax.fori_loop(0, iterations, iterate, start)
  return book, assign(vectors, book)


def assign(vectors: jax.Array, book: jax.Array) -> jax.Array:
  """Codes [N] int32: the nearest of book [K, d] to each of vectors [N, d]."""
  return jnp.argmin(_distances(vectors, book), axis=-1).astype(jnp.int32)


def means(vectors: jax.Array, codes: jax.Array, book: jax.Array) -> jax.Array:
  """New codewords: means of the vectors of each, see `lloyd`.

  Args:
    vectors: [N, d].
    codes: [N].
    book: [K, d], what the codes are of.

  Returns:
    [K, d].
  """
  codewords = book.shape[0]
  members = codes[:, None] == jnp.arange(codewords)[None]
  ones = members.astype(vectors.dtype)
  sums = jnp.einsum("nk,nd->kd", ones, vectors)
  counts = jnp.sum(ones, axis=0)
  centres = sums / jnp.maximum(counts, 1)[:, None]
  # The farthest member of each cluster, and the clusters by size.
  away = jnp.sum(jnp.square(vectors - book[codes]), axis=-1)
  farthest = jnp.argmax(jnp.where(members, away[:, None], -1.0), axis=0)
  largest = jnp.argsort(-counts)
  empty = counts == 0
  rank = jnp.clip(jnp.cumsum(empty) - 1, 0, codewords - 1)
  fresh = vectors[farthest[largest[rank]]]
  return jnp.where(empty[:, None], fresh, centres)


def inertia(vectors: jax.Array, book: jax.Array, codes: jax.Array) -> jax.Array:
  """Sum of squared distances of vectors [N, d] to their codewords, []."""
  return jnp.sum(jnp.square(vectors - book[codes]))


def _distances(vectors, book):
  """Squared, [N, K], less what does not depend on the codeword."""
  return jnp.sum(jnp.square(book), axis=-1)[None] - 2 * vectors @ book.T
