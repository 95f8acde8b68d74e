"""The renderer against Pillow, its invariances, and every effect."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter
from PIL import ImageFont
import pytest

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import dice
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib

ALPHABET = alphabet_lib.Alphabet("0123456789.fj/% ", "test")
FACES = {face.name: face for face in atlas_lib.default_fonts()}
OFF = render.NOTHING


_MAX_LENGTH = 20
_LINES = 16  # Of a call of the one compiled renderer.


@functools.cache
def _whole_atlas():
  return atlas_lib.build_atlas(
    [FACES[n] for n in ("DejaVuSans", "STIXGeneralItalic", "cmr10")], ALPHABET
  )


def _atlas(*names):
  """An atlas of one shape, of which only the fonts named are ever chosen."""
  whole = _whole_atlas()
  chosen = np.isin(whole.names, names or ["DejaVuSans"])
  return whole.replace(present=whole.present & chosen[:, None])


def _labels(texts):
  labels = np.zeros((len(texts), _MAX_LENGTH), np.int32)
  for row, text in enumerate(texts):
    labels[row, : len(text)] = ALPHABET.encode(text)
  return labels, np.array([len(text) for text in texts], np.int32)


@jax.jit
def _draw(keys, atlas, labels, lengths, strengths):
  """Traced strengths: one compilation serves all of them."""
  return render.render_lines(
    keys,
    atlas,
    labels,
    lengths,
    width=128,
    strengths=render.RenderStrengths(*strengths),
  )


def _render(texts, *, strengths=OFF, seed=0, atlas=None):
  """Images [N, 32, 128] of the texts, whose number is free."""
  labels, lengths = _labels([*texts, *[texts[-1]] * (-len(texts) % _LINES)])
  keys = jax.random.split(jax.random.key(seed), len(labels))
  atlas = atlas or _atlas()
  values = np.float32(dataclasses.astuple(strengths))
  images = [
    _draw(keys[part], atlas, labels[part], lengths[part], tuple(values))
    for part in (slice(i, i + _LINES) for i in range(0, len(labels), _LINES))
  ]
  return np.concatenate(images)[: len(texts), ..., 0]


def test_plain_line_looks_like_pillows():
  """Same font, size and place; correlation, since edges are softer."""
  image = _render(["20.5"])[0]
  path = str(FACES["DejaVuSans"].path)
  box = ImageFont.truetype(path, 200).getbbox("H", anchor="ls")
  scale = 28 / (box[3] - box[1])
  font = ImageFont.truetype(path, 200 * scale)
  best = 0
  for shift in np.arange(-2, 2.1, 0.5):
    peer = Image.new("L", (128, 32), 0)
    pen = 1 + shift
    for character in "20.5":
      ImageDraw.Draw(peer).text(
        (pen, 30), character, fill=255, font=font, anchor="ls"
      )
      pen += font.getlength(character) - 0.03 * 28  # Least letter spacing.
    peer = peer.filter(ImageFilter.GaussianBlur(1.0))
    best = max(best, np.corrcoef(np.ravel(peer), 1 - np.ravel(image))[0, 1])
  assert best > 0.9


def test_without_effects_ink_is_black_and_paper_white():
  """And all lines are alike: no draw shows through strengths of 0."""
  images = _render(["17"] * 64)
  crops = images[..., :40]  # Right of the text, padding has its mean border.
  assert (crops.min(axis=(1, 2)) < 0.05).all()
  np.testing.assert_array_equal(crops, np.broadcast_to(crops[0], crops.shape))
  assert (crops[0] == 1).mean() > 0.4
  assert images[..., 60:].min() > 0.95


def test_every_character_leaves_ink_except_space():
  characters = ALPHABET.characters.strip()
  images = _render(list(characters))
  for character, image in zip(characters, images, strict=True):
    assert image.min() < 0.5, character
  inked = np.flatnonzero((_render(["1 1"])[0] < 0.9).any(axis=0))
  assert np.diff(inked).max() > 10  # The space.


def test_overhanging_glyphs_are_not_cut():
  """An italic f leans over its neighbours: all of its ink must be there."""
  atlas = _atlas("STIXGeneralItalic")
  alone = (1 - _render(["f"], atlas=atlas)[0]).sum()
  both = (1 - _render(["f  f"], atlas=atlas)[0]).sum()
  np.testing.assert_allclose(both, 2 * alone, rtol=0.03)
  # Its neighbour's cell does not cut it either.
  apart = (1 - _render(["f 1"], atlas=atlas)[0]).sum()
  joined = (1 - _render(["f1"], atlas=atlas)[0]).sum()
  assert joined > 0.85 * apart


def test_long_labels_are_condensed_to_fit():
  image = _render(["8" * _MAX_LENGTH])[0]
  np.testing.assert_allclose(image[:, -1], 1.0, atol=0.02)
  assert image.min() < 0.5


def test_a_line_is_the_same_in_any_batch():
  labels, lengths = _labels(["12.50", "3/4", "99%"])
  keys = jax.random.split(jax.random.key(3), 3)
  atlas = _atlas("DejaVuSans", "cmr10")
  draw = jax.jit(functools.partial(render.render_lines, width=64))
  whole = draw(keys, atlas, labels, lengths)
  part = draw(keys[1:2], atlas, labels[1:2], lengths[1:2])
  np.testing.assert_allclose(whole[1:2], part, atol=1e-5)


def test_images_are_finite_in_range_and_varied():
  strengths = render.RenderStrengths()
  images = _render(["12.50"] * 32, strengths=strengths)
  assert np.isfinite(images).all()
  assert images.min() >= 0 and images.max() <= 1
  means = images.mean(axis=(1, 2))
  assert means.std() > 0.05  # Both polarities, many papers.
  assert (means < 0.5).any() and (means > 0.5).any()


def test_a_font_without_a_character_is_never_chosen():
  alphabet = alphabet_lib.Alphabet("<01", "test")
  atlas = atlas_lib.build_atlas([FACES["DejaVuSans"], FACES["cmr10"]], alphabet)
  keys = jax.random.split(jax.random.key(0), 64)
  choose = jax.vmap(
    lambda k, x: render._choose_font(dice.Dice(k), atlas, x), (0, None)
  )
  assert not choose(keys, jnp.array([1, 2, 0])).any()
  assert choose(keys, jnp.array([2, 3, 0])).any()


def test_bilinear_samples_by_hand():
  """0.2 + 0.4 u + 0.2 v between the pixels' middles; 0 outside."""
  strip = jnp.array([[0.2, 0.4, 0], [0.6, 0.8, 0], [1.0, 0.0, 0]])
  rows = jnp.array([[0.0, 1.0, 0.5], [0.25, -0.5, 9.0]])
  columns = jnp.array([[0.0, 1.0, 0.5], [0.5, 0.0, 1.0]])
  np.testing.assert_allclose(
    render._sample_bilinear(strip, rows, columns),
    [[0.2, 0.8, 0.5], [0.45, 0.1, 0.0]],
    atol=2e-3,  # 8 bits.
  )
  # Past each edge the strip fades within a pixel, and its ends don't meet.
  np.testing.assert_allclose(
    render._sample_bilinear(
      strip,
      jnp.array([[0.0, 0.0, 1.5, -1.0, 1.0]]),
      jnp.array([[-0.5, 2.75, 1.0, 1.0, -2.0]]),
    ),
    [[0.1, 0.25, 0.4, 0.0, 0.0]],
    atol=2e-3,
  )


EFFECTS = [f.name for f in dataclasses.fields(render.RenderStrengths)]


@pytest.mark.parametrize("name", EFFECTS)
def test_every_strength_changes_some_line(name):
  """Compared with all effects off but those that the effect needs to show."""
  # Full-size letters leave no room for other lines.
  needs = {"neighbours": {"size": 0.5}}
  base = dataclasses.replace(OFF, **needs.get(name, {}))
  default = getattr(render.RenderStrengths(), name)
  strong = {"low_resolution": 3.0}.get(name, max(default, 0.5))
  texts = ["12.50"] * _LINES
  plain = _render(texts, strengths=base)
  changed = _render(
    texts, strengths=dataclasses.replace(base, **{name: strong})
  )
  assert np.abs(plain - changed).max() > 0.05


@pytest.mark.parametrize("name", EFFECTS)
def test_strengths_out_of_range_are_named(name):
  strengths = dataclasses.replace(OFF, **{name: -0.1})
  with pytest.raises(ValueError, match=f"strengths.{name}=-0.1"):
    strengths.validate()


@pytest.mark.parametrize("name", EFFECTS)
@pytest.mark.parametrize("value", [8.5, float("inf"), float("nan")])
def test_no_strength_is_without_bound(name, value):
  with pytest.raises(ValueError, match=f"strengths.{name}={value}; between 0"):
    dataclasses.replace(OFF, **{name: value}).validate()


@pytest.mark.parametrize(
  ("name", "top"),
  [
    ("dots", "1"),
    ("paper", "1"),
    ("blur", "1.4"),
    ("motion", "2"),
    ("low_resolution", "3"),
    ("jitter", "8"),
  ],
)
def test_bounds_are_told_and_may_be_reached(name, top):
  dataclasses.replace(OFF, **{name: float(top)}).validate()
  over = dataclasses.replace(OFF, **{name: float(top) + 0.1})
  with pytest.raises(ValueError, match=rf"; between 0 and {top}$"):
    over.validate()


def test_default_strengths_are_in_range():
  render.RenderStrengths().validate()
