"""An honest account of every bit: what each parameter occupies.

All sizes are sums over the packed tree, the one that is saved; what a file
holds besides (names, metadata) is left to whoever has the file.
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax

from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib

PyTree = Any
_FLOAT_BYTES = 4  # What a parameter is compared with: float32.


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter."""

  path: str
  shape: tuple[int, ...]
  form: str  # bit, int8, int2, float16, ...
  nbytes: int  # Scales and zero points included.
  macs: int | None  # Multiply-accumulates for one input; None: not counted.

  @property
  def count(self) -> int:
    return math.prod(self.shape)

  @property
  def float_nbytes(self) -> int:
    return self.count * _FLOAT_BYTES


@dataclasses.dataclass(frozen=True)
class Summary:
  """All parameters of a network."""

  rows: tuple[Row, ...]

  @property
  def count(self) -> int:
    return sum(row.count for row in self.rows)

  @property
  def nbytes(self) -> int:
    return sum(row.nbytes for row in self.rows)

  @property
  def float_nbytes(self) -> int:
    return sum(row.float_nbytes for row in self.rows)

  @property
  def ratio(self) -> float:
    """How many times smaller than in float32."""
    return self.float_nbytes / self.nbytes

  def below(self, prefix: str) -> "Summary":
    """Of the parameters whose path starts with `prefix`/."""
    return Summary(
      tuple(r for r in self.rows if r.path.startswith(f"{prefix}/"))
    )

  def by_form(self) -> dict[str, "Summary"]:
    """The parameters of each form, the largest form first."""
    forms = {row.form for row in self.rows}
    parts = {
      form: Summary(tuple(r for r in self.rows if r.form == form))
      for form in forms
    }
    return dict(sorted(parts.items(), key=lambda kv: (-kv[1].count, kv[0])))

  def table(self) -> str:
    """For a person: one line a parameter, then the sums by form."""
    head = ("parameter", "shape", "form", "count", "bytes", "MACs")
    cells = [head]
    for row in self.rows:
      shape = "x".join(map(str, row.shape)) or "1"
      macs = "" if row.macs is None else f"{row.macs:,}"
      cells.append(
        (row.path, shape, row.form, f"{row.count:,}", f"{row.nbytes:,}", macs)
      )
    for form, part in self.by_form().items():
      cells.append((f"all {form}", "", form, *part._sums()))
    cells.append(("all", "", "", *self._sums()))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
      "  ".join(
        cell.ljust(w) if i < 3 else cell.rjust(w)
        for i, (cell, w) in enumerate(zip(row, widths, strict=True))
      ).rstrip()
      for row in cells
    ]
    lines.append(
      f"{self.float_nbytes:,} bytes in float32, {self.nbytes:,} packed: "
      f"{self.ratio:.1f} times smaller"
    )
    return "\n".join(lines)

  def _sums(self) -> tuple[str, str, str]:
    macs = [row.macs for row in self.rows if row.macs is not None]
    return (
      f"{self.count:,}",
      f"{self.nbytes:,}",
      f"{sum(macs):,}" if macs else "",
    )


def summarise(packed: PyTree, macs: Mapping[str, int] | None = None) -> Summary:
  """Of a packed tree, or of one of `jax.ShapeDtypeStruct`s.

  Args:
    packed: As of `rules.pack`.
    macs: Path -> multiply-accumulates, as of `models.macs.count_macs`.
  """
  leaves = jax.tree_util.tree_leaves_with_path(
    packed, is_leaf=packed_lib.is_packed
  )
  rows = []
  for path, tensor in leaves:
    name = rules_lib.path_name(path)
    rows.append(
      Row(
        path=name,
        shape=tensor.shape,
        form=tensor.form,
        nbytes=tensor.nbytes,
        macs=None if macs is None else macs.get(name),
      )
    )
  return Summary(tuple(rows))


def summary(
  params: PyTree,
  rules: rules_lib.Rules,
  macs: Mapping[str, int] | None = None,
) -> Summary:
  """What `params` will occupy under `rules`; nothing is computed.

  Raises:
    ValueError: See `rules.match`.
  """
  shapes = jax.eval_shape(lambda p: rules_lib.pack(p, rules), params)
  return summarise(shapes, macs)
