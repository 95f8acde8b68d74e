"""The renderer against Pillow, its invariances, and every effect."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont
import pytest

from jaxocr.data import atlas as atlas_lib
from jaxocr.data import dice
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib

ALPHABET = alphabet_lib.Alphabet("0123456789.fj/% ", "test")
FACES = {face.name: face for face in atlas_lib.default_fonts()}
OFF = render.RenderStrengths(
  **{f.name: 0.0 for f in dataclasses.fields(render.RenderStrengths)}
)


def _atlas(*names):
  return atlas_lib.build_atlas(
    [FACES[name] for name in names or ("DejaVuSans",)], ALPHABET
  )


def _labels(texts, max_length=12):
  labels = np.zeros((len(texts), max_length), np.int32)
  for row, text in enumerate(texts):
    labels[row, : len(text)] = ALPHABET.encode(text)
  return labels, np.array([len(text) for text in texts], np.int32)


def _render(texts, *, strengths=OFF, width=128, seed=0, atlas=None):
  labels, lengths = _labels(texts)
  images = jax.jit(
    lambda key, atlas: render.render_lines(
      key, atlas, labels, lengths, width=width, strengths=strengths
    )
  )(jax.random.key(seed), atlas or _atlas())
  return np.asarray(images)[..., 0]


def test_plain_line_looks_like_pillows():
  """Same font, size and place; correlation, since anti-aliasing differs."""
  image = _render(["2018.05"])[0]
  box = ImageFont.truetype(str(FACES["DejaVuSans"].path), 200).getbbox(
    "H", anchor="ls"
  )
  font = ImageFont.truetype(
    str(FACES["DejaVuSans"].path), 200 * 26 / (box[3] - box[1])
  )
  best = 0
  for shift in np.arange(-2, 2.1, 0.5):
    peer = Image.new("L", (128, 32), 0)
    ImageDraw.Draw(peer).text(
      (1 + shift, 29), "2018.05", fill=255, font=font, anchor="ls"
    )
    best = max(best, np.corrcoef(np.ravel(peer), 1 - np.ravel(image))[0, 1])
  assert best > 0.9


def test_without_effects_ink_is_black_and_paper_white():
  image = _render(["88"])[0]
  assert image.min() < 0.05
  np.testing.assert_allclose(image[:, -10:], 1.0)


def test_every_character_leaves_ink_except_space():
  for character in ALPHABET.characters.strip():
    assert _render(["0" + character])[0].min() < 0.5, character
  np.testing.assert_allclose(
    _render(["1 1"])[0][:, 15:20].max(axis=0), 1.0, atol=0.02
  )


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
  image = _render(["888888888888"], width=64)[0]
  np.testing.assert_allclose(image[:, -1], 1.0, atol=0.02)
  assert image.min() < 0.5


def test_a_line_is_the_same_in_any_batch():
  labels, lengths = _labels(["12.50", "3/4", "99%"])
  keys = jax.random.split(jax.random.key(3), 3)
  atlas = _atlas("DejaVuSans", "cmr10")
  whole = render.render_lines(keys, atlas, labels, lengths, width=96)
  part = render.render_lines(
    keys[1:2], atlas, labels[1:2], lengths[1:2], width=96
  )
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


EFFECTS = [f.name for f in dataclasses.fields(render.RenderStrengths)]


@pytest.mark.parametrize("name", EFFECTS)
def test_every_strength_changes_some_line(name):
  """Compared with all effects off but those that the effect needs to show."""
  needs = {"pitch": {}, "texture": {}, "noise": {}}
  base = dataclasses.replace(OFF, **needs.get(name, {}))
  default = getattr(render.RenderStrengths(), name)
  strong = {"low_resolution": 3.0}.get(name, max(default, 0.5))
  texts = ["12.50"] * 16
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


def test_shares_stop_at_one():
  with pytest.raises(ValueError, match=r"strengths.dots=1\.5; between 0 and 1"):
    render.RenderStrengths(dots=1.5).validate()
