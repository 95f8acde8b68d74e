"""Text recognisers that are small enough to forget about."""

__version__ = "0.1.0"


def load(model=None, **options):
  """A reader of a run, file or shipped model: `load()(images)` -> readings.

  See `jaxocr.reader.Reader.load`.
  """
  from jaxocr import reader  # It imports JAX, which --help does not need.

  return reader.Reader.load(model, **options)
