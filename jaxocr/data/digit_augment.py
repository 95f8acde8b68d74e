"""Small movements of digits, drawn on the device, one image by one key."""

import dataclasses

import jax
import jax.numpy as jnp

from jaxocr.data import batch as batch_lib

MEAN, STD = 0.1307, 0.3081  # Of MNIST's training pixels in [0, 1].


@dataclasses.dataclass(frozen=True)
class Movement:
  """How far an image may be moved; 0 leaves it where it is."""

  shift_px: float = 0.0  # Up, down, left and right.
  rotate: float = 0.0  # Rad, either way.
  scale: float = 0.0  # Log of the size in each direction, either way.
  shear: float = 0.0  # Px per px, either way.


def standardise(image: jax.Array) -> jax.Array:
  """[0, 1] to mean 0 and deviation 1 over MNIST's training pixels."""
  return (image - MEAN) / STD


def move(image: jax.Array, key: jax.Array, movement: Movement) -> jax.Array:
  """An image [H, W], turned, sheared, scaled and shifted; 0 comes in.

  Bilinear. Each of the five amounts is uniform within its bound.
  """
  if movement == Movement():
    return image
  height, width = image.shape
  draw = jax.random.uniform(key, (6,), minval=-1.0)
  angle = movement.rotate * draw[0]
  tall, wide = (
    jnp.exp(movement.scale * draw[1]),
    jnp.exp(movement.scale * draw[2]),
  )
  shear = movement.shear * draw[3]
  down, right = movement.shift_px * draw[4], movement.shift_px * draw[5]
  y = jnp.arange(height)[:, None] - (height - 1) / 2 - down
  x = jnp.arange(width)[None, :] - (width - 1) / 2 - right
  sine, cosine = jnp.sin(angle), jnp.cos(angle)
  rows = (cosine * y + sine * x) * tall
  columns = (cosine * x - sine * y) * wide + shear * rows
  return _bilinear(image, rows + (height - 1) / 2, columns + (width - 1) / 2)


def _bilinear(image, rows, columns):
  """image [H, W] at fractional places [H, W]; 0 outside."""
  height, width = image.shape
  padded = jnp.pad(image, 1)
  rows = jnp.clip(rows + 1, 0, height + 0.999)
  columns = jnp.clip(columns + 1, 0, width + 0.999)
  top, left = jnp.floor(rows), jnp.floor(columns)
  down, right = rows - top, columns - left
  corner = (top * (width + 2) + left).astype(jnp.int32)
  flat = padded.reshape(-1)

  def take(offset):
    return flat.at[corner + offset].get(mode="promise_in_bounds")

  upper = take(0) * (1 - right) + take(1) * right
  lower = take(width + 2) * (1 - right) + take(width + 3) * right
  return upper * (1 - down) + lower * down


def make_sample(movement: Movement, *, standard: bool):
  """Makes `sample((images, labels), keys [B]) -> Batch`.

  Images are [B, H, W] uint8, labels [B] int32; the i-th key moves the i-th.

  Args:
    movement: How far.
    standard: Whether pixels are standardised; else they are in [0, 1].
  """

  def sample(assets, keys):
    images, labels = assets
    pixels = images.astype(jnp.float32) / 255
    pixels = jax.vmap(lambda i, k: move(i, k, movement))(pixels, keys)
    ones = jnp.ones(labels.shape, jnp.int32)
    return batch_lib.Batch(
      image=prepare(pixels, standard=standard),
      label=labels[:, None],
      length=ones,
      mask=ones.astype(jnp.float32),
    )

  return sample


def prepare(pixels: jax.Array, *, standard: bool) -> jax.Array:
  """[B, H, W] in [0, 1] as the network takes them, [B, H, W, 1]."""
  return (standardise(pixels) if standard else pixels)[..., None]
