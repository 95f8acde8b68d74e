"""Counts by hand, by torch, and of whole networks."""

import functools
import re

import flax.linen as nn
import jax
from jax import lax
import jax.numpy as jnp
import pytest

from jaxocr.compress import binarise
from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.compress import summary
from jaxocr.models import crnn
from jaxocr.models import depthwise
from jaxocr.models import layers
from jaxocr.models import lstm
from jaxocr.models import macs
from jaxocr.models import mlp


def _shape(*sizes):
  return jax.ShapeDtypeStruct(sizes, jnp.float32)


def _count(function, x, **params):
  """Of function(params, x), without computing anything; x is floats."""
  return _of_floats(
    macs.count_macs(
      lambda v, x: function(v["params"], x), {"params": params}, x
    )
  )


def _of_floats(counted):
  """Path -> number, where all features are floats."""
  assert all(set(found) == {"float"} for found in counted.values())
  return {path: found["float"] for path, found in counted.items()}


def _by_name(counted, bits=r"$."):
  """Path -> number; the features are bits where the path matches, as stated."""
  for path, found in counted.items():
    assert set(found) == {"bit" if re.match(bits, path) else "float"}, path
  return {path: sum(found.values()) for path, found in counted.items()}


def test_dense():
  counted = _count(
    lambda p, x: x @ p["kernel"] + p["bias"][None, None],
    _shape(2, 3, 5),
    kernel=_shape(5, 7),
    bias=_shape(7),
  )
  assert counted == {"kernel": 2 * 3 * 5 * 7}


def test_arrays_count_as_their_shapes():
  def product(variables, x):
    return variables["params"]["a"]["w"] @ x

  variables = {"params": {"a": {"w": jnp.ones((4, 3))}}, "state": jnp.ones(2)}
  counted = macs.count_macs(product, variables, jnp.ones((3, 2)))
  assert counted == {"a/w": {"float": 24}}


@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_convolution(pad_value):
  counted = _count(
    lambda p, x: layers.spatial_conv(
      x, p["kernel"], strides=(2, 1), pad_value=pad_value
    ),
    _shape(1, 8, 6, 3),
    kernel=_shape(3, 3, 3, 5),
  )
  assert counted == {"kernel": 4 * 6 * 3 * 3 * 3 * 5}


def test_stem():
  counted = _count(
    lambda p, x: layers.stem_conv(x, p["kernel"]),
    _shape(2, 8, 6, 1),
    kernel=_shape(3, 3, 1, 5),
  )
  assert counted == {"kernel": 2 * 4 * 3 * 9 * 5}


@pytest.mark.parametrize(
  "convolution",
  [
    lambda x, kernel: depthwise.depthwise_conv(x, kernel, strides=(2, 1)),
    lambda x, kernel: depthwise._depthwise_shifted(x, kernel, (2, 1)),
    lambda x, kernel: depthwise._depthwise_lax(x, kernel, (2, 1)),
  ],
)
def test_all_lowerings_of_a_depthwise_convolution_count_alike(convolution):
  counted = _count(
    lambda p, x: convolution(x, p["kernel"]),
    _shape(1, 8, 6, 5),
    kernel=_shape(3, 3, 5),
  )
  assert counted == {"kernel": 4 * 6 * 3 * 3 * 5}


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_convolutions_as_torch_counts_them(groups):
  torch = pytest.importorskip("torch")
  flop_counter = pytest.importorskip("torch.utils.flop_counter")
  counter = flop_counter.FlopCounterMode(display=False)
  with counter:
    torch.nn.functional.conv2d(
      torch.zeros(2, 6, 9, 7),
      torch.zeros(12, 6 // groups, 3, 3),
      stride=2,
      padding=1,
      groups=groups,
    )
  counted = _count(
    lambda p, x: lax.conv_general_dilated(
      x, p["kernel"], (2, 2), ((1, 1), (1, 1)), feature_group_count=groups
    ),
    _shape(2, 6, 9, 7),
    kernel=_shape(12, 6 // groups, 3, 3),
  )
  assert 2 * counted["kernel"] == counter.get_total_flops()


def test_bilstm():
  frames, channels, hidden = 7, 5, 3
  model = lstm.BiLSTM(hidden)
  x = _shape(2, frames, channels)
  variables = jax.eval_shape(model.init, jax.random.key(0), x)
  expected = {}
  for direction in lstm.DIRECTIONS:
    expected |= {
      f"{direction}_input_kernel": 2 * frames * channels * 4 * hidden,
      f"{direction}_recurrent_kernel": 2 * frames * hidden * 4 * hidden,
    }
  assert _of_floats(macs.count_macs(model.apply, variables, x)) == expected


def test_a_concatenation_counts_by_share():
  counted = _count(
    lambda p, x: x @ jnp.concatenate([p["a"], p["b"], jnp.ones((5, 3))], 1),
    _shape(4, 5),
    a=_shape(5, 2),
    b=_shape(5, 6),
  )
  assert counted == {"a": 4 * 5 * 2, "b": 4 * 5 * 6}


def test_a_parameter_is_followed_through_what_is_done_to_it():
  def changed(p, x):
    kernel = jnp.flip(p["kernel"].reshape(3, 8).T, 0).astype(jnp.bfloat16)
    kernel = jnp.tanh(kernel)[2:5] * p["gain"][None]
    return jax.checkpoint(jax.jit(jnp.matmul))(x.astype(kernel.dtype), kernel)

  counted = _count(changed, _shape(4, 3), kernel=_shape(4, 6), gain=_shape(3))
  assert counted == {"kernel": 4 * 3 * 3}


@pytest.mark.parametrize(
  "recipe",
  [rules.BINARY_SHIPPED, rules.BINARY_SHIPPED[1:]],
  ids=["bit", "int8"],
)
def test_a_fake_quantised_kernel_is_still_itself(recipe):
  params = {"a": {"binary_kernel": _shape(5, 7)}, "b": {"kernel": _shape(7, 2)}}
  params["b"]["bias"] = _shape(2)

  def network(p, x):
    p = rules.fake(p, recipe, 0.5)
    return x @ p["a"]["binary_kernel"] @ p["b"]["kernel"] + p["b"]["bias"][None]

  assert _count(network, _shape(4, 5), **params) == {
    "a/binary_kernel": 4 * 5 * 7,
    "b/kernel": 4 * 7 * 2,
  }


def test_features_and_parameters_alone_are_not_counted():
  def network(p, x):
    x = x * p["scale"][None] + p["offset"][None]
    return (x @ x.T) @ jnp.ones((4, 4)), p["kernel"] @ p["kernel"].T

  counted = _count(
    network,
    _shape(4, 3),
    scale=_shape(3),
    offset=_shape(3),
    kernel=_shape(3, 3),
  )
  assert counted == {}


def test_scanned_layers_and_a_scan_in_a_scan():
  def network(p, x):
    def layer(x, kernel):
      def again(x, _):
        return x @ kernel @ p["shared"], None

      return lax.scan(again, x, None, length=2)[0], x.sum()

    return lax.scan(layer, x, p["stack"])

  counted = _count(
    network, _shape(4, 3), stack=_shape(5, 3, 3), shared=_shape(3, 3)
  )
  assert counted == {"stack": 5 * 2 * 36, "shared": 5 * 2 * 36}


def test_what_is_carried_becomes_features_only_later():
  """The first carry is features after two steps: through the second."""

  def step(carry, x, kernel):
    first, second = carry
    return (second, x), first @ kernel

  def network(p, x):
    zero = jnp.zeros((1, 3))
    run = functools.partial(step, kernel=p["kernel"])
    return lax.scan(run, (zero, zero), x)

  counted = _count(network, _shape(6, 1, 3), kernel=_shape(3, 2))
  assert counted == {"kernel": 6 * 3 * 2}


def test_the_first_branch_of_a_cond_is_counted():
  def network(p, x):
    return lax.cond(
      x[0, 0] > 0, lambda k: x @ k @ k, lambda k: x @ k, p["kernel"]
    )

  counted = _count(network, _shape(2, 3), kernel=_shape(3, 3))
  assert counted == {"kernel": 18}  # False comes first.


def test_a_while_loop_has_no_known_length():
  def network(p, x):
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ p["w"], x)

  with pytest.raises(ValueError, match=r"while loop uses w, .* lax\.scan"):
    _count(network, _shape(2, 2), w=_shape(2, 2))


# Rows after each block of both plans, for an image 32 rows high.
_ROWS = (8, 8, 4, 4, 2, 2)
_C, _P, _H, _K = 4, 6, 5, 3  # Stem, projection, hidden, classes.
SIZES = dict(num_classes=_K, stem_channels=_C, projection=_P, hidden=_H)


def _rest(width, features):
  """All but the backbone, whose features are [2, width / 4, features]."""
  frames = width // 4
  counted = {
    "collapse/kernel": frames * 2 * features * _P,
    "head/kernel": frames * 2 * _H * _K,
  }
  for direction in lstm.DIRECTIONS:
    counted[f"bilstm/{direction}_input_kernel"] = frames * _P * 4 * _H
    counted[f"bilstm/{direction}_recurrent_kernel"] = frames * _H * 4 * _H
  return counted


def _binary(width):
  counted = {"backbone/stem/kernel": 16 * width // 2 * 9 * _C}
  channels = (_C, 2 * _C, 2 * _C, 4 * _C, 4 * _C, 4 * _C)
  for block, (rows, c) in enumerate(zip(_ROWS, channels, strict=True)):
    places = rows * width // 4
    layer = {"spatial": 9, "mix": 1}
    if block in (0, 2):
      layer["mix_twin"] = 1
    for name, taps in layer.items():
      path = f"backbone/block{block}/{name}/conv/binary_kernel"
      counted[path] = places * taps * c * c
  return counted | _rest(width, 4 * _C)


def _mobilenet(width):
  counted = {"backbone/stem/kernel": 16 * width // 2 * 9 * _C}
  channels = (_C, 64, 64, 128, 128, 128, 128)
  for block, rows in enumerate(_ROWS):
    places = rows * width // 4
    before, after = channels[block : block + 2]
    path = f"backbone/block{block}"
    counted[f"{path}/depthwise/kernel"] = places * 9 * before
    counted[f"{path}/pointwise/kernel"] = places * before * after
  return counted | _rest(width, 128)


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize(
  ("backbone", "by_hand"), [("binary", _binary), ("mobilenet", _mobilenet)]
)
def test_crnn(backbone, by_hand, folded):
  model = crnn.CRNN(**SIZES, backbone=backbone, folded=folded)
  image = _shape(1, 32, 128, 1)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  signs = r".*/binary_kernel"
  counted = macs.count_macs(model.apply, variables, image)
  assert _by_name(counted, signs) == by_hand(128)
  three = macs.count_macs(model.apply, variables, _shape(3, 32, 64, 1))
  assert _by_name(three, signs) == {n: 3 * k for n, k in by_hand(64).items()}


class _OfLarq(nn.Module):
  """The network whose summary larq's own tests keep (larq/snapshots, 0.13)."""

  @nn.compact
  def __call__(self, x, *, train=False):
    def kernel(name, *shape, fan_in=9):
      name = f"{name}_kernel"
      return layers.Kernel(shape, fan_in, name_in_tree=name, name=name)()

    x = layers.spatial_conv(x, kernel("first", 3, 3, 1, 32))
    x = layers.average_pool(x, (2, 2))
    x = self._spaced(binarise.hard_sign(x) - binarise.hard_sign(x - 1), 3)
    x = depthwise.depthwise_conv(x, kernel("depthwise", 3, 3, 32))
    signs = binarise.hard_sign(x)
    x = depthwise.depthwise_conv(signs, kernel("separable", 3, 3, 32))
    x = layers.pointwise_conv(binarise.hard_sign(x), kernel("point", 32, 32))
    return layers.product(x.reshape(1, -1), kernel("dense", 3872, 10))

  def _spaced(self, x, stride):
    return x[:, ::stride, ::stride]  # 32 to 11, as a stride of 3 has it.


def test_macs_by_precision_are_those_of_larqs_summary():
  model = _OfLarq()
  image = _shape(1, 64, 64, 1)
  params = jax.eval_shape(model.init, jax.random.key(0), image)["params"]
  recipe = (
    (r".*/(first|separable|point)_kernel", specs.Binary(scaled=False)),
    (r".*/depthwise_kernel", specs.Ternary()),
    *rules.ALL_FLOAT,
  )
  found = macs.summary(model, params, recipe, (1, 64, 64, 1))
  by_name = {r.path.split("/")[-1]: r.macs_by_precision for r in found.rows}
  # Larq calls a product of bits and floats one of 32 bits.
  assert by_name["first_kernel"] == {"bit x float": 1_179_648}
  assert by_name["depthwise_kernel"] == {"int2 x int2": 34_848}
  # And padding with zeros is no bit any more, whatever larq says.
  assert by_name["separable_kernel"] == {"bit x int2": 11 * 11 * 9 * 32}
  assert by_name["point_kernel"] == {"bit x bit": 158_752 - 11 * 11 * 9 * 32}
  assert by_name["dense_kernel"] == {"float x float": 38_720}
  assert found.macs == 158_752 + 34_848 + 1_218_368


def test_summary_of_a_model_with_8_bit_features():
  """Which products meet them: those of the BiLSTM's inputs and the head."""
  model = crnn.CRNN(**SIZES, activation_bits=8)
  shape = (1, 32, 128, 1)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros(shape))
  )["params"]
  found = macs.summary(model, params, rules.BINARY_SHIPPED, shape)
  rows = {row.path: row.macs_by_precision for row in found.rows}
  counted = _binary(128)
  latent = [path for path in counted if path.endswith("binary_kernel")]
  for path in latent:
    assert rows[path] == {"bit x bit": counted[path]}, path
  for direction in lstm.DIRECTIONS:
    path = f"bilstm/{direction}_input_kernel"
    assert rows[path] == {"int8 x int8": counted[path]}
    path = f"bilstm/{direction}_recurrent_kernel"
    assert rows[path] == {"int8 x float": counted[path]}
  assert rows["head/kernel"] == {"int8 x int8": counted["head/kernel"]}
  for path in ("backbone/stem/kernel", "collapse/kernel"):
    assert rows[path] == {"int8 x float": counted[path]}
  assert found.macs == sum(counted.values())
  assert found.macs_by_precision["bit x bit"] == sum(map(counted.get, latent))
  assert found.nbytes == summary.summary(params, rules.BINARY_SHIPPED).nbytes


def test_summary_of_parameters_that_learn_steps():
  model = mlp.BinaryMLP((6, 5), 4)
  shape = (1, 3, 4, 1)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros(shape))
  )["params"]
  recipe = ((r".*/binary_kernel", specs.LSQ(4)), *rules.ALL_FLOAT)
  found = macs.summary(model, params, recipe, shape)
  assert found.macs_by_precision == {"int4 x bit": 12 * 6 + 6 * 5 + 5 * 4}
  stepped = jax.eval_shape(lambda p: rules.with_steps(p, recipe), params)
  assert macs.summary(model, stepped, recipe, shape) == found


def test_summary_of_other_parameters_is_refused():
  model = crnn.CRNN(**SIZES)
  shape = (1, 32, 32, 1)
  params = jax.eval_shape(
    lambda: model.init(jax.random.key(0), jnp.zeros(shape))
  )["params"]
  params["head"] = {"kernel": _shape(1, 1), "bias": params["head"]["bias"]}
  del params["collapse"]
  with pytest.raises(ValueError, match="collapse/kernel, head/kernel differ"):
    macs.summary(model, params, rules.ALL_FLOAT, shape)
