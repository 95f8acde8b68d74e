"""Rules: first match wins, nothing is left over, nothing is taken twice."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules

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
  recipe = (("head/.*", rules.Float()), (".*", rules.Binary()))
  specs = rules.match(PARAMS, recipe)
  assert specs["head"]["kernel"] == rules.Float()
  assert specs["backbone"]["block0"]["bias"] == rules.Binary()


def test_a_parameter_without_a_rule_is_named():
  with pytest.raises(ValueError, match="no rule covers head/kernel"):
    rules.match(PARAMS, (("backbone/.*", rules.Float()),))


def test_a_rule_without_a_parameter_is_named():
  recipe = (("stem/.*", rules.Binary()), (".*", rules.Float()))
  with pytest.raises(ValueError, match=r"rules stem/\.\* match no parameter"):
    rules.match(PARAMS, recipe)


def test_a_pattern_matches_the_whole_path():
  with pytest.raises(ValueError, match="match no parameter"):
    rules.match(PARAMS, (("head", rules.Binary()), (".*", rules.Float())))
