"""The digit networks: published parameter counts, shapes, forms, lowerings."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.compress import rules as rules_lib
from jaxocr.models import digit_zoo
from jaxocr.models import fold
from jaxocr.models import lenet5
from jaxocr.models import macs
from jaxocr.models import windows

DIGIT = (28, 28, 1)
SMALL = ("lenet5", "cnn", "two_scale", "squeezenet")


def shapes(network, size=DIGIT, **fields):
  model = digit_zoo.make(network, **fields)
  image = jax.ShapeDtypeStruct((1, *size), jnp.float32)
  return model, jax.eval_shape(model.init, jax.random.key(0), image), image


def count(params):
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
  "network, size, fields, expected",
  [
    # 156 + 2,416 + 48,120 + 10,164 + 850.
    ("lenet5", DIGIT, {}, 61706),
    # LeCun et al. 1998: 60,000 trained parameters; and the last product's 850.
    ("lenet5_1998", DIGIT, {}, 60000 + 850),
    ("cnn", DIGIT, {}, 34826),  # As Keras' example states.
    # 120 + 2,616 + 7,812 + 20,748 + 12,010.
    ("two_scale", DIGIT, {}, 43306),
    # torchvision's squeezenet1_1 and the same with 9 inputs of conv1 and 990
    # classes fewer.
    ("squeezenet", (224, 224, 3), {"classes": 1000}, 1235496),
    ("squeezenet", DIGIT, {}, 1235496 - 2 * 9 * 64 - 990 * 513),
    # 34,944 + 614,656 + 885,120 + 1,327,488 + 884,992 + 37,752,832 + 16,781,312
    # + 4,097,000.
    (
      "alexnet",
      (227, 227, 3),
      {"classes": 1000, "photos": True},
      62378344,
    ),
    ("alexnet", DIGIT, {}, 21589706),
  ],
)
def test_parameters_are_the_published_ones(network, size, fields, expected):
  _, variables, _ = shapes(network, size, norm=False, **fields)
  assert count(variables["params"]) == expected
  if network != "lenet5_1998":
    # BatchNorm, folded, leaves as many.
    _, variables, _ = shapes(network, size, **fields)
    folded = jax.eval_shape(
      fold.fold,
      variables["params"],
      {"batch_stats": variables["batch_stats"]},
    )
    assert count(folded) == expected


def test_multiply_accumulates_by_hand():
  model, variables, image = shapes("lenet5")
  counted = macs.count_macs(model.apply, variables, image)
  assert counted == {
    "c1/kernel": {"float": 28 * 28 * 6 * 25},
    "c3/binary_kernel": {"float": 10 * 10 * 16 * 150},
    "c5/binary_kernel": {"float": 400 * 120},
    "f6/binary_kernel": {"float": 120 * 84},
    "out/kernel": {"float": 840},
  }


@pytest.mark.parametrize(
  "network, expected",
  [
    (
      "two_scale",
      {
        "conv1": (30, 30, 12),
        "near1": (9, 9, 24),
        "near2": (5, 5, 36),
        "far": (5, 5, 12),
        "last": (5 * 5 * 48,),
        "out": (10,),
      },
    ),
    ("cnn", {"conv1": (26, 26, 32), "conv2": (11, 11, 64), "last": (1600,)}),
    (
      "lenet5_1998",
      {"c1": (28, 28, 6), "s2": (14, 14, 6), "c3": (10, 10, 16), "f6": (84,)},
    ),
    ("squeezenet", {"conv1": (14, 14, 64), "fire2": (7, 7, 128)}),
    ("alexnet", {"conv1": (12, 12, 96), "conv5": (3, 3, 256), "last": (4096,)}),
  ],
)
def test_maps_are_as_the_layer_tables_say(network, expected):
  model, variables, image = shapes(network)
  _, found = jax.eval_shape(
    lambda v, x: model.apply(v, x, mutable=["taps"]), variables, image
  )
  found = {
    k.removesuffix("_tap"): v.shape[1:] for k, v in found["taps"].items()
  }
  assert {name: found[name] for name in expected} == expected


def test_c3_sees_the_maps_of_the_table():
  model, variables, _ = shapes("lenet5_1998")
  assert variables["params"]["c3"]["binary_kernel"].shape == (5, 5, 60)
  assert [len(maps) for maps in lenet5.C3_TABLE] == [3] * 6 + [4] * 9 + [6]
  # Each of the six maps is seen by ten of the sixteen, as in the paper.
  seen = np.bincount([m for maps in lenet5.C3_TABLE for m in maps])
  assert seen.tolist() == [10] * 6
  with pytest.raises(ValueError, match="use lenet5"):
    shapes("lenet5_1998", norm=True)
  del model


@pytest.mark.parametrize("entering", [1, 3])
@pytest.mark.parametrize(
  "size, strides, padding, side",
  [(5, 1, 2, 9), (3, 2, 1, 9), (3, 1, 1, 2), (5, 2, 2, 4)],
)
@pytest.mark.parametrize("pad_value", [0.0, 1.0])
def test_convolutions_are_torchs(
  entering, size, strides, padding, side, pad_value
):
  torch = pytest.importorskip("torch")
  rng = np.random.default_rng(0)
  x = rng.normal(size=(2, side, max(side - 1, 2), entering))
  x = x.astype(np.float32)
  kernel = rng.normal(size=(size, size, entering, 4)).astype(np.float32)
  ours = windows.convolve(
    jnp.array(x),
    jnp.array(kernel),
    strides=strides,
    padding=padding,
    pad_value=pad_value,
  )
  around = ((0, 0), (padding,) * 2, (padding,) * 2, (0, 0))
  padded = np.pad(x, around, constant_values=pad_value)
  theirs = torch.nn.functional.conv2d(
    torch.tensor(padded.transpose(0, 3, 1, 2)),
    torch.tensor(kernel.transpose(3, 2, 0, 1)),
    stride=strides,
  )
  theirs = theirs.numpy().transpose(0, 2, 3, 1)
  np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.parametrize("shape", [(2, 6, 8, 3), (1, 5, 5, 2)])
@pytest.mark.parametrize("size, strides, padding", [(2, 2, 0), (3, 2, 1)])
def test_pooling_is_torchs(shape, size, strides, padding):
  torch = pytest.importorskip("torch")
  x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
  theirs = torch.nn.functional.max_pool2d(
    torch.tensor(x.transpose(0, 3, 1, 2)), size, strides, padding
  )
  ours = windows.max_pool(jnp.array(x), size, strides, padding=padding)
  np.testing.assert_array_equal(ours, theirs.numpy().transpose(0, 2, 3, 1))


def test_pooling_gives_each_windows_gradient_to_its_largest():
  x = jnp.array([[1.0, 5.0, 2.0, 3.0, 9.0]])[..., None, None]
  weights = jnp.array([1.0, 10.0, 100.0])[None, :, None, None]
  slope = jax.grad(
    lambda x: jnp.sum(weights * windows.max_pool(x, 3, 2, padding=1))
  )(x)
  # Windows of rows: (., 1, 5), (5, 2, 3), (3, 9, .).
  assert slope[0, :, 0, 0].tolist() == [0, 11, 0, 0, 100]


@pytest.mark.parametrize("network", ["lenet5", "two_scale"])
def test_binary_features_and_weights_are_two_valued(network):
  model = digit_zoo.make(network, binary_activations=True)
  image = jax.random.uniform(jax.random.key(1), (2, *DIGIT))
  variables = model.init(jax.random.key(0), image)
  params = rules_lib.fake(variables["params"], rules_lib.BINARY_SHIPPED)
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    if rules_lib.path_name(path).endswith("binary_kernel"):
      flat = np.abs(np.asarray(leaf).reshape(-1, leaf.shape[-1]))
      assert (flat == flat[:1]).all()
  variables = {**variables, "params": params}
  soft = model.apply(variables, image, 0.3)
  hard = model.apply(variables, image)
  assert not np.allclose(soft, hard)
  # Only the signs of what enters a latent kernel matter: a larger first layer
  # (whose norm undoes it in training) changes nothing where there is no norm.
  bare = digit_zoo.make("lenet5", binary_activations=True, norm=False)
  variables = bare.init(jax.random.key(0), image)
  before = bare.apply(variables, image)
  variables["params"]["c1"]["kernel"] *= 3
  np.testing.assert_allclose(bare.apply(variables, image), before, rtol=1e-5)


@pytest.mark.parametrize("network", SMALL)
@pytest.mark.parametrize(
  "fields", [{}, {"binary_activations": True}, {"activation_bits": 8}]
)
def test_folding_changes_nothing(network, fields):
  if network == "squeezenet" and fields:
    pytest.skip("the same code as the others, and slow")
  model = digit_zoo.make(network, **fields)
  image = jax.random.uniform(jax.random.key(1), (4, *DIGIT))
  variables = model.init(jax.random.key(0), image)
  _, moved = model.apply(
    variables,
    image,
    train=True,
    mutable=[k for k in variables if k != "params"],
    rngs={"dropout": jax.random.key(2)},
  )
  variables = {**variables, **moved}
  params = variables.pop("params")
  folded = fold.fold(params, variables)
  kept = {k: v for k, v in variables.items() if k != "batch_stats"}
  whole = model.apply({"params": params, **variables}, image)
  again = digit_zoo.make(network, folded=True, **fields).apply(
    {"params": folded, **kept}, image
  )
  np.testing.assert_allclose(whole, again, atol=2e-2 if fields else 1e-3)


def test_unknown_names_are_told():
  with pytest.raises(ValueError, match="network='lenet'; it must be one of"):
    digit_zoo.make("lenet")
  with pytest.raises(ValueError, match="lenet5 has no photos"):
    digit_zoo.make("lenet5", photos=True)
