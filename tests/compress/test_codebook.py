"""Product quantisation: the layout by hand, published sizes, refusals."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import codebook
from jaxocr.compress import packed
from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.compress import summary
from tests.compress import qcnn


def random(shape, seed=0):
  rng = np.random.default_rng(seed)
  return jnp.asarray(rng.normal(size=shape), jnp.float32)


def test_sub_vectors_lie_along_the_input_channels():
  # [1, 2, 5, 3]: two taps, five channels in sub-spaces of 2, 2 and 1.
  kernel = jnp.arange(30.0).reshape(1, 2, 5, 3)
  found = codebook.split(kernel, 2)
  assert found.shape == (3, 2, 3, 2)
  for m, p, o, j in np.ndindex(3, 2, 3, 2):
    channel = 2 * m + j
    expected = kernel[0, p, channel, o] if channel < 5 else 0
    assert found[m, p, o, j] == expected


@pytest.mark.parametrize("shape, d", [((6, 4), 2), ((3, 2, 5, 4), 3)])
def test_joining_is_looking_up(shape, d):
  sets, taps, outputs, _ = codebook.spaces(shape, d)
  books = random((sets, 4, d))
  codes = jax.random.randint(jax.random.key(0), (sets, taps, outputs), 0, 4)
  kernel = codebook.join(books, codes, shape)
  flat = kernel.reshape(taps, shape[-2], outputs)
  for p, c, o in np.ndindex(flat.shape):
    m, j = divmod(c, d)
    assert flat[p, c, o] == books[m, codes[m, p, o], j]
  # Split and joined with a codeword for each vector, a kernel comes back.
  vectors = codebook.split(kernel, d).reshape(sets, taps * outputs, d)
  own = jnp.arange(taps * outputs).reshape(taps, outputs)
  own = jnp.broadcast_to(own, (sets, taps, outputs))
  np.testing.assert_array_equal(codebook.join(vectors, own, shape), kernel)


def test_the_gradient_of_a_codeword_is_the_sum_over_its_uses():
  codes = jnp.array([[[0, 2, 0]]])  # One sub-space, one tap, three outputs.
  slopes = jnp.array([[1.0, 10.0, 100.0], [2.0, 20.0, 200.0]])
  gradient = jax.grad(
    lambda books: jnp.sum(codebook.join(books, codes, (2, 3)) * slopes)
  )(jnp.zeros((1, 3, 2)))
  np.testing.assert_array_equal(gradient[0], [[101, 202], [0, 0], [10, 20]])


def test_few_vectors_are_found_exactly():
  # Kernels made of codewords come back, and so do their codes' equalities.
  books, codes = random((3, 4, 2)), jnp.arange(24).reshape(3, 1, 8) % 4
  kernel = codebook.join(books, codes, (6, 8))
  found, found_codes = codebook.fit(kernel, d=2, codewords=4, storage="float32")
  np.testing.assert_allclose(
    codebook.join(found, found_codes, (6, 8)), kernel, rtol=1e-6
  )
  assert len(np.unique(np.asarray(found_codes[0]))) == 4


def test_codes_are_of_the_codewords_as_stored():
  kernel = random((8, 200)) * 1e-6  # Where float16 is coarse.
  books, codes = codebook.fit(kernel, d=2, codewords=16, storage="float16")
  np.testing.assert_array_equal(books, np.float32(np.float16(books)))
  vectors = codebook.split(kernel, 2)[:, 0]
  away = jnp.sum(jnp.square(vectors[:, :, None] - books[:, None]), -1)
  chosen = jnp.take_along_axis(away, codes[:, 0][..., None], -1)[..., 0]
  np.testing.assert_allclose(chosen, jnp.min(away, -1), atol=1e-15)


@pytest.mark.parametrize(
  "d, ratio, paper", [(3, 15.24, 15.40), (4, 18.54, 18.76)]
)
def test_the_size_of_alexnet_is_the_published_one(d, ratio, paper):
  shapes = {
    name: {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    for name, (shape, *_) in qcnn.ALEXNET.items()
  }
  found = summary.summary(shapes, qcnn.rules(d))
  assert found.ratio == pytest.approx(ratio, rel=1e-3)
  assert found.ratio == pytest.approx(paper, rel=0.02)
  # fc6 by hand: a codeword's floats for each input; five bits a sub-vector.
  row = next(row for row in found.rows if row.path == "fc6/kernel")
  assert row.codebook.codebook_nbytes == 4 * 9216 * 32
  assert row.codebook.code_nbytes == 9216 // d * 4096 * 5 // 8


@pytest.mark.parametrize(
  "units, ratio",
  [((784, 1000, 10), 12.1), ((784, 1000, 1000, 1000, 10), 13.4)],
)
def test_the_sizes_of_mnist_networks_are_the_published_ones(units, ratio):
  """Wu et al. 2016, table 8: d=4, K=32, the last layer in full precision."""
  shapes = {
    f"fc{i}": {"kernel": jax.ShapeDtypeStruct(shape, jnp.float32)}
    for i, shape in enumerate(itertools.pairwise(units))
  }
  recipe = (
    (f"fc{len(units) - 2}/kernel", specs.Float()),
    (".*", specs.Codebook(4, 32, "float32")),
  )
  found = summary.summary(shapes, recipe)
  assert found.ratio == pytest.approx(ratio, rel=0.01)


def resnet(layers, bottleneck):
  """Taps, channels and outputs of all convolutions but the first; norms."""
  convs, norms, channels = [], [64], 64
  for stage, count in enumerate(layers):
    width = 64 << stage
    outputs = 4 * width if bottleneck else width
    for block in range(count):
      if bottleneck:
        convs += [(1, channels, width), (9, width, width), (1, width, outputs)]
        norms += [width, width, outputs]
      else:
        convs += [(9, channels, width), (9, width, width)]
        norms += [width, width]
      if block == 0 and channels != outputs:
        convs.append((1, channels, outputs))
        norms.append(outputs)
      channels = outputs
  return convs, norms, channels


@pytest.mark.parametrize(
  "layers, bottleneck, spatial, pointwise, last, mib, ratio",
  [
    ((2, 2, 2, 2), False, 9, 4, 2048, 1.54, 29),
    ((2, 2, 2, 2), False, 18, 4, 2048, 1.03, 43),
    ((3, 4, 6, 3), True, 9, 4, 1024, 5.09, 19),
    ((3, 4, 6, 3), True, 18, 8, 1024, 3.18, 31),
  ],
)
def test_the_sizes_of_resnets_are_the_published_ones(
  layers, bottleneck, spatial, pointwise, last, mib, ratio
):
  """Stock et al. 2020, table 1: one codebook a layer, of 256 float16 words.

  Words span the taps of a convolution, so only the arithmetic is ours. The
  first convolution and the norms stay in float32.
  """
  convs, norms, channels = resnet(layers, bottleneck)
  fixed = 4 * (3 * 64 * 49 + 2 * sum(norms) + 1000)
  products = [
    (math.prod(conv), spatial if conv[0] == 9 else pointwise, 256)
    for conv in convs
  ]
  products.append((channels * 1000, 4, last))
  total = fixed
  for weights, length, codewords in products:
    codes = weights // length
    codewords = min(codewords, codes // 4)
    total += sum(
      codebook.nbytes(
        codeword_values=codewords * length,
        codes=codes,
        codewords=codewords,
        storage="float16",
      )
    )
  floats = fixed + 4 * sum(weights for weights, *_ in products)
  assert total / 2**20 == pytest.approx(mib, rel=0.005)
  assert round(floats / total) == ratio


def test_sizes_are_those_of_what_is_stored():
  shape = (3, 3, 10, 40)
  tensor = specs.Codebook(4, 20).pack(random(shape))
  # Ten channels of 20 float16; three codes of five bits a tap and output.
  assert tensor.codebooks.nbytes == 2 * 10 * 20
  assert tensor.codes.nbytes == 3 * 9 * 40 * 5 // 8
  stated = codebook.kernel_nbytes(shape, d=4, codewords=20, storage="float16")
  assert stated == (tensor.codebooks.nbytes, tensor.codes.nbytes)
  assert tensor.nbytes == sum(stated)


@pytest.mark.parametrize(
  "shape, codewords, reason",
  [
    ((96,), 4, "has no inputs and outputs"),
    ((3, 3, 1, 96), 16, "one input channel .depthwise"),
    ((24, 24), 32, "24 vectors in a sub-space; give 6 or fewer"),
    # Of 64 outputs: 24 * 64 float32 against 6,144 less 144 of codes.
    ((24, 24), 24, ""),
    ((64, 24), 20, ""),
    ((24, 64), 64, "its codebooks take 6,144 bytes, more than the 6,000"),
  ],
)
def test_what_does_not_pay_is_refused(shape, codewords, reason):
  storage = "float32" if codewords == 64 else "float16"
  spec = specs.Codebook(8, codewords, storage)
  params = {"layer": {"kernel": random(shape)}}
  recipe = ((".*", spec),)
  if not reason:
    assert spec.unfit(shape) == "" and rules.unfit(params, recipe) == {}
    return
  for use in (rules.pack, rules.fake):
    with pytest.raises(ValueError, match=f"layer/kernel: .*{reason}"):
      use(params, recipe)


def test_what_is_refused_can_be_left_out_by_name():
  params = {
    "stem": {"kernel": random((3, 3, 1, 8))},
    "mix": {"kernel": random((16, 64))},
    "bias": random((8,)),
  }
  recipe = (
    ("stem/.*", specs.Codebook(2, 4)),
    (".*kernel", specs.Codebook(4, 8)),
    (".*", specs.Float()),
  )
  left, reasons = rules.leave_unfit(params, recipe, specs.Float("float16"))
  assert reasons.keys() == {"stem/kernel"}
  assert "one input channel" in reasons["stem/kernel"]
  found = rules.match(params, left)  # No rule is without a parameter.
  assert found == {
    "stem": {"kernel": specs.Float("float16")},
    "mix": {"kernel": specs.Codebook(4, 8)},
    "bias": specs.Float(),
  }


@pytest.mark.parametrize(
  "fields, complaint",
  [
    (dict(d=0, codewords=4), "d=0"),
    (dict(d=2, codewords=1), "codewords=1"),
    (dict(d=2, codewords=4, storage="int8"), "storage='int8'"),
  ],
)
def test_fields_out_of_range_are_named(fields, complaint):
  with pytest.raises(ValueError, match=complaint):
    specs.Codebook(**fields)


def test_codes_are_packed_as_the_layout_says():
  books = random((2, 5, 2))
  codes = jnp.array([[[0, 1, 4]], [[3, 2, 1]]])
  tensor = packed.pack_codebooks(
    books, codes, shape=(3, 3), storage="float32", dtype="float32"
  )
  # Three bits each, lowest first: 000 100 001 | 110 010 100.
  stream = "000100001110010100"
  expected = [int(stream[i : i + 8][::-1], 2) for i in (0, 8, 16)]
  np.testing.assert_array_equal(tensor.codes, expected)
  # Rows are channels; the fourth is not there.
  np.testing.assert_array_equal(tensor.codebooks[1], books[0, :, 1])
  np.testing.assert_array_equal(tensor.codebooks[2], books[1, :, 0])
  assert tensor.codebooks.shape == (3, 5)
  assert (tensor.form, tensor.codewords, tensor.storage) == (
    "pq2x5",
    5,
    "float32",
  )
  opened = tensor.open()
  np.testing.assert_array_equal(opened[0][0], books[0])
  np.testing.assert_array_equal(opened[0][1][:, 0], books[1, :, 0])
  np.testing.assert_array_equal(opened[1], codes)
  expected = codebook.join(books, codes, (3, 3))
  np.testing.assert_array_equal(tensor.dequantise(), expected)
