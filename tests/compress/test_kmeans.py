"""k-means: scikit-learn's from the same start, empty clusters, many sets."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import cluster

from jaxocr.compress import kmeans


def points(shape, seed=0):
  """Normal, in some lumps."""
  rng = np.random.default_rng(seed)
  lumps = rng.normal(size=(5, shape[-1])) * 3
  chosen = lumps[rng.integers(5, size=shape[:-1])]
  return jnp.asarray(chosen + rng.normal(size=shape), jnp.float32)


def test_two_lumps_by_hand():
  x = jnp.array([[0.0], [1.0], [10.0], [12.0]])
  book, codes = kmeans.lloyd(x, jnp.array([[0.0], [1.0]]), iterations=3)
  np.testing.assert_array_equal(book, [[0.5], [11.0]])
  np.testing.assert_array_equal(codes, [0, 0, 1, 1])
  assert float(kmeans.inertia(x, book, codes)) == 0.5 + 2.0


@pytest.mark.parametrize("seed", [0, 1])
def test_inertia_is_scikit_learns(seed):
  x = points((400, 3), seed)
  start = kmeans.plus_plus(x, jax.random.key(seed), codewords=16)
  book, codes = kmeans.lloyd(x, start, iterations=100)
  peer = cluster.KMeans(
    16, init=np.asarray(start), n_init=1, max_iter=100, tol=0
  ).fit(np.asarray(x))
  ours = float(kmeans.inertia(x, book, codes))
  assert ours == pytest.approx(peer.inertia_, rel=1e-5)


def test_the_start_is_of_vectors_far_apart():
  x = points((300, 2))
  start = np.asarray(kmeans.plus_plus(x, jax.random.key(3), codewords=40))
  rows = {tuple(row) for row in np.asarray(x)}
  assert all(tuple(row) in rows for row in start)
  assert len({tuple(row) for row in start}) == 40  # None is drawn twice.
  # Four distinct vectors: each is drawn.
  few = jnp.repeat(jnp.eye(4), 25, axis=0)
  start = kmeans.plus_plus(few, jax.random.key(0), codewords=4)
  np.testing.assert_array_equal(np.sort(start, 0), np.sort(np.eye(4), 0))


def test_empty_clusters_take_from_the_largest():
  x = jnp.array([[0.0], [1.0], [2.0], [9.0], [50.0], [53.0]])
  book = jnp.array([[0.0], [50.0], [1000.0], [2000.0]])
  codes = kmeans.assign(x, book)
  np.testing.assert_array_equal(codes, [0, 0, 0, 0, 1, 1])
  # The means; the farthest of the four; the farther of the two.
  found = kmeans.means(x, codes, book)
  np.testing.assert_array_equal(found, [[3.0], [51.5], [9.0], [53.0]])
  _, codes = kmeans.lloyd(x, book, iterations=5)
  assert set(np.asarray(codes).tolist()) == {0, 1, 2, 3}


def test_sets_do_not_meet_and_the_key_decides(monkeypatch):
  x = points((5, 60, 2))
  key = jax.random.key(7)
  fit = lambda x, key: kmeans.fit(x, key, codewords=4, iterations=10)  # noqa: E731
  books, codes = fit(x, key)
  assert books.shape == (5, 4, 2) and codes.shape == (5, 60)
  again = fit(x, key)
  np.testing.assert_array_equal(books, again[0])
  # In several parts, as large kernels are.
  monkeypatch.setattr(kmeans, "_AT_ONCE", 2 * 60 * 4)
  parts = fit(x, key)
  np.testing.assert_allclose(books, parts[0], rtol=1e-6)
  np.testing.assert_array_equal(codes, parts[1])
  # Another set changes nothing of the others.
  other = fit(x.at[2].multiply(2), key)[0]
  np.testing.assert_array_equal(np.delete(other, 2, 0), np.delete(books, 2, 0))
  assert np.any(fit(x, jax.random.key(8))[0] != books)
