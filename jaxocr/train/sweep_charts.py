"""Pictures of a sweep over two settings."""

from collections.abc import Mapping, Sequence
import math
import os

from jaxocr import files


def draw(
  path: str | os.PathLike,
  cells: Sequence[Mapping],
  rates: Sequence[float],
  momenta: Sequence[float],
) -> None:
  """Heat map, learning curves, and accuracy against dead ReLUs, as one PNG.

  Args:
    path: Of the PNG; written aside, then renamed.
    cells: By rate, then momentum: `learning_rate`, `momentum`, `test_accuracy`
      and `dead_relus` (None where training broke off), `curve` [(step, loss)].
    rates: Of the rows.
    momenta: Of the columns.
  """
  from matplotlib import figure

  page = figure.Figure(figsize=(15, 4.6), layout="constrained", dpi=110)
  heat, curves, scatter = page.subplots(1, 3)
  grid = [
    [_known(cell) for cell in cells[row : row + len(momenta)]]
    for row in range(0, len(cells), len(momenta))
  ]
  picture = heat.imshow(grid, vmin=0, vmax=1, cmap="viridis", origin="lower")
  for row, values in enumerate(grid):
    for column, value in enumerate(values):
      heat.text(
        column,
        row,
        "died" if math.isnan(value) else f"{value:.3f}",
        ha="center",
        va="center",
        color="white" if value <= 0.6 else "black",
      )
  heat.set(
    title="Test accuracy",
    xlabel="momentum",
    ylabel="learning rate",
    xticks=range(len(momenta)),
    xticklabels=[f"{m:g}" for m in momenta],
    yticks=range(len(rates)),
    yticklabels=[f"{r:g}" for r in rates],
  )
  page.colorbar(picture, ax=heat)
  for cell in cells:
    label = f"{cell['learning_rate']:g}, {cell['momentum']:g}"
    known = [(step, loss) for step, loss in cell["curve"] if loss is not None]
    if known:
      curves.plot(*zip(*known, strict=True), label=label)
    if cell["dead_relus"] is not None:
      point = 100 * cell["dead_relus"], cell["test_accuracy"]
      scatter.scatter(*point, s=40, label=label)
  curves.set(title="Training loss", xlabel="step", yscale="log")
  if curves.lines:
    curves.legend(title="rate, momentum", fontsize="small")
  scatter.set(
    title="Accuracy against dead ReLUs",
    xlabel="units that are 0 for every image, %",
    ylabel="test accuracy",
    ylim=(0, 1.02),
  )
  with files.aside(path) as part:
    page.savefig(part, format="png")


def _known(cell) -> float:
  accuracy = cell["test_accuracy"]
  return math.nan if accuracy is None else accuracy
