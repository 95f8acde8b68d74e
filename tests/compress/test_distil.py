"""Distillation losses against the papers' formulas, in NumPy and PyTorch."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import distil

ALL = jnp.ones(3)
CLOSE = {"rtol": 1e-6, "atol": 1e-6}
PAIRS = (("stem", "block0"), ("block0", "block1"))
NAMES = ("stem", "block1")
EVERYTHING = distil.Distillation(
  logit=0.5, fsp=2.0, attention=3.0, feature=0.25, pairs=PAIRS, names=NAMES
)


def make_taps(seed, dtype=np.float32):
  """Three taps; height and width shrink, at different places."""
  rng = np.random.default_rng(seed)
  shapes = {"stem": (4, 6, 2), "block0": (4, 3, 3), "block1": (2, 3, 5)}
  return {
    name: jnp.asarray(rng.normal(0.3, 1, (3, *shape)), dtype)
    for name, shape in shapes.items()
  }


def make_logits(seed, dtype=np.float32):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(0, 3, (3, 4, 5)), dtype)


def wide(array):
  return np.asarray(array, np.float64)


def numpy_pool(x, rows, columns):
  high, long = x.shape[1] // rows, x.shape[2] // columns
  pooled = np.empty((x.shape[0], rows, columns, x.shape[3]))
  for i, j in np.ndindex(rows, columns):
    window = x[:, i * high : (i + 1) * high, j * long : (j + 1) * long]
    pooled[:, i, j] = window.mean(axis=(1, 2))
  return pooled


def numpy_fsp(entry, exit):
  entry, exit = wide(entry), wide(exit)
  size = np.minimum(entry.shape[1:3], exit.shape[1:3])
  entry, exit = numpy_pool(entry, *size), numpy_pool(exit, *size)
  matrix = np.zeros((len(entry), entry.shape[3], exit.shape[3]))
  for s, t in np.ndindex(*size):  # Eq. 1, position by position.
    matrix += entry[:, s, t, :, None] * exit[:, s, t, None, :]
  return matrix / size.prod()


def numpy_attention(features):
  energy = (wide(features) ** 2).sum(-1).reshape(len(features), -1)
  return energy / np.linalg.norm(energy, axis=1, keepdims=True)


def all_losses(student, teacher, mask):
  """Every loss by name; the logits are always the same."""
  taps = (student, teacher)
  logits = (make_logits(2), make_logits(3))
  return {
    "fsp": distil.fsp_loss(*taps, pairs=PAIRS, mask=mask),
    "relative": distil.relative_fsp_loss(*taps, pairs=PAIRS, mask=mask),
    "attention": distil.attention_transfer(*taps, names=NAMES, mask=mask),
    "feature": distil.feature_mse(*taps, names=NAMES, mask=mask),
    "logit": distil.ctc_logit_kl(*logits, mask=mask, temperature=2.0),
  }


def combine(config=EVERYTHING, *, seeds=(0, 1), mask=ALL, scale=1.0, **given):
  """`distillation_loss` of random networks, with some arguments replaced."""
  arguments = {
    "student_taps": make_taps(seeds[0]),
    "student_logits": make_logits(seeds[0]),
    "teacher_taps": make_taps(seeds[1]),
    "teacher_logits": make_logits(seeds[1]),
  } | given
  return distil.distillation_loss(config, mask=mask, scale=scale, **arguments)


def test_fsp_matrix_by_hand():
  entry = jnp.array([[[[1.0, 2.0], [3.0, -1.0]]]])  # Two positions.
  exit = jnp.array([[[[1.0, 0.0], [2.0, 1.0]]]])
  np.testing.assert_array_equal(
    distil.fsp_matrix(entry, exit), [[[3.5, 1.5], [0.0, -0.5]]]
  )


def test_the_larger_map_is_pooled_by_averages():
  entry = jnp.arange(8.0).reshape(1, 2, 4, 1)  # Windows: 2.5 and 4.5.
  exit = jnp.array([[[[1.0], [10.0]]]])
  expected = [[[(2.5 + 45) / 2]]]
  np.testing.assert_array_equal(distil.fsp_matrix(entry, exit), expected)
  np.testing.assert_array_equal(distil.fsp_matrix(exit, entry), expected)


def test_one_map_may_be_higher_and_the_other_longer():
  taps = make_taps(0)
  entry, exit = taps["stem"][:, :2], taps["block0"]  # 2 x 6 and 4 x 3.
  np.testing.assert_allclose(
    distil.fsp_matrix(entry, exit), numpy_fsp(entry, exit), atol=1e-6
  )


def test_pooling_is_that_of_torch():
  torch = pytest.importorskip("torch")
  taps = make_taps(0)
  entry = torch.from_numpy(np.array(taps["stem"])).permute(0, 3, 1, 2)
  exit = torch.from_numpy(np.array(taps["block1"])).permute(0, 3, 1, 2)
  pooled = torch.nn.functional.adaptive_avg_pool2d(entry, exit.shape[2:])
  expected = pooled.flatten(2) @ exit.flatten(2).mT / 6
  np.testing.assert_allclose(
    distil.fsp_matrix(taps["stem"], taps["block1"]), expected, atol=1e-6
  )


def test_equal_maps_give_a_symmetric_gram_matrix():
  features = make_taps(0)["block1"]
  gram = wide(distil.fsp_matrix(features, features))
  np.testing.assert_allclose(gram, gram.transpose(0, 2, 1), atol=1e-6)
  assert np.linalg.eigvalsh(gram).min() > -1e-6


def test_sizes_that_do_not_divide_are_refused():
  message = r"entry \(1, 4, 6, 2\) and exit \(1, 4, 4, 3\).*multiples"
  with pytest.raises(ValueError, match=message):
    distil.fsp_matrix(jnp.ones((1, 4, 6, 2)), jnp.ones((1, 4, 4, 3)))
  with pytest.raises(ValueError, match="multiples"):
    distil.fsp_matrix(jnp.ones((1, 2, 3, 1)), jnp.ones((1, 3, 6, 1)))


@pytest.mark.parametrize("seed", range(3))
def test_fsp_losses_are_the_formulas(seed):
  student, teacher = make_taps(seed), make_taps(seed + 10)
  absolute, relative = [], []
  for entry, exit in PAIRS:
    target = numpy_fsp(teacher[entry], teacher[exit])
    error = np.mean((numpy_fsp(student[entry], student[exit]) - target) ** 2)
    absolute.append(error)
    relative.append(error / (np.mean(target**2) + 1e-6))
  got = all_losses(student, teacher, ALL)
  np.testing.assert_allclose(got["fsp"], np.mean(absolute), **CLOSE)
  np.testing.assert_allclose(got["relative"], np.mean(relative), **CLOSE)


def test_relative_fsp_knows_no_scale():
  student, teacher = make_taps(0), make_taps(1)
  gains = {"stem": 8.0, "block0": 0.5, "block1": 30.0}

  def scaled(taps):
    return {name: gains[name] * x for name, x in taps.items()}

  before = all_losses(student, teacher, ALL)
  after = all_losses(scaled(student), scaled(teacher), ALL)
  # All but for the epsilon, 1e-6 beside mean squares near 0.1.
  np.testing.assert_allclose(after["relative"], before["relative"], rtol=1e-4)
  assert float(after["fsp"]) > 2 * float(before["fsp"])
  silent = jax.tree.map(jnp.zeros_like, student)
  nothing = all_losses(silent, teacher, ALL)
  np.testing.assert_allclose(nothing["relative"], 1, rtol=1e-4)
  # A dead teacher does not divide by zero.
  assert np.isfinite(all_losses(student, silent, ALL)["relative"])


def test_attention_and_features_are_the_formulas():
  student, teacher = make_taps(0), make_taps(1)
  attention, feature = [], []
  for name in NAMES:
    maps = numpy_attention(student[name]), numpy_attention(teacher[name])
    attention.append(np.mean((maps[0] - maps[1]) ** 2))
    feature.append(np.mean((wide(student[name]) - wide(teacher[name])) ** 2))
  got = all_losses(student, teacher, ALL)
  np.testing.assert_allclose(got["attention"], np.mean(attention), rtol=1e-5)
  np.testing.assert_allclose(got["feature"], np.mean(feature), **CLOSE)


def test_attention_by_hand():
  # Energies 9 + 16 = 25 and 0, against 0 and 1: maps (1, 0) and (0, 1).
  student = {"a": jnp.array([[[[3.0, 4.0], [0.0, 0.0]]]])}
  teacher = {"a": jnp.array([[[[0.0], [1.0]]]])}  # Other channels are fine.
  loss = distil.attention_transfer(
    student, teacher, names=("a",), mask=jnp.ones(1)
  )
  assert float(loss) == 1


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_kl_is_that_of_scipy_and_torch(temperature):
  special = pytest.importorskip("scipy.special")
  torch = pytest.importorskip("torch")
  functional = torch.nn.functional
  student, teacher = make_logits(0), make_logits(1)
  got = distil.ctc_logit_kl(student, teacher, mask=ALL, temperature=temperature)
  target, guess = (
    special.softmax(wide(x) / temperature, axis=-1) for x in (teacher, student)
  )
  divergence = special.rel_entr(target, guess).sum(-1).mean()
  np.testing.assert_allclose(got, temperature**2 * divergence, rtol=1e-5)

  rows = [
    torch.from_numpy(np.array(x)).flatten(0, 1) for x in (student, teacher)
  ]
  expected = functional.kl_div(
    functional.log_softmax(rows[0] / temperature, dim=-1),
    functional.softmax(rows[1] / temperature, dim=-1),
    reduction="batchmean",
  )
  np.testing.assert_allclose(got, temperature**2 * expected, rtol=1e-5)


def test_logit_kl_by_hand():
  # (1/2, 1/2) against (1/4, 3/4): log(2) / 2 + log(2/3) / 2.
  loss = distil.ctc_logit_kl(
    jnp.log(jnp.array([[[1.0, 3.0]]])),
    jnp.zeros((1, 1, 2)),
    mask=jnp.ones(1),
    temperature=1.0,
  )
  np.testing.assert_allclose(loss, 0.5 * np.log(4 / 3), rtol=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_logit_gradient_is_the_difference_of_the_odds(temperature):
  student, teacher = make_logits(0), make_logits(1)
  gradient = jax.grad(distil.ctc_logit_kl)(
    student, teacher, mask=ALL, temperature=temperature
  )
  odds = [jax.nn.softmax(x / temperature) for x in (student, teacher)]
  frames = student.shape[0] * student.shape[1]
  np.testing.assert_allclose(
    gradient, temperature * (odds[0] - odds[1]) / frames, atol=1e-6
  )


def test_hopeless_frames_stay_finite():
  student = jnp.array([[[1e4, 0.0, -1e4]]])
  loss, gradient = jax.value_and_grad(distil.ctc_logit_kl)(
    student, -student, mask=jnp.ones(1), temperature=1.0
  )
  assert float(loss) == 2e4 and np.isfinite(gradient).all()


def test_a_student_like_its_teacher_has_nothing_to_learn():
  taps, logits = make_taps(0), make_logits(0)

  def loss(student_taps, student_logits):
    return combine(
      student_taps=student_taps,
      student_logits=student_logits,
      teacher_taps=taps,
      teacher_logits=logits,
    )[0]

  value_and_grad = jax.jit(jax.value_and_grad(loss, argnums=(0, 1)))
  value, gradients = value_and_grad(taps, logits)
  np.testing.assert_allclose(value, 0, atol=1e-7)
  for gradient in jax.tree.leaves(gradients):
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_empty_maps_have_finite_gradients():
  silent = jax.tree.map(jnp.zeros_like, make_taps(0))
  gradient = jax.jit(jax.grad(lambda taps: combine(student_taps=taps)[0]))
  gradients = gradient(silent)
  assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_no_gradient_reaches_the_teacher():
  arguments = {
    "student_taps": make_taps(0),
    "student_logits": make_logits(0),
    "teacher_taps": make_taps(1),
    "teacher_logits": make_logits(1),
  }
  for field in ("logit", "fsp", "attention", "feature", "absolute fsp"):

    def loss(given, field=field):
      if field == "absolute fsp":
        taps = given["student_taps"], given["teacher_taps"]
        return distil.fsp_loss(*taps, pairs=PAIRS, mask=ALL)
      off = dict.fromkeys(("logit", "fsp", "attention", "feature"), 0.0)
      config = dataclasses.replace(EVERYTHING, **off | {field: 1.0})
      return combine(config, **given)[0]

    gradients = jax.jit(jax.grad(loss))(arguments)
    teacher = gradients["teacher_taps"], gradients["teacher_logits"]
    student = gradients["student_taps"], gradients["student_logits"]
    assert not any(np.any(g) for g in jax.tree.leaves(teacher)), field
    assert any(np.any(g) for g in jax.tree.leaves(student)), field


def test_masked_lines_count_nowhere():
  whole = {
    "student_taps": make_taps(0),
    "student_logits": make_logits(0),
    "teacher_taps": make_taps(1),
    "teacher_logits": make_logits(1),
  }
  spoilt = jax.tree.map(lambda x: x.at[1].multiply(100), whole)
  fewer = jax.tree.map(lambda x: x[jnp.array([0, 2])], whole)
  mask = jnp.array([1.0, 0.0, 1.0])

  def losses(given, mask):
    taps = given["student_taps"], given["teacher_taps"]
    loss, metrics = combine(mask=mask, **given)
    loss += distil.fsp_loss(*taps, pairs=PAIRS, mask=mask)
    return loss, metrics

  step = jax.jit(jax.value_and_grad(losses, has_aux=True))
  (loss, metrics), gradients = step(spoilt, mask)
  (expected, few), _ = step(fewer, jnp.ones(2))
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for name, (total, count) in metrics.items():
    np.testing.assert_allclose(total, few[name][0], rtol=1e-5)
    assert float(count) == 2
  for field in ("student_taps", "student_logits"):
    for gradient in jax.tree.leaves(gradients[field]):
      assert not gradient[1].any()
      assert gradient[0].any() and gradient[2].any()


def test_a_batch_of_masked_lines_gives_zero():
  loss, metrics = combine(mask=jnp.zeros(3))
  assert float(loss) == 0
  assert all(float(v) == 0 for pair in metrics.values() for v in pair)


def test_bfloat16_gives_the_float32_loss_of_its_values():
  narrow = {
    "student_taps": make_taps(0, jnp.bfloat16),
    "student_logits": make_logits(0, jnp.bfloat16),
    "teacher_taps": make_taps(1, jnp.bfloat16),
    "teacher_logits": make_logits(1, jnp.bfloat16),
  }
  exact = jax.tree.map(lambda x: x.astype(jnp.float32), narrow)
  step = jax.jit(jax.value_and_grad(lambda g: combine(**g), has_aux=True))
  (loss, metrics), gradients = step(narrow)
  (expected, _), _ = step(exact)
  assert loss.dtype == jnp.float32
  assert {v.dtype for v in jax.tree.leaves(metrics)} == {jnp.dtype("float32")}
  np.testing.assert_allclose(loss, expected, rtol=1e-5)
  for gradient in jax.tree.leaves(gradients):
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(wide(gradient)).all()
  taps = narrow["student_taps"]
  matrix = distil.fsp_matrix(taps["stem"], taps["block0"])
  assert matrix.dtype == jnp.float32
  np.testing.assert_allclose(
    matrix, numpy_fsp(taps["stem"], taps["block0"]), atol=1e-6
  )


def test_the_whole_is_the_weighted_sum_of_its_parts():
  loss, metrics = combine(scale=0.5)
  logits = make_logits(0), make_logits(1)
  parts = all_losses(make_taps(0), make_taps(1), ALL)
  parts["logit"] = distil.ctc_logit_kl(*logits, mask=ALL, temperature=2.0)
  expected = 0.5 * (
    0.5 * parts["logit"]
    + 2 * parts["relative"]
    + 3 * parts["attention"]
    + 0.25 * parts["feature"]
  )
  np.testing.assert_allclose(loss, expected, **CLOSE)
  means = {name: float(s / n) for name, (s, n) in metrics.items()}
  assert means == pytest.approx(
    {
      "distil_logit": float(parts["logit"]),
      "distil_fsp": float(parts["relative"]),
      "distil_attention": float(parts["attention"]),
      "distil_feature": float(parts["feature"]),
    },
    rel=1e-6,
  )


def test_what_is_off_is_not_computed():
  # Without taps any other loss would raise.
  empty = {"student_taps": {}, "teacher_taps": {}}
  loss, metrics = combine(distil.Distillation(), **empty)
  assert list(metrics) == ["distil_logit"] and float(loss) > 0
  off = distil.Distillation(logit=0.0)
  off.validate()
  loss, metrics = combine(off, **empty)
  assert (float(loss), metrics, loss.dtype) == (0, {}, jnp.float32)


def test_jit_changes_nothing():
  mask, scale = jnp.array([1.0, 1.0, 0.0]), jnp.float32(0.3)
  plain = combine(mask=mask, scale=scale)
  jitted = jax.jit(lambda mask, scale: combine(mask=mask, scale=scale))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **CLOSE),
    plain,
    jitted(mask, scale),
  )


@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_unknown_taps_are_named_with_the_known_ones(whose):
  taps = {"student_taps": make_taps(0), "teacher_taps": make_taps(1)}
  del taps[f"{whose}_taps"]["block1"]
  message = f"the {whose} has no tap 'block1'; choose from stem, block0"
  for call in (distil.fsp_loss, distil.relative_fsp_loss):
    with pytest.raises(ValueError, match=message):
      call(*taps.values(), pairs=PAIRS, mask=ALL)
    with pytest.raises(ValueError, match=r"pairs=\(\)"):
      call(*taps.values(), pairs=(), mask=ALL)
  for call in (distil.attention_transfer, distil.feature_mse):
    with pytest.raises(ValueError, match=message):
      call(*taps.values(), names=NAMES, mask=ALL)
    with pytest.raises(ValueError, match=r"names=\(\)"):
      call(*taps.values(), names=(), mask=ALL)


def test_shapes_that_would_broadcast_are_refused():
  student, teacher = make_taps(0), make_taps(1)
  teacher["stem"] = teacher["stem"][..., :1]
  for call in (distil.fsp_loss, distil.relative_fsp_loss):
    with pytest.raises(AssertionError):
      call(student, teacher, pairs=PAIRS, mask=ALL)
  with pytest.raises(AssertionError):
    distil.feature_mse(student, teacher, names=NAMES, mask=ALL)
  teacher["stem"] = teacher["stem"][:, :, :1]
  with pytest.raises(AssertionError):
    distil.attention_transfer(student, teacher, names=NAMES, mask=ALL)
  with pytest.raises(AssertionError):
    distil.feature_mse(student, student, names=NAMES, mask=jnp.ones(1))
  logits = make_logits(0)
  with pytest.raises(AssertionError):
    distil.ctc_logit_kl(logits, logits[:, :1], mask=ALL, temperature=1.0)


@pytest.mark.parametrize(
  "fields, message",
  [
    ({"logit": -1.0}, "logit=-1.0; a weight is"),
    ({"feature": float("nan")}, "feature=nan; a weight is"),
    ({"attention": float("inf")}, "attention=inf; a weight is"),
    ({"fsp": 1.0}, r"pairs=\(\) with fsp=1.0; name at least one or set fsp=0"),
    ({"attention": 2.0}, r"names=\(\) with attention=2.0"),
    ({"feature": 1.0}, r"names=\(\) with feature=1.0"),
    ({"temperature": 0.0}, "temperature=0.0; must be positive"),
  ],
)
def test_a_config_that_cannot_work_is_refused(fields, message):
  distil.Distillation().validate()
  EVERYTHING.validate()
  with pytest.raises(ValueError, match=message):
    distil.Distillation(**fields).validate()
