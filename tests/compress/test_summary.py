"""What parameters occupy: sums that can be checked by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from jaxocr.compress import affine
from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.compress import summary

# 80 one-bit weights in 8 channels, 24 bytes of int8, floats.
PARAMS = {
  "backbone": {
    "conv": {"binary_kernel": jnp.ones((10, 8))},
    "norm": {"offset": jnp.ones(8)},
  },
  "backbone_twin": {"kernel": jnp.ones((2, 3))},
  "head": {"kernel": jnp.ones((4, 6)), "bias": jnp.ones(6)},
  "temperature": jnp.ones(()),
}
RULES = (
  (".*/binary_kernel", specs.Binary()),
  ("head/kernel", specs.Affine(affine.Grid(bits=8))),
  ("temperature", specs.Float()),
  (".*", specs.Float("float16")),
)
BYTES = {
  "backbone/conv/binary_kernel": 8 * 2 + 8 * 2,
  "backbone/norm/offset": 16,
  "backbone_twin/kernel": 12,
  "head/kernel": 24 + 12,
  "head/bias": 12,
  "temperature": 4,
}


def test_the_network_of_larqs_documentation():
  """864 one-bit weights and 32 others are 236 bytes, in float32 3.5 KiB."""
  params = {
    "conv": {"binary_kernel": jnp.ones((3, 3, 3, 32))},
    "norm": {"bias": jnp.ones(32)},
  }
  recipe = (
    (".*/binary_kernel", specs.Binary(scaled=False)),
    (".*", specs.Float()),
  )
  found = summary.summary(params, recipe)
  parts = found.by_form()
  assert parts["bit"].count == 864 and parts["float32"].count == 32
  # Each of the 32 channels has 27 bits, here in four bytes of its own.
  assert parts["bit"].nbytes == 32 * 4
  assert parts["float32"].nbytes == 128
  assert found.float_nbytes == 3584
  # As many in channels that fill their bytes.
  params["conv"]["binary_kernel"] = jnp.ones((3, 3, 8, 12))
  assert summary.summary(params, recipe).nbytes == 236


def test_sums():
  found = summary.summary(PARAMS, RULES)
  assert {row.path: row.nbytes for row in found.rows} == BYTES
  assert found.nbytes == sum(BYTES.values())
  assert found.count == 80 + 8 + 6 + 24 + 6 + 1
  assert found.float_nbytes == 4 * found.count
  assert found.ratio == pytest.approx(4 * 125 / sum(BYTES.values()))


def test_below_is_of_whole_names():
  found = summary.summary(PARAMS, RULES)
  backbone = found.below("backbone")
  assert [row.path for row in backbone.rows] == [
    "backbone/conv/binary_kernel",
    "backbone/norm/offset",
  ]
  assert backbone.nbytes == 32 + 16
  assert found.below("backbone/conv").count == 80
  assert found.below("nowhere").rows == ()


def test_the_largest_form_comes_first():
  parts = summary.summary(PARAMS, RULES).by_form()
  assert [(form, part.count) for form, part in parts.items()] == [
    ("bit", 80),
    ("int8", 24),
    ("float16", 20),
    ("float32", 1),
  ]


def test_of_what_is_packed():
  packed = rules.pack(PARAMS, RULES)
  assert summary.summarise(packed) == summary.summary(PARAMS, RULES)
  held = sum(leaf.nbytes for leaf in jax.tree.leaves(packed))
  assert summary.summarise(packed).nbytes == held


def test_nothing_is_computed():
  shapes = jax.eval_shape(lambda: PARAMS)
  assert summary.summary(shapes, RULES) == summary.summary(PARAMS, RULES)


def test_rules_are_matched():
  with pytest.raises(ValueError, match="no rule covers backbone/norm/offset"):
    summary.summary(PARAMS, RULES[:-1])


MACS = {
  "backbone/conv/binary_kernel": {"bit": 1500, "float": 100},
  "head/kernel": {"float": 24},
  "backbone_twin/kernel": {"int8": 60},
}


def test_precision_is_that_of_weights_and_features():
  found = summary.summary(PARAMS, RULES, MACS)
  assert found.macs == 1684
  assert found.macs_by_precision == {
    "bit x bit": 1500,
    "bit x float": 100,
    "float x int8": 60,  # Stored as float16.
    "int8 x float": 24,
  }
  rows = {row.path: row for row in found.rows}
  assert rows["backbone/conv/binary_kernel"].macs == 1600
  assert rows["head/kernel"].macs_by_precision == {"int8 x float": 24}
  assert rows["head/bias"].macs == 0 and not rows["head/bias"].macs_by_precision
  assert found.below("backbone").macs_by_precision == {
    "bit x bit": 1500,
    "bit x float": 100,
  }


def test_table():
  lines = summary.summary(PARAMS, RULES, MACS).table().split("\n")
  words = [" ".join(line.split()) for line in lines]
  assert words == [
    "parameter shape form count bytes MACs of",
    "backbone/conv/binary_kernel 10x8 bit 80 32 1,600 bit x bit, bit x float",
    "backbone/norm/offset 8 float16 8 16",
    "backbone_twin/kernel 2x3 float16 6 12 60 float x int8",
    "head/bias 6 float16 6 12",
    "head/kernel 4x6 int8 24 36 24 int8 x float",
    "temperature 1 float32 1 4",
    "all bit bit 80 32 1,600",
    "all int8 int8 24 36 24",
    "all float16 float16 20 40 60",
    "all float32 float32 1 4",
    "all MACs 1,500 bit x bit, 89.1%",
    "all MACs 100 bit x float, 5.9%",
    "all MACs 60 float x int8, 3.6%",
    "all MACs 24 int8 x float, 1.4%",
    "all 125 112 1,684",
    "500 bytes in float32, 112 packed: 4.5 times smaller",
  ]
  # Columns of numbers end in one place.
  ends = {line.index("bytes") + len("bytes") for line in lines[:1]}
  assert {line.rindex("32") + 2 for line in lines[1:2]} == ends


def test_unknown_macs_are_left_empty():
  found = summary.summary(PARAMS, RULES)
  assert found.macs == 0 and found.macs_by_precision == {}
  assert found.table().split("\n")[-2].split() == ["all", "125", "112"]


def test_codebooks_are_told_apart_from_codes():
  params = {"conv": {"kernel": jnp.ones((3, 3, 16, 32))}}
  packed = rules.pack(params, ((".*", specs.Codebook(4, 8)),))
  tensor = packed["conv"]["kernel"]
  packed["conv"]["kernel"] = dataclasses.replace(tensor, errors=(0.25, 0.0625))
  found = summary.summarise(packed)
  # 16 channels of 8 float16; 4 codes of three bits a tap and output.
  assert found.rows[0].codebook == summary.CodebookRow(
    4, 8, 256, 432, (0.25, 0.0625)
  )
  assert found.nbytes == 256 + 432
  words = [" ".join(line.split()) for line in found.table().split("\n")]
  assert words == [
    "parameter shape form count bytes MACs of",
    "conv/kernel 3x3x16x32 pq4x8 4,608 688",
    "all pq4x8 pq4x8 4,608 688",
    "all 4,608 688",
    "codebooks d K codebooks codes ratio error before",
    "conv/kernel 4 8 256 432 26.8 6.25% 25.00%",
    "18,432 bytes in float32, 688 packed: 26.8 times smaller",
  ]
  # Before anything is computed no error is known.
  shapes = summary.summary(params, ((".*", specs.Codebook(4, 8)),))
  assert shapes.rows[0].codebook.errors is None
  assert "26.8\n18,432" in shapes.table()
