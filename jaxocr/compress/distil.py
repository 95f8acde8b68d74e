"""Knowledge distillation: what a student is asked to share with its teacher.

Taps are a dict from names to features [B, H, W, C], after BatchNorm and before
the sign. The teacher is a constant: no gradient reaches its taps or logits.
Every loss is taken in float32, whatever comes in, and is a mean over the lines
whose mask is 1; the others count neither in the sum nor in the number.
"""

from collections.abc import Mapping, Sequence
import dataclasses
import math

import chex
import jax
from jax import lax
import jax.numpy as jnp

Taps = Mapping[str, jax.Array]
Pairs = Sequence[tuple[str, str]]  # (entry, exit), names of taps.
Metrics = dict[str, tuple[jax.Array, jax.Array]]  # name -> (sum, count)

# Mean square of a teacher's FSP matrices under which `relative_fsp_loss` is no
# longer relative.
_FSP_EPSILON = 1e-6
# Squared norm under which an attention map is as good as empty.
_ATTENTION_EPSILON = 1e-12


def fsp_matrix(entry: jax.Array, exit: jax.Array) -> jax.Array:
  """Flow of solution procedure between two layers (Yim et al. 2017, eq. 1).

  Args:
    entry: Features [B, H, W, M].
    exit: Features [B, H', W', N]. Along each axis the larger map is
      average-pooled to the size of the smaller, in windows that do not overlap.

  Returns:
    [B, M, N] float32, the mean over positions of each pair's product.

  Raises:
    ValueError: If a larger size is no multiple of the smaller.
  """
  chex.assert_rank((entry, exit), 4)
  chex.assert_equal_shape_prefix((entry, exit), 1)
  heights, widths = zip(entry.shape[1:3], exit.shape[1:3], strict=True)
  if max(heights) % min(heights) or max(widths) % min(widths):
    raise ValueError(
      f"entry {entry.shape} and exit {exit.shape}: the larger height and width "
      "must be multiples of the smaller, to be pooled; pair other taps"
    )
  size = min(heights), min(widths)
  # Losses compare matrices that differ little: no TF32 or bfloat16 products.
  products = jnp.einsum(
    "bhwm,bhwn->bmn",
    _average_pool(entry, size),
    _average_pool(exit, size),
    precision=lax.Precision.HIGHEST,
  )
  return products / math.prod(size)


def _average_pool(features: jax.Array, size: tuple[int, int]) -> jax.Array:
  batch, height, width, channels = features.shape
  rows, columns = size
  windows = features.astype(jnp.float32).reshape(
    batch, rows, height // rows, columns, width // columns, channels
  )
  return jnp.mean(windows, axis=(2, 4))


def fsp_loss(
  student_taps: Taps, teacher_taps: Taps, *, pairs: Pairs, mask: jax.Array
) -> jax.Array:
  """Mean squared difference of FSP matrices (Yim et al. 2017, eq. 2).

  The paper sums over the M N entries and the pairs; here both are averaged, as
  RepDistiller does. torchdistill takes the norm without squaring it, whose
  gradient does not vanish near the teacher, and pools by maxima.

  Args:
    student_taps: Features by name.
    teacher_taps: Alike; the channels of a pair must be the student's.
    pairs: (entry, exit) names, at least one.
    mask: [B] float, 1 for lines that count.

  Returns:
    [] float32. It grows with the fourth power of the features.

  Raises:
    ValueError: For an unknown tap, no pair, or sizes that do not divide.
  """
  terms = []
  for pair in pairs:
    student, teacher = _fsp_matrices(student_taps, teacher_taps, pair)
    terms.append(_mean_square(student - teacher, mask))
  return _average("pairs", terms)


def relative_fsp_loss(
  student_taps: Taps, teacher_taps: Taps, *, pairs: Pairs, mask: jax.Array
) -> jax.Array:
  """`fsp_loss` with each pair divided by its teacher's mean square. Ours.

  For a pair, with means over entries and lines that count:

    mean (G_student - G_teacher)^2 / (mean G_teacher^2 + 1e-6)

  The size of a matrix follows the gains of the two layers and how much their
  channels have in common, so that in `fsp_loss` the largest pair decides and a
  weight holds for one network only. Here features that are a times larger at
  the entry and b times at the exit, in both networks, leave the loss as it is:
  0 is the teacher, 1 a student whose matrices are zero. The divisor is a
  constant; there is one for the batch, as one a line would favour lines with
  little in them. 1e-6 only stands in for a teacher whose features are dead.

  Args, returns and raises are those of `fsp_loss`.
  """
  terms = []
  for pair in pairs:
    student, teacher = _fsp_matrices(student_taps, teacher_taps, pair)
    scale = _mean_square(teacher, mask) + _FSP_EPSILON
    terms.append(_mean_square(student - teacher, mask) / scale)
  return _average("pairs", terms)


def _fsp_matrices(student_taps, teacher_taps, pair):
  entries, exits = (_both(student_taps, teacher_taps, name) for name in pair)
  student, teacher = map(fsp_matrix, entries, exits)
  chex.assert_equal_shape((student, teacher))
  return student, teacher


def ctc_logit_kl(
  student_logits: jax.Array,
  teacher_logits: jax.Array,
  *,
  mask: jax.Array,
  temperature: jax.Array | float,
) -> jax.Array:
  """KL(teacher || student) of each frame's classes, times temperature^2.

  Both distributions are softened, softmax(logits / temperature), and the square
  keeps the gradient's size as the temperature changes (Hinton et al. 2015,
  section 2).

  A CTC network says blank, and is sure of it, in most frames. Those add next to
  nothing but count in the mean, so the loss is small where the networks differ
  much in a few frames; a temperature above 1 lets the other classes be seen.
  Frames can be compared one by one only where both networks put a character in
  the same frame, which CTC does not ask for: it holds as long as the student
  starts from its teacher's weights.

  Args:
    student_logits: [B, T, K].
    teacher_logits: [B, T, K].
    mask: [B] float, 1 for lines that count; all their frames do.
    temperature: Positive.

  Returns:
    [] float32, the mean over frames and lines, in nats at temperature 1.
  """
  chex.assert_rank(student_logits, 3)
  chex.assert_equal_shape((student_logits, teacher_logits))
  student = _log_odds(student_logits, temperature)
  teacher = _log_odds(lax.stop_gradient(teacher_logits), temperature)
  per_frame = jnp.sum(jnp.exp(teacher) * (teacher - student), axis=-1)
  return temperature**2 * _masked_mean(per_frame, mask)


def _log_odds(logits: jax.Array, temperature) -> jax.Array:
  return jax.nn.log_softmax(logits.astype(jnp.float32) / temperature)


def attention_transfer(
  student_taps: Taps,
  teacher_taps: Taps,
  *,
  names: Sequence[str],
  mask: jax.Array,
) -> jax.Array:
  """Mean squared difference of attention maps (Zagoruyko & Komodakis 2017).

  A map is the sum over channels of squares, divided by its L2 norm over
  positions (eq. 2, p = 2). As in the authors' code, the distance is squared and
  averaged over positions, lines and taps, and eq. 2's beta / 2 is left to the
  caller's weight: a tap adds at most 2 / (H W), hence their beta of 1000.

  Args:
    student_taps: Features by name.
    teacher_taps: Alike, of the same H and W; C may differ.
    names: At least one.
    mask: [B] float, 1 for lines that count.

  Returns:
    [] float32.

  Raises:
    ValueError: For an unknown tap, or no name.
  """
  terms = []
  for name in names:
    student, teacher = map(_attention, _both(student_taps, teacher_taps, name))
    chex.assert_equal_shape((student, teacher))
    terms.append(_mean_square(student - teacher, mask))
  return _average("names", terms)


def _attention(features: jax.Array) -> jax.Array:
  energy = jnp.sum(jnp.square(features), axis=-1)
  square = jnp.sum(jnp.square(energy), axis=(1, 2), keepdims=True)
  # Under the root, so that an empty map has a gradient of 0 and not 0 / 0.
  return energy / jnp.sqrt(jnp.maximum(square, _ATTENTION_EPSILON))


def feature_mse(
  student_taps: Taps,
  teacher_taps: Taps,
  *,
  names: Sequence[str],
  mask: jax.Array,
) -> jax.Array:
  """Mean squared difference of features, averaged over taps.

  FitNets' hint loss (Romero et al. 2015, eq. 3) without its regressor, as the
  channels are the same, and without its factor 1/2.

  Args:
    student_taps: Features by name.
    teacher_taps: Alike, of the same shapes.
    names: At least one.
    mask: [B] float, 1 for lines that count.

  Returns:
    [] float32.

  Raises:
    ValueError: For an unknown tap, or no name.
  """
  terms = []
  for name in names:
    student, teacher = _both(student_taps, teacher_taps, name)
    chex.assert_equal_shape((student, teacher))
    terms.append(_mean_square(student - teacher, mask))
  return _average("names", terms)


@dataclasses.dataclass(frozen=True)
class Distillation:
  """Which losses are added to CTC's, and how much of each; 0 is off."""

  # Of ctc_logit_kl. On, as it gains most in public comparisons and needs no
  # taps. It is a mean over frames where CTC's is a sum: T would put them level.
  logit: float = 1.0
  # Of relative_fsp_loss. Off, as it needs pairs. 1 sets matrices that are wrong
  # altogether against one nat of CTC's.
  fsp: float = 0.0
  # Of attention_transfer. Off, as it needs names. Its authors take 1000 / 2,
  # for a mean over positions of squares that sum to 2 at most.
  attention: float = 0.0
  # Of feature_mse. Off, as it needs names; here to be compared with.
  feature: float = 0.0
  # Of the logits. 1 shows little besides blanks; 2 is the least that shows what
  # comes second. Not tuned.
  temperature: float = 2.0
  # (entry, exit) taps of fsp, for example the two ends of each stage. None, as
  # every backbone has names of its own.
  pairs: tuple[tuple[str, str], ...] = ()
  # Taps of attention and feature. None, for the same reason.
  names: tuple[str, ...] = ()

  def validate(self) -> None:
    """Raises ValueError for the first field that cannot work."""
    needs = {
      "logit": None,
      "fsp": "pairs",
      "attention": "names",
      "feature": "names",
    }
    for name, taps in needs.items():
      weight = getattr(self, name)
      if not 0 <= weight < math.inf:
        raise ValueError(f"{name}={weight}; a weight is finite, 0 or more")
      if weight and taps and not getattr(self, taps):
        raise ValueError(
          f"{taps}=() with {name}={weight}; name at least one or set {name}=0"
        )
    if not 0 < self.temperature < math.inf:
      raise ValueError(
        f"temperature={self.temperature}; must be positive and finite, 1 "
        "leaves the logits as they are"
      )


def distillation_loss(
  config: Distillation,
  *,
  student_taps: Taps,
  student_logits: jax.Array,
  teacher_taps: Taps,
  teacher_logits: jax.Array,
  mask: jax.Array,
  scale: jax.Array | float = 1.0,
) -> tuple[jax.Array, Metrics]:
  """The weighted sum of the losses that are on; the others are not computed.

  Args:
    config: Weights, and what they apply to.
    student_taps: Features [B, H, W, C] by name.
    student_logits: [B, T, K].
    teacher_taps: Like the student's; constants.
    teacher_logits: [B, T, K]; constants.
    mask: [B] float, 1 for lines that count.
    scale: Multiplies the sum: where a schedule has come to.

  Returns:
    [] float32, and by name (`distil_logit`, `distil_fsp`, `distil_attention`,
    `distil_feature`) each loss times the number of lines, and that number;
    neither weights nor `scale` are in it.

  Raises:
    ValueError: For an unknown tap, or sizes that do not divide.
  """
  taps = (student_taps, teacher_taps)
  terms = {}
  if config.logit:
    terms["logit"] = ctc_logit_kl(
      student_logits, teacher_logits, mask=mask, temperature=config.temperature
    )
  if config.fsp:
    terms["fsp"] = relative_fsp_loss(*taps, pairs=config.pairs, mask=mask)
  if config.attention:
    terms["attention"] = attention_transfer(
      *taps, names=config.names, mask=mask
    )
  if config.feature:
    terms["feature"] = feature_mse(*taps, names=config.names, mask=mask)
  total = jnp.zeros((), jnp.float32)
  for name, term in terms.items():
    total += getattr(config, name) * term
  count = jnp.sum(mask.astype(jnp.float32))
  metrics = {f"distil_{name}": (t * count, count) for name, t in terms.items()}
  return jnp.asarray(scale, jnp.float32) * total, metrics


def _both(
  student_taps: Taps, teacher_taps: Taps, name: str
) -> tuple[jax.Array, jax.Array]:
  """The student's and the teacher's features of one tap, in float32."""
  for whose, taps in (("student", student_taps), ("teacher", teacher_taps)):
    if name not in taps:
      raise ValueError(
        f"the {whose} has no tap {name!r}; choose from {', '.join(taps)}"
      )
    chex.assert_rank(taps[name], 4)
  teacher = lax.stop_gradient(teacher_taps[name])
  return student_taps[name].astype(jnp.float32), teacher.astype(jnp.float32)


def _mean_square(values: jax.Array, mask: jax.Array) -> jax.Array:
  return _masked_mean(jnp.square(values), mask)


def _masked_mean(values: jax.Array, mask: jax.Array) -> jax.Array:
  """Mean of [B, ...] over all of the lines that count; 0 if there are none."""
  per_line = jnp.mean(values, axis=tuple(range(1, values.ndim)))
  chex.assert_equal_shape((per_line, mask))
  mask = mask.astype(jnp.float32)
  return jnp.sum(per_line * mask) / jnp.maximum(jnp.sum(mask), 1)


def _average(field: str, terms: list[jax.Array]) -> jax.Array:
  if not terms:
    raise ValueError(f"{field}=(); name at least one")
  return sum(terms) / len(terms)
