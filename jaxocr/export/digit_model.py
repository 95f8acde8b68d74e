"""A trained digit network, as its bundle describes it, and as an engine."""

import dataclasses
import os

import jax
import numpy as np

from jaxocr import exact
from jaxocr.data import digit_augment
from jaxocr.export import bundle
from jaxocr.models import digit_net
from jaxocr.models import digit_zoo


@dataclasses.dataclass(frozen=True)
class DigitModel:
  """What a bundle holds, and what its metadata describe."""

  stored: bundle.Bundle
  network: digit_net.DigitNet
  classes: tuple[str, ...]
  standard: bool  # Whether pixels are standardised before they enter.


def load(path: str | os.PathLike) -> DigitModel:
  """Reads the bundle of a digit experiment.

  Raises:
    OSError: It cannot be opened.
    bundle.BundleError: No whole bundle.
    ValueError: Not a digit network, or one of another version.
  """
  found = bundle.load_bundle(path)
  architecture = found.meta["architecture"]
  if "network" not in architecture:
    raise ValueError(
      f"{path} reads lines; `jaxocr inspect` is for the networks of the "
      f"digit experiments: {', '.join(digit_zoo.NETWORKS)}"
    )
  return DigitModel(
    found,
    digit_zoo.make(**architecture),
    tuple(found.meta["alphabet"]["characters"]),
    found.meta["preprocess"]["standard"],
  )


def is_digits(found: bundle.Bundle) -> bool:
  """Whether a bundle holds a digit network."""
  return "network" in found.meta["architecture"]


class JaxEngine:
  """The network itself; `logits` as of the sessions of `engines`."""

  def __init__(self, model: DigitModel):
    variables = jax.device_put(model.stored.variables())
    prepare = lambda image: digit_augment.prepare(  # noqa: E731
      image[..., 0], standard=model.standard
    )
    self._apply = jax.jit(
      exact.products(
        lambda image: model.network.apply(variables, prepare(image))
      )
    )

  def logits(self, image: np.ndarray) -> np.ndarray:
    """Images [B, 28, 28, 1] in [0, 1] to logits [B, K]."""
    return np.asarray(self._apply(np.asarray(image, np.float32)))


def pixels(images: np.ndarray) -> np.ndarray:
  """[B, H, W] uint8 to [B, H, W, 1] in [0, 1]."""
  return images[..., None].astype(np.float32) / 255
