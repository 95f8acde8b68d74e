"""Codebooks that give a layer's responses back, not its weights.

k-means makes sub-vectors alike, whatever enters them. Here codes and codewords
are chosen by what the layer answers to real inputs (Wu et al. 2016, section
3.3, equations 10 to 14): with rows x of inputs and t of wanted responses,

  minimise  sum over rows of |t - x W|^2,   W = books[codes]

The sum depends on the rows by their second moments alone, G = sum x'x and
H = sum x't, so rows stream by and are forgotten. For a layer of I inputs (taps
times channels) and O outputs that is I^2 + I O floats, and as many again while
it is minimised; AlexNet's fc6, 9216 x 4096, takes 1.8 GB in all.

What t is decides which correction it is: the float layer's answers to the same
inputs, or, for x of a network whose earlier layers are quantised already, the
answers in the float network (section 3.4), which also makes good for what those
have spoilt.
"""

import functools
from typing import NamedTuple

import chex
import jax
from jax import lax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import codebook

# Inputs whose residuals are held together, see `sweep`.
_BLOCK_INPUTS = 256
# Pull of each codeword to where it was, as a share of the curvature. Inputs
# that hardly occur would else throw it anywhere.
_DAMPING = 1e-5


class Moments(NamedTuple):
  """Of a layer's inputs and wanted responses; g groups of channels, or 1."""

  gram: jax.Array  # [g, I, I]: sum of x'x, inputs in the order [taps, C].
  cross: jax.Array  # [g, I, O / g]: sum of x't.
  energy: jax.Array  # []: sum of |t|^2.


class Fitted(NamedTuple):
  """Codebooks and codes of a kernel, and how well they answer."""

  books: jax.Array  # [M, K, d] float32.
  codes: jax.Array  # [M, taps, O] int32.
  errors: tuple[float, ...]  # Relative, at the start and after each sweep.


def no_moments(inputs: int, outputs: int, groups: int = 1) -> Moments:
  """Of no rows.

  Args:
    inputs: I, of a group.
    outputs: O, of all groups.
    groups: g.
  """
  return Moments(
    jnp.zeros((groups, inputs, inputs)),
    jnp.zeros((groups, inputs, outputs // groups)),
    jnp.zeros(()),
  )


@functools.partial(jax.jit, donate_argnums=0)
def add_rows(moments: Moments, seen: jax.Array, wanted: jax.Array) -> Moments:
  """Moments with some rows more.

  Args:
    moments: So far; their buffers are used again.
    seen: Inputs [g, R, I].
    wanted: Responses [g, R, O / g], without the layer's offset.
  """
  chex.assert_rank([seen, wanted], 3)
  return Moments(
    moments.gram + jnp.einsum("gri,grj->gij", seen, seen),
    moments.cross + jnp.einsum("gri,gro->gio", seen, wanted),
    moments.energy + jnp.sum(jnp.square(wanted)),
  )


@jax.jit
def relative_error(moments: Moments, kernel: jax.Array) -> jax.Array:
  """sum |t - x W|^2 / sum |t|^2, [], of a kernel [taps..., C, O]."""
  rows = _by_group(kernel, moments.gram.shape[0])
  answers = jnp.einsum("gij,gjo->gio", moments.gram, rows)
  missed = (
    moments.energy - 2 * jnp.sum(rows * moments.cross) + jnp.sum(rows * answers)
  )
  # Where all is met, rounding may leave less than nothing.
  return jnp.maximum(missed, 0) / jnp.maximum(moments.energy, 1e-30)


def correct(
  books: jax.Array,
  codes: jax.Array,
  moments: Moments,
  *,
  shape: tuple[int, ...],
  storage: str,
  sweeps: int,
) -> Fitted:
  """Alternates codes and codewords, sub-space by sub-space.

  Args:
    books: [M, K, d], of `codebook.fit`.
    codes: [M, taps, O].
    moments: Of the layer.
    shape: Of the kernel, [taps..., C, O].
    storage: Of the codebooks, which are rounded to it at the end.
    sweeps: At most so many; it ends early where one gains less than 0.1 %.

  Returns:
    Those of the smallest error seen, the given ones if nothing is better.
    `errors` never rises.
  """

  def error(books, codes):
    stored = codebook.stored(books, storage)
    return float(relative_error(moments, codebook.join(stored, codes, shape)))

  best, errors = (books, codes), [error(books, codes)]
  for _ in range(sweeps):
    tried = sweep(*best, moments, shape=shape)
    found = error(*tried)
    if not found < errors[-1]:
      break
    best = tried
    errors.append(found)
    if found > 0.999 * errors[-2]:
      break
  books, codes = best
  return Fitted(codebook.stored(books, storage), codes, tuple(errors))


@functools.partial(jax.jit, static_argnames="shape")
def sweep(
  books: jax.Array,
  codes: jax.Array,
  moments: Moments,
  *,
  shape: tuple[int, ...],
) -> tuple[jax.Array, jax.Array]:
  """Every sub-space once: codes with the codewords fixed, then the reverse.

  Each step is the exact minimum of the objective over what it changes (the
  codewords' up to a damping), so the objective never rises but for rounding.
  Sub-spaces are taken in blocks: H - G W is made once a block, as one product,
  and kept up to date within it.

  Args:
    books: [M, K, d].
    codes: [M, taps, O].
    moments: Of the layer.
    shape: Of the kernel.

  Returns:
    New books and codes.
  """
  sets, taps, outputs, d = codebook.spaces(shape, books.shape[2])
  groups = moments.gram.shape[0]
  order = _order(shape, d)
  gram, cross = _ordered(moments, order)
  codes = codes.reshape(sets, taps, groups, outputs // groups)
  rows = taps * d  # Inputs of a sub-space.
  block = min(sets, max(1, _BLOCK_INPUTS // rows))

  def dense(books, codes):
    """[g, M * taps * d, O / g], inputs in the order of sub-spaces."""
    weights = jax.vmap(lambda book, code: book[code])(books, codes)
    weights = weights.transpose(2, 0, 1, 4, 3)
    return weights.reshape(groups, sets * rows, -1)

  def of_block(b, carry):
    books, codes, weights = carry
    # The last block starts early, so that all are of one size.
    first = jnp.minimum(b * block, sets - block)
    band = lax.dynamic_slice_in_dim(gram, first * rows, block * rows, 1)
    left = lax.dynamic_slice_in_dim(cross, first * rows, block * rows, 1)
    left = left - jnp.einsum("gij,gjo->gio", band, weights)
    within = lax.dynamic_slice_in_dim(band, first * rows, block * rows, 2)
    inside = lax.dynamic_slice_in_dim(weights, first * rows, block * rows, 1)

    def of_space(carry, given):
      inside, left = carry
      place, book, code = given
      code, inside, left = _choose_codes(
        book, code, within, inside, left, place
      )
      near = lax.dynamic_slice_in_dim(within, place, rows, 1)
      near = lax.dynamic_slice_in_dim(near, place, rows, 2)
      missed = lax.dynamic_slice_in_dim(left, place, rows, 1)
      moved = move_codewords(code, near, missed, codewords=book.shape[0])
      change = moved[code].transpose(1, 0, 3, 2).reshape(groups, rows, -1)
      carry = _apply(change, within, inside, left, place)
      return carry, (book + moved, code)

    some = lambda x: lax.dynamic_slice_in_dim(x, first, block)  # noqa: E731
    (inside, _), (new_books, new_codes) = lax.scan(
      of_space,
      (inside, left),
      (jnp.arange(block) * rows, some(books), some(codes)),
    )
    books = lax.dynamic_update_slice_in_dim(books, new_books, first, 0)
    codes = lax.dynamic_update_slice_in_dim(codes, new_codes, first, 0)
    weights = lax.dynamic_update_slice_in_dim(weights, inside, first * rows, 1)
    return books, codes, weights

  blocks = -(-sets // block)
  books, codes, _ = lax.fori_loop(
    0, blocks, of_block, (books, codes, dense(books, codes))
  )
  return books, codes.reshape(sets, taps, outputs)


def _choose_codes(book, code, within, inside, left, start):
  """The best code of each sub-vector, tap by tap, with all others fixed.

  Args:
    book: [K, d].
    code: [taps, g, O].
    within: G of the block, [g, R, R].
    inside: W of the block, [g, R, O].
    left: H - G W of the block, [g, R, O].
    start: First of the sub-space's inputs in the block.

  Returns:
    New code, inside and left.
  """
  d = book.shape[1]

  def of_tap(p, carry):
    code, inside, left = carry
    place = start + p * d
    near = lax.dynamic_slice_in_dim(within, place, d, 1)
    near = lax.dynamic_slice_in_dim(near, place, d, 2)
    now = lax.dynamic_slice_in_dim(inside, place, d, 1)
    missed = lax.dynamic_slice_in_dim(left, place, d, 1)
    target = missed + jnp.einsum("gij,gjo->gio", near, now)
    curve = jnp.einsum("ki,gij,kj->gk", book, near, book)
    cost = curve[:, :, None] - 2 * jnp.einsum("ki,gio->gko", book, target)
    best = jnp.argmin(cost, axis=1)
    # Of equals the present one stays.
    kept = jnp.take_along_axis(cost, code[p][:, None], 1)[:, 0]
    better = jnp.min(cost, axis=1) < kept
    chosen = jnp.where(better, best, code[p]).astype(code.dtype)
    change = jnp.swapaxes(book[chosen], 1, 2) - now
    inside, left = _apply(change, within, inside, left, place)
    return code.at[p].set(chosen), inside, left

  return lax.fori_loop(0, code.shape[0], of_tap, (code, inside, left))


def _apply(change, within, inside, left, place):
  """W and H - G W of a block after some of its rows have changed."""
  size = change.shape[1]
  now = lax.dynamic_slice_in_dim(inside, place, size, 1)
  inside = lax.dynamic_update_slice_in_dim(inside, now + change, place, 1)
  columns = lax.dynamic_slice_in_dim(within, place, size, 2)
  return inside, left - jnp.einsum("gri,gio->gro", columns, change)


def move_codewords(
  code: jax.Array, gram: jax.Array, missed: jax.Array, *, codewords: int
) -> jax.Array:
  """By how much each codeword of a sub-space moves to its optimum.

  With codes fixed this is a least-squares problem in the K d numbers of the
  codebook. With one tap it falls apart into one for each codeword: regression
  of the mean, over the outputs that use it, of what the other sub-spaces leave.
  With several, taps that share codewords meet through G.

  Args:
    code: [taps, g, O].
    gram: G of the sub-space, [g, taps * d, taps * d].
    missed: H - G W of its inputs, with the codewords as they are; [g, taps * d,
      O].
    codewords: K.

  Returns:
    [K, d], 0 for codewords that nothing uses.
  """
  taps, groups, _ = code.shape
  d = gram.shape[1] // taps
  uses = jax.nn.one_hot(code, codewords)  # [taps, g, O, K].
  missed = missed.reshape(groups, taps, d, -1)
  slope = jnp.einsum("pgok,gpio->ki", uses, missed)
  if taps == 1:
    counts = jnp.sum(uses, axis=(0, 2))  # [g, K].
    curve = jnp.einsum("gk,gij->kij", counts, gram)
    return _solve(curve, slope)
  pairs = jnp.einsum("pgok,qgol->gpkql", uses, uses)
  gram = gram.reshape(groups, taps, d, taps, d)
  curve = jnp.einsum("gpkql,gpiqj->kilj", pairs, gram)
  size = codewords * d
  curve = curve.reshape(1, size, size)
  return _solve(curve, slope.reshape(1, size)).reshape(codewords, d)


def _solve(curve, slope):
  """curve^-1 slope, a batch, damped; 0 where there is no curvature.

  A second step from where the first arrived takes the damping back.
  """
  steep = jnp.diagonal(curve, axis1=1, axis2=2)
  flat = steep <= 1e-12 * jnp.max(steep)
  damped = curve + jax.vmap(jnp.diag)(
    jnp.where(flat, 1 + steep, _DAMPING * steep)
  )
  slope = jnp.where(flat, 0, slope)[..., None]
  factor = jnp.linalg.cholesky(damped)

  def solve(slope):
    half = lax.linalg.triangular_solve(
      factor, slope, left_side=True, lower=True
    )
    return lax.linalg.triangular_solve(
      factor, half, left_side=True, lower=True, transpose_a=True
    )

  once = solve(slope)
  moved = once + solve(slope - curve @ once)
  # Only where it pays by the numbers: singular ones may give anything.
  gain = 2 * jnp.sum(moved * slope, axis=1) - jnp.sum(
    moved * (curve @ moved), axis=1
  )
  return jnp.where(gain > 0, moved[..., 0], 0)


def _by_group(kernel, groups):
  """[taps..., C, O] to [g, taps * C, O / g]."""
  outputs = kernel.shape[-1]
  rows = kernel.reshape(-1, groups, outputs // groups)
  return jnp.swapaxes(rows, 0, 1)


def _order(shape, d):
  """Places of inputs [taps, C] in the order [M, taps, d]; C where filled up."""
  sets, taps, _, d = codebook.spaces(shape, d)
  channels = shape[-2]
  channel = np.arange(sets * d).reshape(sets, 1, d)
  places = np.arange(taps).reshape(1, taps, 1) * channels + channel
  return np.where(channel < channels, places, taps * channels).reshape(-1)


def _ordered(moments, order):
  inputs = moments.gram.shape[1]
  if np.array_equal(order, np.arange(inputs)):
    return moments.gram, moments.cross  # No copy of what is large.
  wider = ((0, 0), (0, 1))
  gram = jnp.pad(moments.gram, (*wider, (0, 1)))[:, order][:, :, order]
  return gram, jnp.pad(moments.cross, (*wider, (0, 0)))[:, order]
