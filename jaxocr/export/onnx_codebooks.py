"""Codebooks and codes in the order of an engine's kernel.

A product-quantised kernel (`compress.codebook`) stays small in a file that
holds its codewords and, for each sub-vector, a code. The codes are put in the
order that the engine wants the kernel in, so that what is left to do there is
to look them up: one Gather.
"""

import dataclasses

import numpy as np

from jaxocr.compress import packed as packed_lib
from jaxocr.export import weights


@dataclasses.dataclass(frozen=True)
class Arranged:
  """kernel = books[codes + first], with d moved behind `axis` and merged.

  Attributes:
    codes: Within a sub-space, int32: of the kernel's shape, but with
      ceil(C / d) instead of C along `axis`.
    first: Codewords before those of a code's sub-space; broadcasts to codes.
    books: All codewords, [M * K, d], in the type that they are stored in.
    axis: Along which input channels lie.
    shape: Of the kernel; where d does not divide C, the last ones along `axis`
      are to be cut off.
  """

  codes: np.ndarray
  first: np.ndarray
  books: np.ndarray
  axis: int
  shape: tuple[int, ...]

  @property
  def perm(self) -> list[int]:
    """Of [*codes, d], to have d follow `axis`."""
    rank = self.codes.ndim
    axes = list(range(rank))
    axes.insert(self.axis + 1, rank)
    return axes

  @property
  def merged(self) -> list[int]:
    """Shape with `axis` a multiple of d."""
    shape = list(self.codes.shape)
    shape[self.axis] *= self.books.shape[1]
    return shape

  def kernel(self) -> np.ndarray:
    """What the engine is to compute, float32."""
    vectors = self.books.astype(np.float32)[self.codes + self.first]
    whole = vectors.transpose(self.perm).reshape(self.merged)
    return whole[tuple(map(slice, self.shape))]


def arrange(
  found: list[weights.Parameter], layout: weights.Layout
) -> Arranged | None:
  """One product-quantised parameter, or several stacked along a new first axis.

  Args:
    found: The parameters, each a `CodebookTensor` of one shape.
    layout: From a parameter to what the engine wants.

  Returns:
    None where no axis of the engine's kernel is cut as the codebooks are:
    parameters of several d, K or types, or sub-vectors that go on from one row
    of a map to the next.
  """
  tensors = [parameter.packed for parameter in found]
  kinds = {(t.d, t.codewords, t.storage, t.shape) for t in tensors}
  if len(kinds) > 1:
    return None
  parts = [_arranged(tensor, layout) for tensor in tensors]
  if parts[0] is None or len(parts) == 1:
    return parts[0]
  count = len(parts[0].books)
  return Arranged(
    np.stack([part.codes for part in parts]),
    np.stack([i * count + part.first for i, part in enumerate(parts)]),
    np.concatenate([part.books for part in parts]),
    parts[0].axis + 1,
    (len(parts), *parts[0].shape),
  )


def _arranged(tensor: packed_lib.CodebookTensor, layout) -> Arranged | None:
  books, codes = map(np.asarray, tensor.open())
  sets, codewords, d = books.shape
  channels = tensor.shape[-2]
  # Of each weight: its input channel, and its code.
  channel = np.broadcast_to(np.arange(channels)[:, None], tensor.shape)
  spread = codes.transpose(1, 0, 2).repeat(d, axis=1)[:, :channels]
  places = layout(channel)
  axis = _axis_of_channels(places)
  if axis is None:
    return None
  along = places.shape[axis]
  if along != channels and along % d:
    return None
  every = [slice(None)] * places.ndim
  every[axis] = slice(None, None, d)
  every = tuple(every)
  first = places[every] // d * codewords
  for other in range(first.ndim):  # Kept where it changes.
    one = first.take([0], other)
    first = one if np.all(first == one) else first
  return Arranged(
    layout(spread.reshape(tensor.shape))[every],
    first.astype(np.int32),
    books.reshape(sets * codewords, d).astype(tensor.storage),
    axis,
    places.shape,
  )


def _axis_of_channels(places):
  """Along which each channel is followed by the next."""
  for axis in range(places.ndim):
    steps = np.diff(places, axis=axis)
    if steps.size and np.all(steps == 1):
      return axis
  return None
