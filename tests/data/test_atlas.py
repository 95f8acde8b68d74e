"""Glyph cells: metrics, masks, files."""

import functools
import pathlib
import struct

import numpy as np
from PIL import ImageFont
import pytest

from jaxocr.data import atlas as atlas_lib
from jaxocr.text import alphabet as alphabet_lib

FONTS = {face.name: face for face in atlas_lib.default_fonts()}
SANS = FONTS["DejaVuSans"]


def _alphabet(characters):
  return alphabet_lib.Alphabet(characters, "test")


@functools.cache
def _all_faces():
  """All default fonts with all printable ASCII, drawn once."""
  return atlas_lib.build_atlas(
    list(FONTS.values()), alphabet_lib.load_alphabet("latin")
  )


def _class_id(atlas, character):
  return atlas.characters.index(character) + 1


def _ink_rows(atlas, font, class_id):
  return np.flatnonzero(np.asarray(atlas.columns[font, class_id]).any(axis=0))


def test_cap_height_and_baseline_are_the_same_in_every_font():
  atlas = _all_faces()
  base = int(atlas.baseline)
  for font in range(len(atlas.names)):
    rows = _ink_rows(atlas, font, _class_id(atlas, "H"))
    assert abs(len(rows) - atlas_lib.CAP_PX) <= 2, atlas.names[font]
    assert abs(rows[-1] - (base - 1)) <= 1, atlas.names[font]
  descending = _ink_rows(atlas, 0, _class_id(atlas, "j"))
  assert descending[-1] > base + 2


def test_advances_are_the_fonts_own():
  atlas = atlas_lib.build_atlas([SANS], _alphabet("H1 "))
  probe = ImageFont.truetype(str(SANS.path), 200)
  box = probe.getbbox("H", anchor="ls")
  size = 200 * atlas_lib.CAP_PX / (box[3] - box[1])
  font = ImageFont.truetype(str(SANS.path), size)
  expected = [font.getlength(c) for c in "H1 "]
  np.testing.assert_allclose(atlas.advance[0, 1:], expected)
  assert not np.asarray(atlas.columns[0, 3]).any()  # The space.
  assert bool(atlas.present[0, 3])


def test_every_default_font_draws_digits_and_the_cells_hold_all_ink():
  atlas = _all_faces()
  assert len(atlas.names) == len(FONTS)
  digits = [_class_id(atlas, c) for c in "0123456789"]
  assert np.asarray(atlas.present)[:, digits].all()
  columns = np.asarray(atlas.columns)
  # Nothing touches the first or last row: nothing is cut there.
  assert not columns[..., 0].any() and not columns[..., -1].any()


def test_a_glyph_that_stands_for_another_character_is_masked():
  """Computer Modern draws `<` as an inverted exclamation mark."""
  atlas = atlas_lib.build_atlas([SANS, FONTS["cmr10"]], _alphabet("<01"))
  np.testing.assert_array_equal(atlas.present[0], [True] * 4)
  np.testing.assert_array_equal(atlas.present[1], [True, False, True, True])
  assert not np.asarray(atlas.columns[1, 1]).any()


def test_missing_glyphs_are_masked_not_boxes():
  hebrew = "\u05d0"  # In DejaVu Sans, not in Computer Modern.
  atlas = atlas_lib.build_atlas(
    [SANS, FONTS["cmr10"]], _alphabet(hebrew + "01")
  )
  np.testing.assert_array_equal(np.asarray(atlas.present)[:, 1], [True, False])
  assert not np.asarray(atlas.columns[1, 1]).any()


def test_no_font_with_the_whole_alphabet_is_an_error():
  with pytest.raises(atlas_lib.FontError, match="cmr10, lacks <"):
    atlas_lib.build_atlas([FONTS["cmr10"]], _alphabet("<01"))


def test_unreadable_and_poor_fonts_are_left_out(tmp_path, caplog):
  broken = tmp_path / "broken.ttf"
  broken.write_bytes(b"not a font")
  broken = atlas_lib.FontFace(broken)
  atlas = atlas_lib.build_atlas([broken, SANS], _alphabet("01"))
  assert atlas.names == ("DejaVuSans",)
  with pytest.raises(atlas_lib.FontError, match="no usable font"):
    atlas_lib.build_atlas([broken], _alphabet("01"))


def _without_table(font, tag):
  """The bytes of a font whose directory names this table otherwise."""
  (tables,) = struct.unpack_from(">H", font, 4)
  for entry in range(12, 12 + 16 * tables, 16):
    if font[entry : entry + 4] == tag:
      return font[:entry] + b"zzzz" + font[entry + 4 :]
  raise AssertionError(tag)


_DAMAGES = {
  "half": lambda font: font[: len(font) // 2],
  "directory": lambda font: font[:100],
  "zeros": lambda font: font[:4000] + bytes(len(font) - 4000),
  "maxp": lambda font: _without_table(font, b"maxp"),
  "cmap": lambda font: _without_table(font, b"cmap"),
  "head": lambda font: _without_table(font, b"head"),
}


@pytest.mark.parametrize("damage", _DAMAGES)
def test_damaged_fonts_are_left_out(tmp_path, damage):
  """None may end the run, whatever the parsers make of it."""
  path = tmp_path / "damaged.ttf"
  path.write_bytes(_DAMAGES[damage](SANS.path.read_bytes()))
  atlas = atlas_lib.build_atlas(
    [atlas_lib.FontFace(path), FONTS["DejaVuSerif"]], _alphabet("H01")
  )
  assert atlas.names == ("DejaVuSerif",)


def test_any_failure_to_draw_leaves_a_font_out(monkeypatch):
  def fail(font, character):
    raise KeyError("glyf")

  monkeypatch.setattr(atlas_lib, "_draw_glyph", fail)
  with pytest.raises(atlas_lib.FontError, match=r"cannot be drawn.*glyf"):
    atlas_lib._draw_face(SANS, "01")


def test_find_fonts_names_what_is_wrong(tmp_path):
  with pytest.raises(atlas_lib.FontError, match="not a directory"):
    atlas_lib.find_fonts([tmp_path / "none"])
  with pytest.raises(atlas_lib.FontError, match=r"no \.ttf or \.otf"):
    atlas_lib.find_fonts([tmp_path])
  (tmp_path / "deep").mkdir()
  (tmp_path / "deep" / "A.TTF").write_bytes(SANS.path.read_bytes())
  found = atlas_lib.find_fonts([tmp_path])
  assert [face.path.name for face in found] == ["A.TTF"]


def test_file_round_trip_and_damage(tmp_path):
  atlas = atlas_lib.build_atlas([SANS], _alphabet("0 1"))
  path = tmp_path / "atlas.npz"
  atlas_lib.save_atlas(path, atlas)
  assert [p.name for p in tmp_path.iterdir()] == ["atlas.npz"]
  again = atlas_lib.load_atlas(path)
  assert (again.names, again.characters) == (atlas.names, "0 1")
  for name in ("columns", "advance", "bearing", "ink_width", "present"):
    np.testing.assert_array_equal(getattr(again, name), getattr(atlas, name))
  path.write_bytes(path.read_bytes()[:100])
  with pytest.raises(atlas_lib.FontError, match="not a readable glyph atlas"):
    atlas_lib.load_atlas(path)
  with pytest.raises(atlas_lib.FontError, match="not a readable glyph atlas"):
    atlas_lib.load_atlas(pathlib.Path(tmp_path) / "none.npz")


def test_styled_faces_draw_mathematical_letters_and_digits():
  sans = atlas_lib.FontFace(SANS.path, "SANS-SERIF BOLD")
  assert sans.drawn_as("1") == "\U0001d7ed"
  assert sans.drawn_as("A") == "\U0001d5d4"
  assert sans.drawn_as("z") == "\U0001d607"
  assert [sans.drawn_as(c) for c in ".\u00e9\u0661"] == [
    ".",
    "\u00e9",
    "\u0661",
  ]
  assert SANS.drawn_as("1") == "1"


def test_some_default_font_has_a_one_without_a_foot():
  """Receipts print it so; where it is missing, 1 is read as 7."""
  atlas = _all_faces()
  one = _class_id(atlas, "1")
  footless = []
  for font, name in enumerate(atlas.names):
    ink = np.asarray(atlas.columns[font, one]) > 128
    last = _ink_rows(atlas, font, one)[-2]
    if ink[:, last].sum() < 0.6 * ink.any(axis=1).sum():
      footless.append(name)
  assert "STIXGeneral sans-serif" in footless
