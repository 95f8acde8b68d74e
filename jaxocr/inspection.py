"""What a digit network sees: `jaxocr inspect`.

For a photo of a digit, as PNG: the image as the network gets it, the maps of
every layer, the first layer's filters, and saliency, the gradient of the
winning logit (Simonyan, Vedaldi and Zisserman 2014).
"""

from collections.abc import Mapping
import dataclasses
import pathlib

import numpy as np
import PIL.Image

from jaxocr import exact
from jaxocr import files

FOLDER = "maps"  # Of a run's pictures, in its workdir.
_ENLARGED = 4  # Times, so that single pixels can be seen.
_GAP_PX = 1  # Between maps.
_GROUND = 96
_COLUMNS = 16  # Maps side by side.


@dataclasses.dataclass(frozen=True)
class Inspection:
  """Of one image; the pictures are grey [H, W] uint8."""

  read: str
  confidence: float
  pictures: Mapping[str, np.ndarray]  # Name -> picture, in the layers' order.


def inspect(bundle_path, source) -> Inspection:
  """Runs a digit network of a run on an image and keeps what each layer says.

  Args:
    bundle_path: A model.safetensors of a digit experiment.
    source: As `preprocess.load_image` takes it; an image of 28x28 is taken as
      it is, others through `digit_image.from_photo`.

  Raises:
    bundle.BundleError: No whole bundle.
    ValueError: Not a digit network.
    preprocess.PreprocessError: The image cannot be read or shows no digit.
  """
  import jax
  import jax.numpy as jnp

  from jaxocr.data import digit_augment
  from jaxocr.data import digit_image
  from jaxocr.data import digits
  from jaxocr.data import preprocess
  from jaxocr.export import digit_model
  from jaxocr.train import objective

  model = digit_model.load(bundle_path)
  variables = model.stored.variables()
  grey = preprocess.load_image(source)
  if grey.shape != (digits.SIZE_PX, digits.SIZE_PX):
    grey = digit_image.from_photo(grey)
  pixels = jnp.asarray(grey, jnp.float32)[None] / 255
  image = digit_augment.prepare(pixels, standard=model.standard)

  @exact.products
  def winner(image):
    logits, collections = model.network.apply(
      variables, image, mutable=["taps"]
    )
    return jnp.max(logits), (logits, collections)

  slope, (logits, collections) = jax.jit(jax.grad(winner, has_aux=True))(image)
  sure = np.asarray(jax.nn.softmax(logits[0]))
  taps = jax.device_get(objective.outputs(logits, collections).taps)
  pictures = {"input": enlarge(grey)}
  pictures |= {name: tile_features(tap[0]) for name, tap in taps.items()}
  pictures["filters"] = tile_filters(first_kernel(variables["params"]))
  heat = np.abs(np.asarray(slope)[0, :, :, 0])
  pictures["saliency"] = enlarge(to_grey(heat))
  best = int(sure.argmax())
  return Inspection(model.classes[best], float(sure[best]), pictures)


def save(found: Inspection, folder) -> list[pathlib.Path]:
  """Writes NN_name.png for each picture, aside first; returns their paths."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  paths = []
  for number, (name, picture) in enumerate(found.pictures.items()):
    path = folder / f"{number:02}_{name}.png"
    with files.aside(path) as part:
      PIL.Image.fromarray(picture).save(part, "PNG")
    paths.append(path)
  return paths


def first_kernel(params: Mapping) -> np.ndarray:
  """[k, k, 1, C] of the layer that sees the image."""
  layer = params["c1"] if "c1" in params else params["conv1"]
  return np.asarray(layer["kernel"])


def to_grey(values: np.ndarray) -> np.ndarray:
  """Stretched from the least to the largest, 0 to 255; all 0 where equal."""
  low, high = float(values.min()), float(values.max())
  if high <= low:
    return np.zeros(values.shape, np.uint8)
  return np.round((values - low) * (255 / (high - low))).astype(np.uint8)


def enlarge(grey: np.ndarray, times: int = _ENLARGED) -> np.ndarray:
  """Each pixel as a square."""
  return np.kron(grey, np.ones((times, times), np.uint8))


def tile_features(features: np.ndarray) -> np.ndarray:
  """Maps [H, W, C] side by side, stretched together; units [C] as squares."""
  grey = to_grey(np.asarray(features, np.float32))
  if grey.ndim == 1:
    grey = grey[None, None]
  return _tile(grey)


def tile_filters(kernel: np.ndarray) -> np.ndarray:
  """Filters [k, k, 1, C] side by side, each stretched by itself."""
  grey = [to_grey(kernel[:, :, 0, c]) for c in range(kernel.shape[-1])]
  return _tile(np.stack(grey, axis=-1))


def _tile(grey) -> np.ndarray:
  height, width, count = grey.shape
  columns = min(_COLUMNS, count)
  rows = -(-count // columns)
  times = max(1, min(2 * _ENLARGED, 64 // max(height, width)))
  high, wide = height * times + _GAP_PX, width * times + _GAP_PX
  picture = np.full(
    (rows * high + _GAP_PX, columns * wide + _GAP_PX), _GROUND, np.uint8
  )
  for place in range(count):
    row, column = divmod(place, columns)
    y, x = row * high + _GAP_PX, column * wide + _GAP_PX
    picture[y : y + height * times, x : x + width * times] = enlarge(
      grey[:, :, place], times
    )
  return picture


def report(model: str, image: str, out: str) -> str:
  """Inspects and saves; what to tell a person.

  Args:
    model: A digit run's folder or its model.safetensors.
    image: A photo of one digit.
    out: Folder for the PNGs.

  Raises:
    OSError, ValueError: See `inspect`.
  """
  from jaxocr.export import bundle

  path = pathlib.Path(model)
  if path.is_dir():
    path /= bundle.BUNDLE_NAME
  found = inspect(path, image)
  paths = save(found, out)
  return (
    f"{image}\t{found.read}\t{found.confidence:.3f}\n"
    f"{out}: {len(paths)} pictures"
  )
