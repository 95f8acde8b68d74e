"""An honest account of every bit: what each parameter occupies and computes.

All sizes are sums over the packed tree, the one that is saved; what a file
holds besides (names, metadata) is left to whoever has the file. Multiply-
accumulates are data here, as of `models.macs`, which follows a model; of what
precision each is follows from the form of the parameter and of the features
that it meets. That is what the numbers are, whatever an engine makes of them.
"""

import collections
from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import jax

from jaxocr.compress import packed as packed_lib
from jaxocr.compress import rules as rules_lib

PyTree = Any
# Path -> form of features (bit, int2 to int8, float) -> multiply-accumulates.
Macs = Mapping[str, Mapping[str, int]]
_FLOAT_BYTES = 4  # What a parameter is compared with: float32.


@dataclasses.dataclass(frozen=True)
class CodebookRow:
  """What there is to say of a product-quantised parameter besides."""

  d: int
  codewords: int  # K.
  codebook_nbytes: int
  code_nbytes: int
  # Relative response error before and after correction, where it was measured.
  errors: tuple[float, float] | None


@dataclasses.dataclass(frozen=True)
class Row:
  """One parameter."""

  path: str
  shape: tuple[int, ...]
  form: str  # bit, int8, int2, float16, ...
  nbytes: int  # Scales and zero points included.
  # Form of features -> multiply-accumulates with them for one input; empty: in
  # no product, or not counted.
  macs_by_features: Mapping[str, int] = dataclasses.field(default_factory=dict)
  # Of a CodebookTensor.
  codebook: CodebookRow | None = None

  @property
  def macs(self) -> int:
    """Multiply-accumulates for one input."""
    return sum(self.macs_by_features.values())

  @property
  def macs_by_precision(self) -> dict[str, int]:
    """`bit x bit`, `bit x float`, ...: the parameter's form, the features'."""
    weights = "float" if "float" in self.form else self.form
    return {f"{weights} x {f}": n for f, n in self.macs_by_features.items()}

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

  @property
  def macs(self) -> int:
    return sum(row.macs for row in self.rows)

  @property
  def macs_by_precision(self) -> dict[str, int]:
    """Of all parameters, the largest part first; see `Row`."""
    parts = collections.Counter()
    for row in self.rows:
      parts.update(row.macs_by_precision)
    return dict(sorted(parts.items(), key=lambda kv: (-kv[1], kv[0])))

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
    """For a person: a line a parameter, then sums by form and by precision."""
    head = ("parameter", "shape", "form", "count", "bytes", "MACs", "of")
    cells = [head]
    for row in self.rows:
      shape = "x".join(map(str, row.shape)) or "1"
      sums = (f"{row.count:,}", f"{row.nbytes:,}", _number(row.macs))
      cells.append(
        (row.path, shape, row.form, *sums, ", ".join(row.macs_by_precision))
      )
    for form, part in self.by_form().items():
      cells.append((f"all {form}", "", form, *part._sums(), ""))
    for precision, macs in self.macs_by_precision.items():
      share = f"{precision}, {macs / self.macs:.1%}"
      cells.append(("all MACs", "", "", "", "", _number(macs), share))
    cells.append(("all", "", "", *self._sums(), ""))
    lines = [*_aligned(cells, range(3, 6)), *self._codebooks()]
    lines.append(
      f"{self.float_nbytes:,} bytes in float32, {self.nbytes:,} packed: "
      f"{self.ratio:.1f} times smaller"
    )
    return "\n".join(lines)

  def _codebooks(self) -> list[str]:
    """Lines on product-quantised parameters, if there are any."""
    cells = [
      ("codebooks", "d", "K", "codebooks", "codes", "ratio", "error", "before")
    ]
    for row in self.rows:
      of = row.codebook
      if of is None:
        continue
      before, after = ("", "") if of.errors is None else map(_share, of.errors)
      sizes = (f"{of.codebook_nbytes:,}", f"{of.code_nbytes:,}")
      ratio = f"{row.float_nbytes / row.nbytes:.1f}"
      numbers = (f"{of.d}", f"{of.codewords}", *sizes, ratio)
      cells.append((row.path, *numbers, after, before))
    return _aligned(cells, range(1, 8)) if cells[1:] else []

  def _sums(self) -> tuple[str, str, str]:
    return f"{self.count:,}", f"{self.nbytes:,}", _number(self.macs)


def _aligned(cells, numbers: range) -> list[str]:
  """Columns of equal width, those of numbers to the right."""
  widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
  return [
    "  ".join(
      cell.rjust(w) if i in numbers else cell.ljust(w)
      for i, (cell, w) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in cells
  ]


def _share(error: float) -> str:
  return f"{error:.2%}"


def _number(macs: int) -> str:
  return f"{macs:,}" if macs else ""


def summarise(packed: PyTree, macs: Macs | None = None) -> Summary:
  """Of a packed tree, or of one of `jax.ShapeDtypeStruct`s.

  Args:
    packed: As of `rules.pack`.
    macs: As of `models.macs.count_macs`; None: they are left out.
  """
  macs = {} if macs is None else macs
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
        macs_by_features=macs.get(name, {}),
        codebook=_codebook_row(tensor),
      )
    )
  return Summary(tuple(rows))


def _codebook_row(tensor) -> CodebookRow | None:
  if not isinstance(tensor, packed_lib.CodebookTensor):
    return None
  books, codes = tensor.codebooks, tensor.codes
  return CodebookRow(
    tensor.d,
    tensor.codewords,
    books.size * books.dtype.itemsize,
    codes.size * codes.dtype.itemsize,
    tensor.errors,
  )


def summary(
  params: PyTree,
  rules: rules_lib.Rules,
  macs: Macs | None = None,
) -> Summary:
  """What `params` will occupy under `rules`; nothing is computed.

  `models.macs.summary` counts the multiply-accumulates of a model as well.

  Raises:
    ValueError: See `rules.match`.
  """
  shapes = jax.eval_shape(lambda p: rules_lib.pack(p, rules), params)
  return summarise(shapes, macs)
