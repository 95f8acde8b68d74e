"""Which form a parameter takes: one frozen dataclass a form.

A spec has `fake(parameter)`, the parameter as the shipped network computes with
it and differentiable through a surrogate, and `pack(parameter)`, what is
stored. Both start from the same codes, so that
`spec.pack(p).dequantise() == spec.fake(p)` bit for bit. `folds` tells whether
scaling an output channel before or after makes no difference, as folding a
BatchNorm's gain into a kernel asks for.
"""

import dataclasses
from typing import ClassVar

import jax
from jax import lax
import jax.numpy as jnp

from jaxocr.compress import affine
from jaxocr.compress import binarise
from jaxocr.compress import codebook
from jaxocr.compress import dorefa
from jaxocr.compress import lsq
from jaxocr.compress import packed
from jaxocr.compress import ternarise


@dataclasses.dataclass(frozen=True)
class Float:
  """Stays a float, perhaps a narrower one."""

  # Of the stored values: float16, bfloat16 or float32; None: as it is.
  storage: str | None = None

  @property
  def folds(self) -> bool:
    return True

  def fake(self, parameter: jax.Array) -> jax.Array:
    if self.storage is None:
      return parameter
    return _through(parameter, self.storage)

  def pack(self, parameter: jax.Array) -> packed.FloatTensor:
    values = parameter
    if self.storage is not None:
      values = _narrow(parameter, self.storage)
    return packed.FloatTensor(values, dtype=str(parameter.dtype))


@dataclasses.dataclass(frozen=True)
class Binary:
  """One bit a weight and one scale per output channel, the mean magnitude."""

  # Whether the scale's own gradient reaches the latent weights as well.
  through_scale: bool = False
  # Without scales a layer's BatchNorm has to restore the magnitude.
  scaled: bool = True

  @property
  def folds(self) -> bool:
    return self.scaled

  def fake(self, parameter: jax.Array) -> jax.Array:
    if not self.scaled:
      return binarise.sign_ste(parameter)
    if self.through_scale:
      return binarise.binarise_kernel_through_scale(parameter)
    return binarise.binarise_kernel(parameter)

  def pack(self, parameter: jax.Array) -> packed.BitTensor:
    codes, scale = binarise.binary_codes(parameter)
    return packed.pack_bits(
      codes > 0, scale if self.scaled else None, parameter.dtype
    )


@dataclasses.dataclass(frozen=True)
class Ternary:
  """-1, 0 or +1 a weight, in two bits, and one scale per output channel."""

  # Magnitude above which a weight is kept; None: 0.7 of the kernel's mean.
  threshold: float | None = None

  @property
  def folds(self) -> bool:
    return False  # The threshold is the whole kernel's.

  def fake(self, parameter: jax.Array) -> jax.Array:
    return ternarise.ternarise_kernel(parameter, threshold=self.threshold)

  def pack(self, parameter: jax.Array) -> packed.AffineTensor:
    codes, scale = ternarise.ternary_codes(parameter, threshold=self.threshold)
    return packed.pack_codes(
      codes, scale, None, bits=2, lowest=-1, dtype=parameter.dtype
    )


@dataclasses.dataclass(frozen=True)
class DoReFa:
  """2**bits levels of the tanh of a weight, within +-1, without a scale."""

  bits: int

  @property
  def folds(self) -> bool:
    return False  # The largest weight is the whole kernel's.

  def fake(self, parameter: jax.Array) -> jax.Array:
    return dorefa.dorefa_kernel(parameter, bits=self.bits)

  def pack(self, parameter: jax.Array) -> packed.AffineTensor:
    codes, scale, zero_point = dorefa.dorefa_codes(parameter, bits=self.bits)
    return packed.pack_codes(
      codes,
      scale,
      zero_point,
      bits=self.bits,
      lowest=0,
      dtype=parameter.dtype,
    )


@dataclasses.dataclass(frozen=True)
class Affine:
  """Integers on an even grid over the parameter's range."""

  # How codes are made: width, symmetry, rounding.
  grid: affine.Grid = dataclasses.field(default_factory=affine.Grid)
  # A scale for each of the last axis (an LSTM gate's row), or one for all.
  per_channel: bool = True

  @property
  def folds(self) -> bool:
    return self.per_channel and self.grid.symmetric

  def fake(self, parameter: jax.Array) -> jax.Array:
    return affine.fake_quant_kernel(
      parameter, self.grid, per_channel=self.per_channel
    )

  def pack(self, parameter: jax.Array) -> packed.AffineTensor:
    codes, scale, zero_point = affine.kernel_codes(
      parameter, self.grid, per_channel=self.per_channel
    )
    return packed.pack_codes(
      codes,
      scale,
      None if self.grid.symmetric else zero_point,
      bits=self.grid.bits,
      lowest=self.grid.lowest,
      dtype=parameter.dtype,
    )


@dataclasses.dataclass(frozen=True)
class LSQ:
  """Integers whose step is learnt, one for each of the last axis.

  The step of NAME lies beside it in the tree of parameters as NAME_step; see
  `rules.with_steps`. `fake` and `pack` take it as a second argument.
  """

  # Of a code, 2 to 8; codes are symmetric.
  bits: int
  # What a parameter's path ends in where its step lies.
  beside: ClassVar[str] = "_step"

  @property
  def folds(self) -> bool:
    return False  # A gain would have to go into the step as well.

  def init(self, parameter: jax.Array) -> jax.Array:
    """The step to begin with."""
    return lsq.init_step(parameter, self.bits, per_channel=True)

  def fake(self, parameter: jax.Array, step: jax.Array) -> jax.Array:
    return lsq.lsq(parameter, step, bits=self.bits)

  def pack(self, parameter: jax.Array, step: jax.Array) -> packed.AffineTensor:
    codes, scale = lsq.lsq_codes(parameter, step, bits=self.bits)
    return packed.pack_codes(
      codes,
      scale,
      None,
      bits=self.bits,
      lowest=affine.Grid(bits=self.bits).lowest,
      dtype=parameter.dtype,
    )


@dataclasses.dataclass(frozen=True)
class Codebook:
  """Sub-vectors of input channels as entries of codebooks, by k-means.

  For trained networks: `fake` clusters anew each time. `compress.correct`
  improves what this gives, `compress.opened` trains it.

  Raises:
    ValueError: A field out of its range; and, from `fake` and `pack`, for a
      parameter that it does not suit, see `codebook.unfit`.
  """

  # Input channels of a sub-vector; the last of a kernel may have fewer.
  d: int
  # K, entries of each codebook. A code takes log2 of it, rounded up, in bits.
  codewords: int
  # Of the codebooks: float16, or float32 as published sizes have it.
  storage: str = "float16"
  # Of the random starts.
  seed: int = 0

  def __post_init__(self):
    if self.d < 1:
      raise ValueError(f"d={self.d}; must be 1 or more")
    if not 2 <= self.codewords <= 4096:
      raise ValueError(f"codewords={self.codewords}; must be 2 to 4096")
    if self.storage not in ("float16", "float32"):
      raise ValueError(
        f"storage={self.storage!r}; must be 'float16' or 'float32'"
      )

  @property
  def folds(self) -> bool:
    return False  # Sub-vectors of scaled channels cluster otherwise.

  def unfit(self, shape: tuple[int, ...]) -> str:
    """Why it does not suit a parameter of this shape, or ""."""
    return codebook.unfit(
      shape, d=self.d, codewords=self.codewords, storage=self.storage
    )

  def fake(self, parameter: jax.Array) -> jax.Array:
    books, codes = self._fit(parameter)
    kernel = codebook.join(books, codes, parameter.shape)
    return _straight(parameter, kernel.astype(parameter.dtype))

  def pack(self, parameter: jax.Array) -> packed.CodebookTensor:
    books, codes = self._fit(parameter)
    return packed.pack_codebooks(
      books,
      codes,
      shape=parameter.shape,
      storage=self.storage,
      dtype=parameter.dtype,
    )

  def _fit(self, parameter):
    return codebook.fit(
      lax.stop_gradient(parameter),
      d=self.d,
      codewords=self.codewords,
      storage=self.storage,
      seed=self.seed,
    )


# A new spec is added here, and rules, packing, bundles and summaries know it.
Spec = Float | Binary | Ternary | DoReFa | Affine | LSQ | Codebook


def as_json(rules) -> list:
  """Rules for a file: [regex, kind of spec, its fields], first match first."""
  return [
    [pattern, type(spec).__name__, dataclasses.asdict(spec)]
    for pattern, spec in rules
  ]


def _narrow(x, storage):
  """In `storage`; what is too large for it becomes its largest value."""
  limit = float(jnp.finfo(storage).max)
  return jnp.clip(x.astype(jnp.float32), -limit, limit).astype(storage)


@jax.custom_vjp
def _straight(x, rounded):
  return rounded


_straight.defvjp(
  lambda x, rounded: (rounded, None),
  lambda _, cotangent: (cotangent, jnp.zeros_like(cotangent)),
)


def _through(x, storage):
  """Rounded to `storage` and back; the gradient passes unchanged."""
  # XLA may else drop the two conversions where it is free to compute in more.
  narrow = lax.optimization_barrier(_narrow(x, storage))
  return _straight(x, narrow.astype(x.dtype))
