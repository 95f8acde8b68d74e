"""Rules: first match wins, nothing is left over, nothing is taken twice."""

import json

import hypothesis
from hypothesis import strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import affine
from jaxocr.compress import packed
from jaxocr.compress import rules
from jaxocr.compress import specs

PARAMS = {
  "backbone": {
    "block0": {"binary_kernel": jnp.array([[0.5, -1.5]]), "bias": jnp.ones(2)}
  },
  "head": {"kernel": jnp.ones((2, 2))},
}


def test_only_the_latent_kernels_become_binary():
  out = rules.fake(PARAMS, rules.BINARY_KERNELS)
  np.testing.assert_array_equal(
    out["backbone"]["block0"]["binary_kernel"], [[0.5, -1.5]]
  )
  np.testing.assert_array_equal(out["backbone"]["block0"]["bias"], [1, 1])
  wide = {
    "a": {"binary_kernel": jnp.array([[1.0], [-3.0]]), "bias": jnp.ones(1)}
  }
  out = rules.fake(wide, rules.BINARY_KERNELS)
  np.testing.assert_array_equal(out["a"]["binary_kernel"], [[2.0], [-2.0]])


def test_first_match_wins():
  recipe = (("head/.*", specs.Float()), (".*", specs.Binary()))
  found = rules.match(PARAMS, recipe)
  assert found["head"]["kernel"] == specs.Float()
  assert found["backbone"]["block0"]["bias"] == specs.Binary()


def test_what_is_shipped():
  params = {
    "backbone": {"conv": {"binary_kernel": 0}, "norm": {"offset": 0}},
    "bilstm": {"forward_input_kernel": 0, "forward_bias": 0},
    "head": {"kernel": 0},
  }
  found = rules.match(params, rules.BINARY_SHIPPED)
  assert found == {
    "backbone": {
      "conv": {"binary_kernel": specs.Binary()},
      "norm": {"offset": specs.Float("float16")},
    },
    "bilstm": {
      "forward_input_kernel": specs.Affine(),
      "forward_bias": specs.Float("float16"),
    },
    "head": {"kernel": specs.Affine()},
  }


@pytest.mark.parametrize("use", [rules.match, rules.fake, rules.pack])
def test_a_parameter_without_a_rule_is_named(use):
  with pytest.raises(ValueError, match="no rule covers head/kernel"):
    use(PARAMS, (("backbone/.*", specs.Float()),))


@pytest.mark.parametrize("use", [rules.match, rules.fake, rules.pack])
def test_a_rule_without_a_parameter_is_named(use):
  recipe = (("stem/.*", specs.Binary()), (".*", specs.Float()))
  with pytest.raises(ValueError, match=r"rules stem/\.\* match no parameter"):
    use(PARAMS, recipe)


def test_a_rule_whose_parameters_were_taken_is_named():
  recipe = ((".*", specs.Float()), ("head/.*", specs.Binary()))
  with pytest.raises(ValueError, match=r"rules head/\.\* match no parameter"):
    rules.match(PARAMS, recipe)


def test_a_pattern_matches_the_whole_path():
  with pytest.raises(ValueError, match="match no parameter"):
    rules.match(PARAMS, (("head", specs.Binary()), (".*", specs.Float())))


GRIDS = st.builds(
  affine.Grid,
  bits=st.integers(2, 8),
  symmetric=st.booleans(),
  rounding=st.sampled_from(["even", "away"]),
  zero_point_order=st.sampled_from(["after", "before"]),
)
SPECS = st.one_of(
  st.builds(specs.Float, st.sampled_from([None, "float16", "bfloat16"])),
  st.builds(specs.Binary, through_scale=st.booleans(), scaled=st.booleans()),
  st.builds(specs.Ternary, st.sampled_from([None, 0.05, 0.0])),
  st.builds(specs.DoReFa, st.integers(2, 8)),
  st.builds(specs.Affine, GRIDS, st.booleans()),
  st.builds(specs.LSQ, st.integers(2, 8)),
)


def kernel(shape, *, seed, size, dtype="float32"):
  """Normal but for some zeros, ties and one far away."""
  rng = np.random.default_rng(seed)
  values = rng.normal(size=shape) * size
  values = np.where(rng.random(shape) < 0.1, 0, values)
  values = np.where(rng.random(shape) < 0.1, -size, values)
  values.flat[0] *= 30
  return jnp.asarray(values, dtype)


# Few, as each compiles: of one axis, odd, and with more bits than a byte has.
SHAPES = st.sampled_from([(3,), (5, 1), (2, 2, 3, 3)])


def stepped(params, recipe):
  """With steps that have moved from where they began."""
  bare = tuple(rule for rule in recipe if rule[0] != r".*_step")
  whole = rules.with_steps(params, bare)
  leaves = jax.tree_util.tree_leaves_with_path(params)
  begun = {rules.path_name(path) for path, _ in leaves}
  return jax.tree_util.tree_map_with_path(
    lambda p, x: x if rules.path_name(p) in begun else 0.7 * x, whole
  )


def bits_of(x):
  return np.asarray(x).view(f"uint{8 * x.dtype.itemsize}")


def assert_same_bits(found, expected):
  assert jax.tree.structure(found) == jax.tree.structure(expected)
  pairs = zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
  for a, b in pairs:
    assert (a.dtype, a.shape) == (b.dtype, b.shape)
    np.testing.assert_array_equal(bits_of(a), bits_of(b))


@hypothesis.given(
  st.lists(st.tuples(SPECS, SHAPES), min_size=1, max_size=2),
  st.integers(0, 999),
  st.sampled_from([1e-6, 0.1, 1.0, 300.0]),
  st.sampled_from(["float32", "bfloat16"]),
)
@hypothesis.settings(deadline=None, max_examples=30, derandomize=True)
def test_training_computes_with_what_is_stored(leaves, seed, size, dtype):
  params = {
    f"p{i}": {"w": kernel(shape, seed=seed + i, size=size, dtype=dtype)}
    for i, (_, shape) in enumerate(leaves)
  }
  recipe = tuple((f"p{i}/w", spec) for i, (spec, _) in enumerate(leaves))
  recipe = (*recipe, (r".*_step", specs.Float()))
  if not any(isinstance(spec, specs.LSQ) for spec, _ in leaves):
    recipe = recipe[:-1]
  params = stepped(params, recipe)
  assert_same_bits(
    rules.unpack(rules.pack(params, recipe)), rules.fake(params, recipe)
  )


EVERY = {
  "float": specs.Float(),
  "float16": specs.Float("float16"),
  "bfloat16": specs.Float("bfloat16"),
  "binary": specs.Binary(),
  "through": specs.Binary(through_scale=True),
  "bare": specs.Binary(scaled=False),
  "ternary": specs.Ternary(),
  "ternary_fixed": specs.Ternary(0.05),
  "dorefa": specs.DoReFa(3),
  "int8": specs.Affine(),
  "int4": specs.Affine(affine.Grid(bits=4, symmetric=False), False),
  "lsq4": specs.LSQ(4),
  "pq": specs.Codebook(2, 2),
}
EVERY_RULE = (*EVERY.items(), (r".*_step", specs.Float()))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_training_computes_with_what_is_stored(dtype):
  params = {
    name: kernel((3, 3, 7, 5), seed=i, size=0.3, dtype=dtype)
    for i, name in enumerate(EVERY)
  }
  params = stepped(params, EVERY_RULE)

  @jax.jit
  def fake(params):
    return rules.fake(params, EVERY_RULE)

  stored = rules.pack(params, EVERY_RULE)
  compiled = jax.jit(lambda p: rules.pack(p, EVERY_RULE))(params)
  assert_same_bits(compiled, stored)
  assert_same_bits(fake(params), rules.unpack(stored))


def test_float_forms_round_and_let_the_gradient_pass():
  x = jnp.array([1 / 3, 1e6, -1e6, 0.5])
  spec = specs.Float("float16")
  # The largest float16 rather than infinity.
  expected = np.float32([np.float16(1 / 3), 65504, -65504, 0.5])
  for fake in (spec.fake, jax.jit(spec.fake)):
    np.testing.assert_array_equal(fake(x), expected)
    gradient = jax.grad(lambda x, f=fake: jnp.sum(f(x) * jnp.arange(1.0, 5)))(x)
    np.testing.assert_array_equal(gradient, [1, 2, 3, 4])
  assert specs.Float().fake(x) is x


@pytest.mark.parametrize("hardness", [0.0, 0.25, 1.0])
def test_hardness_mixes_every_form(hardness):
  params = {
    name: kernel((4, 3), seed=i, size=0.3) for i, name in enumerate(EVERY)
  }
  params = stepped(params, EVERY_RULE)
  hard = rules.fake(params, EVERY_RULE)

  @jax.jit
  def mixed(params, hardness):
    return rules.fake(params, EVERY_RULE, hardness)

  for found in (
    mixed(params, jnp.float32(hardness)),
    rules.fake(params, EVERY_RULE, hardness),
  ):
    if hardness == 1:
      assert_same_bits(found, hard)
    assert found.keys() == EVERY.keys()
    for name in EVERY:
      expected = hardness * hard[name] + (1 - hardness) * params[name]
      np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6)


def test_half_hard_gradients_are_mixed_too():
  params = {"binary_kernel": jnp.array([[0.5], [-2.0]])}
  recipe = ((".*", specs.Binary()),)

  def total(params, hardness):
    return jnp.sum(rules.fake(params, recipe, hardness)["binary_kernel"])

  # Beyond 1 nothing passes the sign, all passes the kernel itself.
  for hardness, expected in ((0.0, [1, 1]), (0.25, [1, 0.75]), (1.0, [1, 0])):
    gradient = jax.grad(total)(params, jnp.float32(hardness))
    np.testing.assert_allclose(gradient["binary_kernel"][:, 0], expected)


LSQ_RULES = ((r"lstm/\w*kernel", specs.LSQ(4)), *rules.ALL_FLOAT)


def lstm():
  return {
    "lstm": {
      "in_kernel": kernel((5, 3), seed=0, size=0.1),
      "bias": jnp.ones(3),
    },
    "head": {"kernel": jnp.ones((3, 1))},
  }


def test_a_step_begins_beside_what_it_is_of():
  params = lstm()
  found = rules.with_steps(params, LSQ_RULES)
  # By hand: the largest magnitude of a column is 7 steps.
  expected = np.abs(params["lstm"]["in_kernel"]).max(0) / 7 + 1e-6
  step = found["lstm"].pop("in_kernel_step")
  np.testing.assert_allclose(step, expected, rtol=1e-6)
  assert_same_bits(found, params)
  assert_same_bits(rules.with_steps(params, rules.ALL_FLOAT), params)


@pytest.mark.parametrize("recipe", [LSQ_RULES, ((".*", specs.LSQ(4)),)])
def test_a_step_that_has_been_learnt_stays(recipe):
  params = rules.with_steps(lstm(), recipe)
  params["lstm"]["in_kernel_step"] = jnp.full(3, 0.25)
  assert_same_bits(rules.with_steps(params, recipe), params)
  values = rules.fake(params, recipe)["lstm"]["in_kernel"]
  np.testing.assert_array_equal(values, np.round(values * 4) / 4)


def test_the_network_has_no_steps():
  params = rules.with_steps(lstm(), LSQ_RULES)
  assert jax.tree.structure(rules.fake(params, LSQ_RULES)) == (
    jax.tree.structure(lstm())
  )
  stored = rules.pack(params, LSQ_RULES)
  kernel = stored["lstm"]["in_kernel"]
  # 15 codes of 4 bits and three scales of 2 bytes.
  assert kernel.form == "int4" and kernel.nbytes == 8 + 6


def test_steps_are_learnt_with_the_parameters():
  params = rules.with_steps(lstm(), LSQ_RULES)

  def loss(params):
    return jnp.sum(rules.fake(params, LSQ_RULES)["lstm"]["in_kernel"] ** 2)

  gradient = jax.grad(loss)(params)["lstm"]
  assert (gradient["in_kernel_step"] != 0).all()
  assert (gradient["in_kernel"] != 0).any()


@pytest.mark.parametrize("use", [rules.fake, rules.pack])
def test_a_missing_step_is_named(use):
  text = "lstm/in_kernel has no in_kernel_step beside it, which LSQ"
  with pytest.raises(ValueError, match=text):
    use(lstm(), LSQ_RULES)


def test_packed_trees_keep_the_names():
  stored = rules.pack(PARAMS, rules.BINARY_SHIPPED)
  kinds = jax.tree.map(
    lambda t: type(t).__name__, stored, is_leaf=packed.is_packed
  )
  assert kinds == {
    "backbone": {
      "block0": {"binary_kernel": "BitTensor", "bias": "FloatTensor"}
    },
    "head": {"kernel": "AffineTensor"},
  }


def test_as_json():
  text = json.dumps(specs.as_json(rules.BINARY_SHIPPED))
  first, second, third = json.loads(text)
  assert first == [
    ".*/binary_kernel",
    "Binary",
    {"through_scale": False, "scaled": True},
  ]
  assert second[1] == "Affine"
  assert second[2]["per_channel"] and second[2]["grid"]["bits"] == 8
  assert third == [".*", "Float", {"storage": "float16"}]
