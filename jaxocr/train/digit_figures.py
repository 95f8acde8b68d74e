"""Figures of digit networks: accuracy over seeds, size, work, dead units."""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.compress import rules as rules_lib
from jaxocr.compress import summary
from jaxocr.data import digits as digits_lib
from jaxocr.models import digit_zoo
from jaxocr.models import fold
from jaxocr.models import macs
from jaxocr.train import digit_config
from jaxocr.train import state as state_lib

_NO_RELU = ("last", "out", "fc8")  # Taps.


def spread(accuracies: Sequence[float]) -> dict:
  """Mean and sample deviation, and how many they are of."""
  several = len(accuracies) > 1
  return {
    "test_accuracy": float(np.mean(accuracies)),
    "test_accuracy_std": float(np.std(accuracies, ddof=1)) if several else 0.0,
    "seeds": len(accuracies),
  }


def form_sizes(params, collections) -> dict:
  """Parameters, folded, and what they occupy in float32, int8 and one bit."""
  folded = jax.eval_shape(fold.fold, params, collections)
  kinds = {
    name: digit_config.FORMS[name][0] for name in ("float", "int8", "qat")
  }
  kinds["binary"] = rules_lib.BINARY_SHIPPED
  return {
    "parameters": state_lib.count_parameters(folded),
    "bytes_of": {
      name: summary.summary(folded, rules).nbytes
      for name, rules in kinds.items()
    },
  }


def count_macs(architecture: Mapping[str, Any]) -> int:
  """Multiply-accumulates of one image."""
  model = digit_zoo.make(**architecture)
  size = digits_lib.SIZE_PX
  image = jax.ShapeDtypeStruct((1, size, size, 1), jnp.float32)
  variables = jax.eval_shape(model.init, jax.random.key(0), image)
  work = macs.count_macs(model.apply, variables, image)
  return sum(sum(forms.values()) for forms in work.values())


def dead_shares(taps: Mapping[str, np.ndarray]) -> dict[str, float]:
  """Share of each layer's units that are 0 for every image and place.

  Args:
    taps: Features [B, ..., C]; the last layers' are left out.
  """
  return {
    name: float(np.mean(~np.any(x, axis=tuple(range(x.ndim - 1)))))
    for name, x in taps.items()
    if name not in _NO_RELU
  }


def dead_total(taps: Mapping[str, np.ndarray]) -> float:
  """Share of all units that are 0 for every image and place."""
  units = {
    name: x.shape[-1] for name, x in taps.items() if name not in _NO_RELU
  }
  shares = dead_shares(taps)
  return sum(shares[n] * units[n] for n in units) / sum(units.values())
