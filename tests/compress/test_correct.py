"""Error correction: against regression, never worse, every kind of layer."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import codebook
from jaxocr.compress import correct


def rows(count, inputs, groups=1, seed=0):
  """Correlated inputs, positive as after ReLU: [g, R, I]."""
  rng = np.random.default_rng(seed)
  mixed = rng.normal(size=(groups, count, inputs)) @ rng.normal(
    size=(groups, inputs, inputs)
  )
  return jnp.asarray(np.maximum(mixed, 0), jnp.float32)


def layer(shape, *, d, codewords, groups=1, count=600, seed=0):
  """A kernel, its k-means, and moments of its own responses."""
  rng = np.random.default_rng(seed)
  kernel = jnp.asarray(rng.normal(size=shape), jnp.float32)
  inputs, outputs = int(np.prod(shape[:-1])), shape[-1]
  seen = rows(count, inputs, groups, seed)
  weights = jnp.swapaxes(
    kernel.reshape(inputs, groups, outputs // groups), 0, 1
  )
  wanted = jnp.einsum("gri,gio->gro", seen, weights)
  moments = correct.no_moments(inputs, outputs, groups)
  half = count // 2  # They come in parts.
  moments = correct.add_rows(moments, seen[:, :half], wanted[:, :half])
  moments = correct.add_rows(moments, seen[:, half:], wanted[:, half:])
  fitted = codebook.fit(kernel, d=d, codewords=codewords, storage="float32")
  return kernel, *fitted, moments, seen, wanted


def missed(seen, wanted, kernel):
  """The objective by its definition."""
  groups, outputs = seen.shape[0], kernel.shape[-1]
  weights = kernel.reshape(-1, groups, outputs // groups).swapaxes(0, 1)
  answers = jnp.einsum("gri,gio->gro", seen, weights)
  return float(jnp.sum(jnp.square(wanted - answers)))


# Dense; more inputs than are held together; convolutions of which d does not
# divide the channels; groups.
LAYERS = {
  "dense": ((12, 40), dict(d=3, codewords=8)),
  "blocks": ((600, 8), dict(d=4, codewords=4, count=900)),
  "conv": ((3, 3, 7, 24), dict(d=4, codewords=8)),
  "pointwise": ((1, 1, 8, 32), dict(d=2, codewords=6)),
  "grouped": ((2, 2, 4, 24), dict(d=2, codewords=8, groups=2)),
}


@pytest.fixture(scope="module", name="layers")
def fixture_layers():
  return {name: layer(shape, **f) for name, (shape, f) in LAYERS.items()}


@pytest.mark.parametrize("name", LAYERS)
def test_moments_stand_for_the_rows(name, layers):
  kernel, books, codes, moments, seen, wanted = layers[name]
  quantised = codebook.join(books, codes, kernel.shape)
  found = correct.relative_error(moments, quantised)
  expected = missed(seen, wanted, quantised) / float(jnp.sum(wanted**2))
  assert float(found) == pytest.approx(expected, rel=1e-3)
  assert float(correct.relative_error(moments, kernel)) < 1e-5


@pytest.mark.parametrize("name", LAYERS)
def test_no_sweep_makes_the_objective_rise(name, layers):
  kernel, books, codes, moments, seen, wanted = layers[name]
  before = missed(seen, wanted, codebook.join(books, codes, kernel.shape))
  first = before
  for _ in range(3):
    books, codes = correct.sweep(books, codes, moments, shape=kernel.shape)
    after = missed(seen, wanted, codebook.join(books, codes, kernel.shape))
    assert after <= before * (1 + 1e-5)
    before = after
  assert after < 0.9 * first
  assert np.all(codes >= 0) and np.all(codes < books.shape[1])


@pytest.mark.parametrize("name", ["dense", "pointwise"])
def test_codewords_are_regressions_of_what_their_outputs_lack(name, layers):
  """Wu et al. 2016, equation 12, against `lstsq` on the rows themselves."""
  kernel, books, codes, moments, seen, wanted = layers[name]
  d, space = books.shape[2], 1
  inputs = slice(space * d, (space + 1) * d)
  weights = codebook.join(books, codes, kernel.shape).reshape(
    -1, kernel.shape[-1]
  )
  left = wanted[0] - seen[0] @ weights
  gram = moments.gram[:, inputs, inputs]
  slope = (moments.cross - moments.gram @ weights[None])[:, inputs]
  moved = correct.move_codewords(
    codes[space][:, None], gram, slope, codewords=books.shape[1]
  )
  alone = left + seen[0][:, inputs] @ weights[inputs]
  for k in range(books.shape[1]):
    users = np.asarray(codes[space, 0]) == k
    if not users.any():
      np.testing.assert_array_equal(moved[k], 0)
      continue
    mean = np.asarray(alone, np.float64)[:, users].mean(axis=1)
    expected, *_ = np.linalg.lstsq(
      np.asarray(seen[0][:, inputs], np.float64), mean, rcond=None
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      books[space, k] + moved[k], expected, atol=2e-5 * max(scale, 1)
    )


def test_taps_that_share_codewords_are_solved_together(layers):
  """All codewords of a convolution's sub-space at once, against `lstsq`."""
  for name in ("conv", "grouped"):
    kernel, books, codes, moments, seen, wanted = layers[name]
    shape, groups = kernel.shape, seen.shape[0]
    _, taps, outputs, d = codebook.spaces(shape, books.shape[2])
    size, per_group = books.shape[1], outputs // groups
    # Inputs of sub-space 0: its channels at every tap.
    inputs = (np.arange(taps)[:, None] * shape[-2] + np.arange(d)).ravel()
    weights = codebook.join(books, codes, shape)
    weights = weights.reshape(-1, groups, per_group).swapaxes(0, 1)
    left = np.asarray(wanted - seen @ weights, np.float64)
    # A row of the problem: an answer of one output, in the K d unknowns.
    design, answer = [], []
    for g in range(groups):
      x = np.asarray(seen[g][:, inputs], np.float64).reshape(-1, taps, d)
      for o in range(per_group):
        columns = np.zeros((len(x), size, d))
        for p in range(taps):
          columns[:, codes[0, p, g * per_group + o]] += x[:, p]
        design.append(columns.reshape(len(x), -1))
        answer.append(left[g, :, o])
    expected, *_ = np.linalg.lstsq(
      np.concatenate(design), np.concatenate(answer), rcond=None
    )
    slope = moments.cross - moments.gram @ weights
    moved = correct.move_codewords(
      codes[0].reshape(taps, groups, per_group),
      moments.gram[:, inputs][:, :, inputs],
      slope[:, inputs],
      codewords=size,
    )
    scale = np.abs(expected).max()
    np.testing.assert_allclose(
      np.ravel(moved), expected, atol=1e-3 * scale, err_msg=name
    )


def test_codes_are_the_best_there_are(layers):
  """With all else fixed, no other code of the last sub-space answers better."""
  kernel, books, codes, moments, seen, wanted = layers["dense"]
  books, codes = correct.sweep(books, codes, moments, shape=kernel.shape)
  # Codewords have moved since codes were chosen, so choose once more.
  last = books.shape[0] - 1
  weights = codebook.join(books, codes, kernel.shape)
  d = books.shape[2]
  inputs = slice(last * d, (last + 1) * d)
  chosen, _, _ = correct._choose_codes(
    books[last],
    codes[last][:, None],
    moments.gram[:, inputs, inputs],
    weights[None, inputs],
    (moments.cross - moments.gram @ weights[None])[:, inputs],
    0,
  )
  for o in range(3):
    costs = []
    for k in range(books.shape[1]):
      tried = codes.at[last].set(chosen[:, 0]).at[last, 0, o].set(k)
      tried = codebook.join(books, tried, kernel.shape)
      costs.append(missed(seen, wanted, tried))
    assert costs[int(chosen[0, 0, o])] <= min(costs) * (1 + 1e-5)


def test_correction_keeps_the_best_and_says_so(layers):
  kernel, books, codes, moments, _, _ = layers["conv"]
  fitted = correct.correct(
    books, codes, moments, shape=kernel.shape, storage="float16", sweeps=4
  )
  assert list(fitted.errors) == sorted(fitted.errors, reverse=True)
  assert fitted.errors[-1] < 0.8 * fitted.errors[0]
  stored = np.float32(np.float16(fitted.books))
  np.testing.assert_array_equal(fitted.books, stored)
  quantised = codebook.join(fitted.books, fitted.codes, kernel.shape)
  assert float(correct.relative_error(moments, quantised)) == pytest.approx(
    fitted.errors[-1], rel=1e-4
  )
  # What is right already is left alone.
  exact = codebook.join(books, codes, kernel.shape)
  own = moments._replace(
    cross=moments.gram @ exact.reshape(1, -1, exact.shape[-1])
  )
  same = correct.correct(
    books, codes, own, shape=kernel.shape, storage="float32", sweeps=2
  )
  np.testing.assert_allclose(same.books, books, atol=1e-4)


def test_wanted_responses_may_be_those_of_other_inputs():
  """Multi-layer: inputs are spoilt, what is wanted is not."""
  kernel, books, codes, _, seen, wanted = layer((12, 40), d=3, codewords=8)
  spoilt = seen * 0.5  # As if the layer before lost half.
  own = correct.add_rows(correct.no_moments(12, 40), spoilt, wanted)
  fitted = correct.correct(
    books, codes, own, shape=kernel.shape, storage="float32", sweeps=5
  )
  # Codewords twice as large make it good.
  assert fitted.errors[0] > 0.4 and fitted.errors[-1] < 0.2
  ratio = jnp.linalg.norm(fitted.books) / jnp.linalg.norm(books)
  assert 1.7 < float(ratio) < 2.3
