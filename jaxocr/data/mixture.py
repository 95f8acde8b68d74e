"""Real lines to train on: several sets by weight, in batches of fixed shapes.

The batch of a step depends on (seed, step) alone, so that a resumed run sees
what a straight one would have seen. A step has one width; real lines of that
width are drawn, each set as often as its weight says, with replacement.
"""

import collections
from collections.abc import Generator, Sequence
import contextlib
import dataclasses
import functools
import io

import flax.struct
import grain
import jax
import numpy as np
import PIL.Image

from jaxocr.data import preprocess
from jaxocr.data import readers
from jaxocr.data import stats
from jaxocr.data import workers as workers_lib
from jaxocr.data.readers import lines as lines_lib
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import ctc

OUTSIDE = "characters outside the alphabet"
UNREADABLE = stats.UNREADABLE
TOO_WIDE = "wider than the widest of train_widths"
TOO_LONG = "label too long for its frames"

_TRIES = 20  # Broken images in a row before giving up.


@dataclasses.dataclass(frozen=True)
class Source:
  """A set and how often it is drawn from."""

  path: str
  # Beside the other sources' weights; None: its number of usable lines.
  weight: float | None = None


@flax.struct.dataclass
class HostLines:
  """Real lines of a batch, as they come from the host."""

  image: jax.Array  # [B, H, W] uint8, padded with the lines' own paper.
  width: jax.Array  # [B] int32: of the line, px; the rest is padding.
  label: jax.Array  # [B, L] int32, 0-padded.
  length: jax.Array  # [B] int32.
  real: jax.Array  # [B] bool; rows where it is False are to be rendered.


class Mixture:
  """Sets of real lines, found usable or not, and batches of them.

  Attributes:
    notes: What became of the lines of each set, and which characters the
      alphabet lacks, for a person.
    broken: Images that could not be read so far: name -> why.
  """

  def __init__(
    self,
    sources: Sequence[Source],
    alphabet: alphabet_lib.Alphabet,
    *,
    widths: Sequence[int],
    batch_size: int,
    rendered_share: float,
  ):
    """Looks at all labels and the sizes of all images.

    Args:
      sources: One or more.
      alphabet: Lines with other characters are left out, and counted.
      widths: Of batches, px; a line goes to the narrowest that holds it.
      batch_size: B.
      rendered_share: Share of a batch's lines that is left to the renderer.

    Raises:
      ValueError: A set cannot be read or has no usable line.
    """
    self._alphabet = alphabet
    self._widths = tuple(sorted(widths))
    self._batch_size = batch_size
    self._real = batch_size - round(rendered_share * batch_size)
    self._sets = [readers.open_lines(source.path) for source in sources]
    self.notes: list[str] = []
    self.broken: dict[str, str] = {}
    self._places = [self._sort(lines) for lines in self._sets]
    counts = np.array(
      [[len(of[w]) for w in self._widths] for of in self._places], float
    )
    sizes = counts.sum(axis=1)
    for source, size, lines in zip(sources, sizes, self._sets, strict=True):
      if not size:
        raise ValueError(
          f"train_data={source.path}: no usable line; {lines.summary()}"
        )
    weights = np.array(
      [
        size if source.weight is None else source.weight
        for source, size in zip(sources, sizes, strict=True)
      ]
    )
    # Chance of each set and width.
    joint = counts / sizes[:, None] * (weights / weights.sum())[:, None]
    self._width_chances = joint.sum(axis=0)
    with np.errstate(invalid="ignore"):
      self._set_chances = joint / self._width_chances
    longest = [len(x.entries[i].label) for x, of in self._pairs() for i in of]
    self._label_length = max(longest)

  @property
  def widths(self) -> tuple[int, ...]:
    """Those that have lines."""
    pairs = zip(self._widths, self._width_chances, strict=True)
    return tuple(width for width, chance in pairs if chance)

  def batch(self, step: int, *, seed: int) -> HostLines:
    """The real lines of a step, for all processes."""
    return self._note(self._read(step, seed=seed))

  def batches(
    self, start: int, stop: int, *, seed: int, workers: int = 0
  ) -> Generator[HostLines]:
    """Those of the steps from `start` to `stop`, read ahead.

    Args:
      start: The first step.
      stop: The one after the last.
      seed: Of the choice of lines.
      workers: Processes that read, each with the labels of all sets in its
        memory; 0 leaves it to threads of this one. The lines are the same.

    Raises, from the generator:
      ValueError: Too many broken images in a row.
      ChildProcessError: A worker was killed.
    """
    steps = grain.MapDataset.range(start, stop)
    read = steps.map(functools.partial(self._read, seed=seed))
    # Closed with this generator, however that ends.
    with contextlib.closing(workers_lib.read_ahead(read, workers)) as ahead:
      for lines in ahead:
        yield self._note(lines)

  def told_broken(self) -> list[str]:
    """A line for a person, if images could not be read."""
    if not self.broken:
      return []
    name, why = next(iter(self.broken.items()))
    return [
      f"train_data: {len(self.broken):,} images could not be read and others "
      f"were drawn instead (first: {name}: {why})"
    ]

  def _read(self, step, *, seed) -> tuple[HostLines, dict[str, str]]:
    """The lines of a step, and what of `broken` was met on the way."""
    rng = np.random.default_rng((seed, step))
    bucket = rng.choice(len(self._widths), p=self._width_chances)
    width, chances = self._widths[bucket], self._set_chances[:, bucket]
    rows, length = self._batch_size, self._label_length
    image = np.full((rows, preprocess.HEIGHT_PX, width), 255, np.uint8)
    widths = np.full(rows, width, np.int32)
    label = np.zeros((rows, length), np.int32)
    lengths = np.zeros(rows, np.int32)
    broken = {}
    for row in range(self._real):
      line, ids = self._draw(rng, bucket, chances, broken)
      image[row] = preprocess.pad_to_bucket(line, width)
      widths[row] = line.shape[1]
      label[row, : len(ids)] = ids
      lengths[row] = len(ids)
    real = np.arange(rows) < self._real
    return HostLines(image, widths, label, lengths, real), broken

  def _note(self, read: tuple[HostLines, dict[str, str]]) -> HostLines:
    lines, broken = read
    for name, why in broken.items():
      self.broken.setdefault(name, why)
    return lines

  def _draw(
    self, rng, bucket, chances, broken: dict[str, str]
  ) -> tuple[np.ndarray, np.ndarray]:
    """A line [H, w] uint8 and its class ids; another where one is broken.

    Broken ones are added to `broken`.
    """
    for _ in range(_TRIES):
      chosen = rng.choice(len(self._sets), p=chances)
      lines, places = self._sets[chosen], self._places[chosen]
      place = int(rng.choice(places[self._widths[bucket]]))
      entry = lines.entries[place]
      try:
        line, _ = preprocess.line_array(lines[place][0])
      except preprocess.PreprocessError as error:
        broken[f"{lines.name}: {entry.name}"] = str(error)
        continue
      # A header may say another size than the turned image has.
      line = line[:, : self._widths[bucket]]
      pixels = np.round(line * 255).astype(np.uint8)
      return pixels, self._alphabet.encode(entry.label)
    raise ValueError(
      f"{_TRIES} broken images in a row, the last {lines.name}: {entry.name}; "
      "look at the set with `jaxocr data stats`"
    )

  def _pairs(self):
    """(set, places of its usable lines) for each width of each set."""
    for lines, of in zip(self._sets, self._places, strict=True):
      for places in of.values():
        yield lines, places

  def _sort(self, lines: readers.Lines) -> dict[int, np.ndarray]:
    """Places of the usable lines by width; notes what is not usable."""
    dropped, examples = collections.Counter(lines.dropped), dict(lines.examples)
    places = {width: [] for width in self._widths}
    lacking = collections.Counter()
    for place, entry in enumerate(lines.entries):
      unknown = self._alphabet.unknown(entry.label)
      lacking.update(c for c in entry.label if c in unknown)
      reason, width = OUTSIDE, None
      if not unknown:
        reason, width = _usable(lines, entry, self._widths)
      if reason:
        dropped[reason] += 1
        examples.setdefault(reason, entry.name)
      else:
        places[width].append(place)
    self.notes.append(
      "train_data "
      + lines_lib.summarise(lines.name, lines.read, dropped, examples)
    )
    if lacking:
      shown = stats.list_characters(lacking.most_common())
      self.notes.append(
        f"  alphabet {self._alphabet.name} lacks {len(lacking)} characters of "
        f"it: {shown}"
      )
    return {width: np.array(of, np.int64) for width, of in places.items()}


def _usable(
  lines: readers.Lines, entry: readers.Entry, widths: Sequence[int]
) -> tuple[str, int | None]:
  """("", width of its batch), or why a line is not used."""
  try:
    width, height = _size(lines.fetch(entry.key))
  except Exception:  # Whatever Pillow makes of broken files.
    return UNREADABLE, None
  scaled = max(1, round(width * preprocess.HEIGHT_PX / height))
  fitting = [w for w in widths if w >= scaled]
  if not fitting:
    return TOO_WIDE, None
  if stats.frames_needed(entry.label) > fitting[0] // ctc.FRAME_PX:
    return TOO_LONG, None
  return "", fitting[0]


def _size(source) -> tuple[int, int]:
  """Width and height of an image, from its header."""
  if isinstance(source, np.ndarray):
    return source.shape[1], source.shape[0]
  file = io.BytesIO(source) if isinstance(source, bytes) else source
  with PIL.Image.open(file) as image:
    width, height = image.size
    turned = image.getexif().get(0x0112, 1) >= 5  # Orientation: on its side.
  return (height, width) if turned else (width, height)
