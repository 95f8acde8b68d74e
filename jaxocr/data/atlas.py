"""Glyph atlas: fonts turned into arrays that a renderer can gather from.

Every glyph of every font is drawn once at the same cap height, so that sizes
mean the same in all fonts. Cells are stored column by column, because the
renderer gathers columns.
"""

from collections.abc import Sequence
import contextlib
import dataclasses
import os
import pathlib
import unicodedata
import zipfile

from absl import logging
import flax.struct
from fontTools import agl
from fontTools import ttLib
import jax
import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFont

from jaxocr import files
from jaxocr.text import alphabet as alphabet_lib

CAP_PX = 22  # Cap height of every font in the atlas.
MAX_ASCENT_PX = 3 * CAP_PX // 2
MAX_DESCENT_PX = 2 * CAP_PX // 3
MAX_WIDTH_PX = 3 * CAP_PX
FONT_SUFFIXES = (".ttf", ".otf")
_FORMAT = 1

# The text faces among matplotlib's fonts, as (file, style). The rest are
# symbols or obliques of these, which the renderer's slant gives as well. The
# styled digits and letters of STIX are the only sans whose 1 stands on no foot,
# the commonest form on receipts.
_DEFAULT_FACES = (
  ("DejaVuSans", ""),
  ("DejaVuSans-Bold", ""),
  ("DejaVuSansMono", ""),
  ("DejaVuSansMono-Bold", ""),
  ("DejaVuSerif", ""),
  ("DejaVuSerif-Bold", ""),
  ("STIXGeneral", ""),
  ("STIXGeneral", "SANS-SERIF"),
  ("STIXGeneral", "SANS-SERIF BOLD"),
  ("STIXGeneral", "MONOSPACE"),
  ("STIXGeneralBol", ""),
  ("STIXGeneralBol", "SANS-SERIF BOLD"),
  ("STIXGeneralItalic", ""),
  ("cmr10", ""),
  ("cmb10", ""),
  ("cmss10", ""),
  ("cmtt10", ""),
)


@dataclasses.dataclass(frozen=True)
class FontFace:
  """One look of the alphabet."""

  path: pathlib.Path
  # A style of Unicode's mathematical letters and digits, such as SANS-SERIF:
  # each character is drawn as its counterpart there, if it has one.
  style: str = ""

  @property
  def name(self) -> str:
    """File name without its ending, and the style."""
    return f"{self.path.stem} {self.style.lower()}".strip()

  def drawn_as(self, character: str) -> str:
    """The code point to draw for a character."""
    name = unicodedata.name(character, "")
    for plain, kind in (
      ("DIGIT ", "DIGIT "),
      ("LATIN CAPITAL LETTER ", "CAPITAL "),
      ("LATIN SMALL LETTER ", "SMALL "),
    ):
      if self.style and name.startswith(plain):
        styled = f"MATHEMATICAL {self.style} {kind}{name.removeprefix(plain)}"
        with contextlib.suppress(KeyError):  # Accented letters have none.
          return unicodedata.lookup(styled)
    return character


class FontError(ValueError):
  """A font file or a set of fonts that cannot serve; one-line message."""


@flax.struct.dataclass
class GlyphAtlas:
  """All glyphs of all fonts; class 0 is an empty cell.

  Lengths are in pixels at `CAP_PX`; K = A + 1.
  """

  columns: jax.Array  # [F, K, cell width, cell height] uint8, 255 = full ink.
  advance: jax.Array  # [F, K] float32, from pen to next pen.
  bearing: jax.Array  # [F, K] float32, from pen to the cell's left edge.
  ink_width: jax.Array  # [F, K] float32, columns of the cell in use.
  present: jax.Array  # [F, K] bool, whether the font has the glyph.
  baseline: jax.Array  # [] float32, rows from the cell's top to the baseline.
  names: tuple[str, ...] = flax.struct.field(pytree_node=False)
  characters: str = flax.struct.field(pytree_node=False)


def default_fonts() -> list[FontFace]:
  """The text faces that matplotlib ships."""
  import matplotlib  # Only its font files are used.

  folder = pathlib.Path(matplotlib.get_data_path()) / "fonts" / "ttf"
  faces = [
    FontFace(folder / f"{stem}.ttf", style) for stem, style in _DEFAULT_FACES
  ]
  found = [face for face in faces if face.path.is_file()]
  if not found:
    raise FontError(f"no fonts in {folder}; reinstall matplotlib")
  return found


def find_fonts(directories: Sequence[str | os.PathLike]) -> list[FontFace]:
  """Sorted .ttf and .otf files below the directories.

  Raises:
    FontError: For a directory that is missing or holds no font.
  """
  found = []
  for directory in directories:
    root = pathlib.Path(directory)
    if not root.is_dir():
      raise FontError(f"fonts={directory}: not a directory")
    here = sorted(
      path
      for path in root.rglob("*")
      if path.suffix.lower() in FONT_SUFFIXES and path.is_file()
    )
    if not here:
      raise FontError(f"fonts={directory}: holds no .ttf or .otf file")
    found.extend(map(FontFace, here))
  return found


def build_atlas(
  fonts: Sequence[FontFace], alphabet: alphabet_lib.Alphabet
) -> GlyphAtlas:
  """Draws every character of the alphabet in every font.

  A font that cannot be read, or that has less than half of the alphabet, is
  left out with a warning; a glyph that a font lacks is masked.

  Args:
    fonts: Faces; all weigh the same in the renderer.
    alphabet: Characters to draw.

  Returns:
    The atlas, as NumPy arrays.

  Raises:
    FontError: When no font has the whole alphabet: its labels could not be
      drawn without gaps.
  """
  faces = []
  for font in fonts:
    try:
      face = _draw_face(font, alphabet.characters)
    except FontError as error:
      logging.warning("left out: %s", error)
      continue
    faces.append(face)
  if not any(all(g is not None for g in face.glyphs) for face in faces):
    raise FontError(_coverage_message(faces, alphabet.characters))
  return _pack_faces(faces, alphabet.characters)


def save_atlas(path: str | os.PathLike, atlas: GlyphAtlas) -> None:
  """Writes the atlas as .npz, aside first, then renamed into place."""
  arrays = {
    field.name: np.asarray(getattr(atlas, field.name))
    for field in dataclasses.fields(atlas)
    if field.name not in ("names", "characters")
  }
  texts = {"names": "\n".join(atlas.names), "characters": atlas.characters}
  with files.aside(path) as part, part.open("wb") as file:
    np.savez_compressed(file, format=_FORMAT, **texts, **arrays)


def load_atlas(path: str | os.PathLike) -> GlyphAtlas:
  """Reads an atlas that `save_atlas` wrote.

  Raises:
    FontError: When the file is missing, damaged or of another format.
  """
  try:
    # A file of our own: NumPy leaves the one of a damaged archive open.
    with open(path, "rb") as file, np.load(file) as archive:
      stored = dict(archive)
  except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
    raise FontError(f"{path}: not a readable glyph atlas ({error})") from error
  if stored.pop("format", None) != _FORMAT:
    raise FontError(
      f"{path}: not a glyph atlas of format {_FORMAT}; rebuild it"
    )
  names = tuple(str(stored.pop("names")).split("\n"))
  characters = str(stored.pop("characters"))
  return GlyphAtlas(names=names, characters=characters, **stored)


@dataclasses.dataclass(frozen=True)
class _Glyph:
  ink: np.ndarray  # [h, w] uint8, cropped to the ink.
  left: int  # Pixels from the pen to the crop.
  top: int  # Pixels from the baseline up to the crop's top.
  advance: float


@dataclasses.dataclass(frozen=True)
class _Face:
  name: str
  glyphs: list[_Glyph | None]  # In the alphabet's order; None where missing.


def _draw_face(face: FontFace, characters: str) -> _Face:
  covered = _covered_characters(face.path)
  drawn = [face.drawn_as(c) for c in characters]
  missing = [c for c in drawn if c not in covered]
  if 2 * len(missing) > len(characters):
    raise FontError(
      f"{face.name}: has {len(characters) - len(missing)} of the alphabet's "
      f"{len(characters)} characters, fewer than half"
    )
  tall = next((c for c in map(face.drawn_as, "H0") if c in covered), None)
  if tall is None:
    raise FontError(f"{face.name}: has neither H nor 0 to measure")
  try:
    probe = ImageFont.truetype(str(face.path), 200)
    _, top, _, bottom = probe.getbbox(tall, anchor="ls")
    if bottom <= top:
      raise FontError(f"{face.name}: {tall!r} has no ink to measure")
    font = ImageFont.truetype(str(face.path), 200 * CAP_PX / (bottom - top))
    glyphs = [_draw_glyph(font, c) if c in covered else None for c in drawn]
  except FontError:
    raise
  except Exception as error:  # As `_covered_characters`.
    raise FontError(f"{face.name}: cannot be drawn ({error!r})") from error
  return _Face(face.name, glyphs)


def _covered_characters(path: pathlib.Path) -> set[str]:
  """Characters that the font maps to their own glyph.

  Not covered: what maps to .notdef (a box), and what maps to a glyph whose
  name says that it is another character, as in Computer Modern, where `<` is
  drawn as an inverted exclamation mark.
  """
  try:
    # A file of our own: ttLib leaves the one of a broken font open.
    with path.open("rb") as file, ttLib.TTFont(file, lazy=True) as font:
      table = font.getBestCmap() or {}
    return {
      chr(code)
      for code, name in table.items()
      if name != ".notdef" and agl.toUnicode(name) in ("", chr(code))
    }
  # Parsers of damaged files raise anything: KeyError, struct.error and more.
  except Exception as error:
    raise FontError(f"{path.name}: not a readable font ({error!r})") from error


def _draw_glyph(font: ImageFont.FreeTypeFont, character: str) -> _Glyph | None:
  """Draws one glyph, or returns None where the font's outline is empty."""
  advance = font.getlength(character)
  left, top, right, bottom = font.getbbox(character, anchor="ls")
  if character.isspace():
    return _Glyph(np.zeros((0, 0), np.uint8), 0, 0, advance)
  if right <= left or bottom <= top:
    return None
  # A pixel of room on each side: hinting may spill over the measured box.
  width, height = right - left + 2, bottom - top + 2
  above, below = 1 - top, bottom + 1
  if above > MAX_ASCENT_PX or below > MAX_DESCENT_PX or width > MAX_WIDTH_PX:
    return None  # A decorative or damaged outline that would swell every cell.
  image = Image.new("L", (width, height), 0)
  ImageDraw.Draw(image).text(
    (1 - left, 1 - top), character, fill=255, font=font, anchor="ls"
  )
  ink = np.asarray(image)
  if not ink.any():
    return None
  return _Glyph(ink, left - 1, above, advance)


def _coverage_message(faces: Sequence[_Face], characters: str) -> str:
  if not faces:
    return "no usable font; give --cfg.fonts a directory of .ttf or .otf files"

  def missing(face):
    return [
      c for c, g in zip(characters, face.glyphs, strict=True) if g is None
    ]

  best = min(faces, key=lambda face: len(missing(face)))
  return (
    f"no font has the whole alphabet: the best, {best.name}, lacks "
    f"{' '.join(missing(best))}; add a font that has them or drop them"
  )


def _pack_faces(faces: Sequence[_Face], characters: str) -> GlyphAtlas:
  drawn = [
    g for face in faces for g in face.glyphs if g is not None and g.ink.size
  ]
  ascent = max(g.top for g in drawn) + 1
  descent = max(g.ink.shape[0] - g.top for g in drawn) + 1
  width = max(g.ink.shape[1] for g in drawn)
  shape = (len(faces), len(characters) + 1)
  columns = np.zeros((*shape, width, ascent + descent), np.uint8)
  advance, bearing, ink_width = (np.zeros(shape, np.float32) for _ in range(3))
  present = np.zeros(shape, bool)
  present[:, 0] = True
  for f, face in enumerate(faces):
    for k, glyph in enumerate(face.glyphs, start=1):
      if glyph is None:
        continue
      rows, cols = glyph.ink.shape
      top = ascent - glyph.top
      columns[f, k, :cols, top : top + rows] = glyph.ink.T
      advance[f, k], bearing[f, k] = glyph.advance, glyph.left
      ink_width[f, k], present[f, k] = cols, True
  return GlyphAtlas(
    columns=columns,
    advance=advance,
    bearing=bearing,
    ink_width=ink_width,
    present=present,
    baseline=np.float32(ascent),
    names=tuple(face.name for face in faces),
    characters=characters,
  )
