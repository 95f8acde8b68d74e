"""Where the lines of a text run come from: drawn, or real ones among them."""

from collections.abc import Callable, Iterator
import contextlib
import pathlib
from typing import Any

import jax

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import mixture as mixture_lib
from jaxocr.data import preprocess
from jaxocr.data import source
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import clock as clock_lib
from jaxocr.train import distributed
from jaxocr.train import sharding
from jaxocr.train import text_config
from jaxocr.train import workdirs

PyTree = Any


def make_source(
  config: text_config.TextConfig,
  alphabet: alphabet_lib.Alphabet,
  workdir: pathlib.Path,
):
  """Lines of the config's fonts; (assets, sample) as of `data.source`.

  The glyphs are kept in the workdir, so that a resumed run draws the same even
  where fonts have come or gone.
  """
  path = workdir / "atlas.npz"
  if distributed.is_writer() and not path.exists():
    atlas_lib.save_atlas(path, text_config.draw_glyphs(config.fonts, alphabet))
  distributed.barrier("atlas")
  try:
    atlas = atlas_lib.load_atlas(path)
  except atlas_lib.FontError as error:
    raise workdirs.WorkdirError(f"{error}; --restart draws it anew") from error
  if atlas.characters != alphabet.characters:
    raise workdirs.WorkdirError(
      f"{path} holds the characters {atlas.characters!r}, but alphabet="
      f"{config.alphabet} has {alphabet.characters!r} by now; put the file "
      "back, or train in another --workdir"
    )
  return source.make_synthetic_source(
    atlas,
    corpus_lib.make_corpus(
      alphabet,
      max_length=config.max_length,
      random_share=config.random_share,
    ),
    height=preprocess.HEIGHT_PX,
    width=config.width,
    max_length=config.max_length,
    strengths=config.strengths,
  )


class MixedLines:
  """Rendered lines and the config's train_data, mixed.

  Attributes:
    sample: Draws them from rendered lines' assets and a step's real ones, as of
      `source.make_mixed_source`.
    notes: What became of the real lines, for a person.
  """

  def __init__(
    self,
    config: text_config.TextConfig,
    alphabet: alphabet_lib.Alphabet,
    assets: PyTree,
    mesh: jax.sharding.Mesh,
    clock: clock_lib.Clock,
  ):
    """Looks at the real lines.

    Args:
      config: Of the run.
      alphabet: Of the run.
      assets: Of rendered lines, as `make_source` returns them.
      mesh: Real lines are split over it.
      clock: Told how long steps wait for them.

    Raises:
      workdirs.WorkdirError: A set cannot be read.
    """
    self._mesh, self._clock = mesh, clock
    self._workers = config.train_workers
    with as_workdir_errors():
      self._mixture = mixture_lib.Mixture(
        config.sources(),
        alphabet,
        widths=config.widths(),
        batch_size=config.batch_size,
        rendered_share=config.rendered_share,
      )
    self.notes = self._mixture.notes
    _, self.sample = source.make_mixed_source(
      *assets,
      height=preprocess.HEIGHT_PX,
      max_length=config.max_length,
      strengths=config.strengths,
      real_strengths=config.real_strengths,
    )

  @contextlib.contextmanager
  def feed(
    self, assets: PyTree, earlier: int, steps: int, seed: int
  ) -> Iterator[Callable[[int], PyTree]]:
    """Updates done -> what the step's lines are drawn from.

    Leaving the context ends those who read real lines. The function raises
    `workdirs.WorkdirError` where too many of them are broken.

    Args:
      assets: Of rendered lines.
      earlier: Updates of the stages before.
      steps: Of this one.
      seed: Of the choice of lines.
    """
    batches = None

    def feed(done):
      nonlocal batches
      if batches is None:  # Here, so that a resumed stage begins where it is.
        batches = self._mixture.batches(
          earlier + done, earlier + steps, seed=seed, workers=self._workers
        )
      with self._clock.waiting(), as_workdir_errors():
        host = next(batches)
      lines = sharding.split_lines(self._mesh)
      return assets, sharding.place(host, lines)

    try:
      yield feed
    finally:
      if batches is not None:
        batches.close()

  def told_broken(self) -> list[str]:
    """As of `mixture.Mixture`."""
    return self._mixture.told_broken()


@contextlib.contextmanager
def as_workdir_errors() -> Iterator[None]:
  """What keeps a set from being read ends the run with its message alone."""
  try:
    yield
  except (ImportError, OSError, ValueError) as error:
    raise workdirs.WorkdirError(str(error)) from error
