"""Weights moved from one network to another: every leaf is accounted for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import transfer


def tree(value, head=3, dtype=jnp.float32):
  return {
    "backbone": {"kernel": jnp.full((2, 2), value, dtype)},
    "head": {
      "kernel": jnp.full((2, head), value, dtype),
      "bias": jnp.full(head, value, dtype),
    },
  }


def fates(moved):
  return {m.path: (m.fate, m.reason) for m in moved}


def test_all_is_copied():
  source, target = tree(1.0), tree(0.0)
  found, moved = transfer.transfer(source, target)
  jax.tree.map(np.testing.assert_array_equal, found, source)
  assert jax.tree.structure(found) == jax.tree.structure(target)
  assert [m.path for m in moved] == [
    "backbone/kernel",
    "head/bias",
    "head/kernel",
  ]
  assert set(fates(moved).values()) == {(transfer.COPIED, "")}
  assert transfer.describe(moved) == "3 of 3 leaves copied"


def test_what_is_asked_for_stays_as_initialised():
  # The heads differ in shape, and one has a leaf that the other has not.
  source, target = tree(1.0, head=5), tree(0.0)
  source["head"]["gain"] = jnp.ones(1)
  target["head"]["scale"] = jnp.zeros(1)
  found, moved = transfer.transfer(
    source, target, fresh={"head/.*": "other letters"}
  )
  np.testing.assert_array_equal(found["backbone"]["kernel"], np.ones((2, 2)))
  assert found["head"].keys() == {"kernel", "bias", "scale"}
  assert found["head"]["kernel"] is target["head"]["kernel"]
  fresh = (transfer.FRESH, "other letters")
  assert fates(moved) == {
    "backbone/kernel": (transfer.COPIED, ""),
    "head/bias": fresh,
    "head/kernel": fresh,
    "head/scale": fresh,
  }
  assert transfer.describe(moved).split("\n") == [
    "1 of 4 leaves copied",
    "  head/bias re-initialised: other letters",
    "  head/kernel re-initialised: other letters",
    "  head/scale re-initialised: other letters",
  ]


def test_the_first_regex_that_names_a_leaf_is_told():
  _, moved = transfer.transfer(
    tree(1.0), tree(0.0), fresh={"head/bias": "one", "head/.*": "other"}
  )
  assert fates(moved)["head/bias"][1] == "one"
  assert fates(moved)["head/kernel"][1] == "other"


def test_the_dtype_is_the_targets():
  found, _ = transfer.transfer(
    tree(1.5, dtype=jnp.float32), tree(0.0, dtype=jnp.bfloat16)
  )
  assert all(leaf.dtype == jnp.bfloat16 for leaf in jax.tree.leaves(found))


def test_trees_of_several_parts():
  # As a run gives them: parameters and collections.
  source = (tree(1.0), {"batch_stats": {"mean": jnp.ones(2)}})
  target = (tree(0.0), {"batch_stats": {"mean": jnp.zeros(2)}})
  found, moved = transfer.transfer(source, target)
  jax.tree.map(np.testing.assert_array_equal, found, source)
  assert moved[-1].path == "1/batch_stats/mean"


def test_every_misfit_is_named_at_once():
  source, target = tree(1.0, head=5), tree(0.0)
  source["old"] = jnp.ones(1)
  target["new"] = jnp.ones(1)
  with pytest.raises(transfer.TransferError) as error:
    transfer.transfer(source, target)
  text = str(error.value)
  for fault in (
    "old of the source is not in the target",
    "new (1,) is not in the source",
    "head/kernel is (2, 5), wanted (2, 3)",
    "head/bias is (5,), wanted (3,)",
  ):
    assert fault in text
  assert "backbone" not in text
  assert text.endswith("name what shall be re-initialised in `fresh`")


@pytest.mark.parametrize("pattern", ["heads/.*", "head", "head/kerne"])
def test_a_regex_that_names_nothing_is_an_error(pattern):
  with pytest.raises(transfer.TransferError, match="names no parameter"):
    transfer.transfer(tree(1.0), tree(0.0), fresh={pattern: "so"})


def test_a_regex_for_another_leaf_excuses_nothing():
  source, target = tree(1.0, head=5), tree(0.0)
  with pytest.raises(transfer.TransferError, match=r"head/kernel is \(2, 5\)"):
    transfer.transfer(source, target, fresh={"head/bias": "so"})


def test_leaves_derived_from_the_source_are_no_copies():
  trained, target = tree(1.0), tree(0.0)
  target["head"]["kernel_step"] = jnp.zeros(3)
  source = {**trained, "head": {**trained["head"], "kernel_step": jnp.ones(3)}}
  found, moved = transfer.transfer(source, target)
  np.testing.assert_array_equal(found["head"]["kernel_step"], np.ones(3))
  moved = transfer.derived(moved, trained, "set from its kernel")
  assert transfer.describe(moved).split("\n") == [
    "3 of 4 leaves copied",
    "  head/kernel_step re-initialised: set from its kernel",
  ]
