"""From any image of a text line to the network's input, the same for all.

Training-time evaluation, the reader and the exports all come through here: grey
pixels, height 32, width by aspect ratio, padded to a bucket with the line's own
background. Nothing is inverted: the network reads both polarities.
"""

import io
import os
import warnings

import numpy as np
import PIL.Image
import PIL.ImageOps

from jaxocr import files

HEIGHT_PX = 32
MAX_PIXELS = (
  100_000_000  # Of the file; a larger one is refused before decoding.
)
MAX_WIDTH_PX = 8192  # Of the line at the network's height.
# Steps of at most 1.5x, so that padding is cheap and compiled shapes are few.
BUCKETS = (
  *(64, 96, 128, 160, 192, 256, 320, 384, 512, 640),
  *(768, 1024, 1280, 1536, 2048),
)
_WIDE_STEP_PX = 64  # Lines beyond the last bucket: width in multiples of this.

# Full scales of 8, 10, 12, 14 and 16-bit files; headers rarely say which.
_WHITE_LEVELS = (255, 1023, 4095, 16383, 65535)


class PreprocessError(ValueError):
  """An image that cannot be used; the message is one line."""


class TooWideError(PreprocessError):
  """A line that would pass MAX_WIDTH_PX at the network's height."""


def load_image(source) -> np.ndarray:
  """Grey pixels of a path, encoded bytes, PIL image or array.

  Files: the first frame of an animation, turned upright as EXIF says,
  transparency over white. Images deeper than 8 bits are scaled by the smallest
  usual full scale that holds their largest value.

  Args:
    source: str or path; bytes of an image file; PIL image; or an array [h, w],
      [h, w, 1], [h, w, 3] (RGB) or [h, w, 4] (RGBA) of uint8, bool or floats in
      [0, 1], or [h, w] of uint16. A uint8 [h, w] array is returned as it is,
      not copied.

  Returns:
    [h, w] uint8.

  Raises:
    PreprocessError: It cannot be read, is empty, or has over MAX_PIXELS.
    TypeError: `source` is none of the above.
  """
  if isinstance(source, PIL.Image.Image):
    return _decode(source)
  if isinstance(source, (str, os.PathLike)):
    return _open(os.fspath(source))
  if isinstance(source, (bytes, bytearray, memoryview)):
    if not len(source):
      raise PreprocessError("empty: 0 bytes")
    return _open(io.BytesIO(source))
  if hasattr(source, "__array__"):
    return _from_array(np.asarray(source))
  raise TypeError(
    f"expected a path, bytes, PIL image or array, got {type(source).__name__}"
  )


def line_array(
  grey: np.ndarray, *, height: int = HEIGHT_PX
) -> tuple[np.ndarray, float]:
  """Scales a line to the network's height, keeping its aspect ratio.

  Taller lines shrink by area averages. Lower ones, most of scanned receipts,
  grow bilinearly: area resampling would only draw blocks.

  Args:
    grey: [h, w] uint8.
    height: Of the result, pixels.

  Returns:
    [height, w'] float32 in [0, 1], and the x scale: pixels of `grey` per pixel
    of it.

  Raises:
    TooWideError: w' would pass MAX_WIDTH_PX.
  """
  if grey.ndim != 2 or grey.dtype != np.uint8 or not grey.size:
    raise ValueError(
      f"expected uint8 [h, w], got {grey.dtype} {grey.shape}; use load_image"
    )
  old_height, old_width = grey.shape
  width = max(1, round(old_width * height / old_height))
  if width > MAX_WIDTH_PX:
    raise TooWideError(
      f"too wide: {old_width}x{old_height} is {width} px at height {height}, "
      f"over {MAX_WIDTH_PX}; cut the line in parts"
    )
  shrinks = old_height > height
  method = PIL.Image.Resampling[("BILINEAR", "BOX")[shrinks]]
  resized = PIL.Image.fromarray(grey).resize((width, height), method)
  return np.asarray(resized, np.float32) / 255, old_width / width


def bucket_width(width: int) -> int:
  """The smallest bucket that holds it; beyond the last, a multiple of 64."""
  for bucket in BUCKETS:
    if width <= bucket:
      return bucket
  return -(-width // _WIDE_STEP_PX) * _WIDE_STEP_PX


def background(line: np.ndarray) -> float:
  """Paper level of a line [h, w]: the median of its border pixels.

  Strokes that touch the border cover less than half of it, dark or light.
  """
  sides = (line[0], line[-1], line[1:-1, 0], line[1:-1, -1])
  return float(np.median(np.concatenate(sides)))


def pad_to_bucket(line: np.ndarray, width: int | None = None) -> np.ndarray:
  """Pads a line [h, w] on the right with its own background to [h, width].

  `width` is `bucket_width(w)` when None.
  """
  width = bucket_width(line.shape[1]) if width is None else width
  if width < line.shape[1]:
    raise ValueError(f"a line of {line.shape[1]} px does not fit in {width} px")
  padded = np.full((line.shape[0], width), background(line), line.dtype)
  padded[:, : line.shape[1]] = line
  return padded


def _open(file) -> np.ndarray:
  """Decodes a path or file object; every failure becomes a PreprocessError."""
  try:
    if isinstance(file, (str, bytes)) and os.path.getsize(file) == 0:
      raise PreprocessError("empty: 0 bytes")
    with warnings.catch_warnings():
      # Pillow warns of broken metadata and of sizes that _decode checks itself.
      warnings.simplefilter("ignore")
      with PIL.Image.open(file) as image:
        return _decode(image)
  except PreprocessError:
    raise
  except FileNotFoundError as error:
    raise PreprocessError("no such file") from error
  except IsADirectoryError as error:
    raise PreprocessError("a directory, not an image") from error
  except PIL.UnidentifiedImageError as error:
    raise PreprocessError("not an image, or of an unknown format") from error
  except PIL.Image.DecompressionBombError as error:
    raise PreprocessError(
      f"too large: over {MAX_PIXELS / 1e6:.0f} megapixels; crop or shrink it"
    ) from error
  except Exception as error:  # Decoders raise nearly anything on broken data.
    raise PreprocessError(f"unreadable: {files.reason(error)}") from error


def _decode(image: PIL.Image.Image) -> np.ndarray:
  width, height = image.size
  if not width or not height:
    raise PreprocessError(f"empty: {width}x{height} pixels")
  if width * height > MAX_PIXELS:
    raise PreprocessError(
      f"too large: {width}x{height} pixels, over {MAX_PIXELS / 1e6:.0f} "
      "megapixels; crop or shrink it"
    )
  try:
    image.load()
    return _grey(_upright(image))
  except Exception as error:
    raise PreprocessError(f"unreadable: {files.reason(error)}") from error


def _upright(image: PIL.Image.Image) -> PIL.Image.Image:
  try:
    return PIL.ImageOps.exif_transpose(image)
  except Exception:  # A broken tag says nothing about the pixels.
    return image


def _grey(image: PIL.Image.Image) -> np.ndarray:
  if image.mode == "F" or image.mode.startswith("I"):
    return _from_deep(np.asarray(image))
  if image.mode == "La":
    image = image.convert("LA")
  if image.has_transparency_data:
    image = image.convert("RGBA")
    white = PIL.Image.new("RGBA", image.size, "white")
    image = PIL.Image.alpha_composite(white, image)
  elif image.mode == "LAB":  # Pillow wants a colour profile to convert it.
    image = image.getchannel("L")
  return np.asarray(image.convert("L"))


def _from_array(array: np.ndarray) -> np.ndarray:
  if array.ndim == 3 and array.shape[2] == 1:
    array = array[:, :, 0]
  if array.ndim != 2 and (array.ndim != 3 or array.shape[2] not in (3, 4)):
    raise PreprocessError(
      f"array of shape {array.shape}; expected [h, w] or [h, w, 1, 3 or 4]"
    )
  if not array.size:
    raise PreprocessError(f"empty: array of shape {array.shape}")
  if array.shape[0] * array.shape[1] > MAX_PIXELS:
    raise PreprocessError(
      f"too large: {array.shape[1]}x{array.shape[0]} pixels, over "
      f"{MAX_PIXELS / 1e6:.0f} megapixels; crop or shrink it"
    )
  if array.dtype.kind == "f":
    # Also refuses NaN, for which every comparison is false.
    if not (array.min() >= 0 and array.max() <= 1):
      raise PreprocessError(
        f"float array in [{array.min()}, {array.max()}]; scale it to [0, 1]"
      )
    array = np.round(array * 255).astype(np.uint8)
  elif array.dtype == bool:
    array = array * np.uint8(255)
  elif array.dtype == np.uint16 and array.ndim == 2:
    array = _from_deep(array)
  elif array.dtype != np.uint8:
    raise PreprocessError(
      f"array of {array.dtype} {array.shape}; expected uint8, or floats in "
      "[0, 1]"
    )
  return array if array.ndim == 2 else _grey(PIL.Image.fromarray(array))


def _from_deep(values: np.ndarray) -> np.ndarray:
  """Grey of integers of unknown depth, or of floats to 1 or to such a scale."""
  if not np.isfinite(values).all():
    raise ValueError("pixels that are NaN or infinite")
  levels = _WHITE_LEVELS
  if values.dtype.kind == "f":
    levels = (1, *levels)
  top = values.max()
  white = next((level for level in levels if top <= level), top)
  return np.round(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
