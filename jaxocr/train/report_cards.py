"""Cards of report.html: one evaluated line each, its reading and its truth."""

from collections.abc import Mapping, Sequence
import html

from jaxocr.train import report_charts
from jaxocr.train import report_lines


def legend() -> str:
  """What shade, strip and wavy line mean."""
  shades = "".join(
    f'<span class="ch" style="--d:{1 - c:.2f}">{c:.0%}</span>'
    for c in (1.0, 0.75, 0.5, 0.25)
  )
  return (
    f'<p class="legend">The shade tells how sure the network was of each'
    f" character: {shades}. The strip below a line shows where it saw it."
    ' <span class="ch x">Wavy</span> characters are wrong. Chosen blindly.</p>'
  )


def galleries(groups: Mapping[str, Sequence[report_lines.LineResult]]) -> str:
  """Cards of lines under a heading for each source; "" without lines."""
  return "".join(
    f"<h3>{source.capitalize()} lines</h3>"
    f'<div class="lines">{"".join(_line(line) for line in lines)}</div>'
    for source, lines in groups.items()
    if lines
  )


def _line(line: report_lines.LineResult) -> str:
  """A card: the picture, the reading by character, the truth, the verdict."""
  reading = line.reading
  ops = report_lines.edits(line.truth, reading.text)
  wrong_truth = {i for kind, i, _ in ops if kind != "insert"}
  wrong_read = {j for kind, _, j in ops if kind != "delete"}
  read = "".join(
    f'<span class="{"ch x" if i in wrong_read else "ch"}"'
    f' style="--d:{_doubt(c):.2f}" title="{_tip(c)}">{html.escape(c.char)}'
    "</span>"
    for i, c in enumerate(reading.characters)
  )
  truth = "".join(
    f'<span class="x">{html.escape(char)}</span>'
    if i in wrong_truth
    else html.escape(char)
    for i, char in enumerate(line.truth)
  )
  count = len(ops)
  verdict = f"{count} edit{'s' if count > 1 else ''} away" if count else "right"
  return (
    f'<figure class="card line">{_picture(line)}'
    f"<dl><dt>read</dt><dd>{read or '<em>nothing</em>'}</dd>"
    f"<dt>true</dt><dd>{truth or '<em>nothing</em>'}</dd></dl>"
    f'<figcaption class="{"bad" if count else "good"}">{verdict}, '
    f"{reading.confidence:.0%} sure</figcaption></figure>"
  )


def _picture(line: report_lines.LineResult) -> str:
  """The line's image above a strip of where each character was seen."""
  height, width = line.image.shape
  strip = "".join(
    f'<rect class="seen" x="{c.x0:.1f}" y="{height + 1.5}"'
    f' width="{max(c.x1 - c.x0, 1.0):.1f}" height="2.5"'
    f' style="--d:{_doubt(c):.2f}"><title>{_tip(c)}</title></rect>'
    for c in line.reading.characters
  )
  return (
    f'<svg viewBox="0 0 {width} {height + 4}" role="img"'
    f' style="max-width:{2.5 * width:.0f}px"'
    f' aria-label="{html.escape(line.truth)}"><image width="{width}"'
    f' height="{height}" href="{report_charts.png_uri(line.image)}"/>{strip}'
    "</svg>"
  )


def _doubt(character) -> float:
  return min(max(1.0 - character.confidence, 0.0), 1.0)


def _tip(character) -> str:
  return html.escape(
    f"{shown(character.char)}: {character.confidence:.1%} sure,"
    f" {character.x0:.0f} to {character.x1:.0f} px"
  )


def shown(char: str) -> str:
  """`char`, or a name for what cannot be seen."""
  return "space" if char == " " else char
