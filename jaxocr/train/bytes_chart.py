"""Picture of accuracy against bytes."""

from collections.abc import Mapping, Sequence
import os

from jaxocr import files

_MARKS = {"float": "s", "int": "^", "binary": "D", "pq": "o", "mixed": "P"}


def draw(
  path: str | os.PathLike,
  rows: Sequence[Mapping],
  measures: Mapping[str, str],
) -> None:
  """A panel a measure, a point a row, as one PNG.

  Args:
    path: Of the PNG; written aside, then renamed.
    rows: Of `name`, `family` (one of float, int, binary, pq, mixed), `bytes`
      and the measures; a row without one is left out of its panel.
    measures: Key of a row -> title of its panel.
  """
  from matplotlib import figure

  page = figure.Figure(
    figsize=(7.5 * len(measures), 5.2), layout="constrained", dpi=110
  )
  panels = page.subplots(1, len(measures), squeeze=False)[0]
  for panel, (measure, title) in zip(panels, measures.items(), strict=True):
    known = [row for row in rows if row.get(measure) is not None]
    for number, (family, mark) in enumerate(_MARKS.items()):
      own = [row for row in known if row["family"] == family]
      if own:
        panel.scatter(
          [row["bytes"] / 1000 for row in own],
          [row[measure] for row in own],
          marker=mark,
          s=55,
          color=f"C{number}",
          label=family,
        )
    # By turns above and below: neighbours are often close.
    for place, row in enumerate(sorted(known, key=lambda row: row["bytes"])):
      panel.annotate(
        row["name"],
        (row["bytes"] / 1000, row[measure]),
        xytext=(6, 5 if place % 2 else -11),
        textcoords="offset points",
        fontsize=8,
      )
    panel.set(
      title=title, xlabel="parameters, kB", ylabel="accuracy", xscale="log"
    )
    panel.set_xticks([150, 200, 300, 500, 1000, 2000])
    panel.minorticks_off()
    panel.xaxis.set_major_formatter("{x:g}")
    panel.margins(x=0.12, y=0.08)
    panel.grid(alpha=0.3)
    panel.legend(fontsize="small", loc="lower right")
  with files.aside(path) as part:
    page.savefig(part, format="png")
