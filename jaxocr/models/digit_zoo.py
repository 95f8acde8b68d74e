"""The digit networks by name, as configs and saved models state them."""

import dataclasses

from jaxocr.models import alexnet
from jaxocr.models import cnn
from jaxocr.models import digit_net
from jaxocr.models import lenet5
from jaxocr.models import squeezenet

NETWORKS = {
  "lenet5": lenet5.LeNet5,
  "lenet5_1998": lenet5.LeNet5Of1998,
  "cnn": cnn.CNN,
  "two_scale": cnn.TwoScale,
  "squeezenet": squeezenet.SqueezeNet,
  "alexnet": alexnet.AlexNet,
}


def make(network: str, **fields) -> digit_net.DigitNet:
  """A network of that name.

  Raises:
    ValueError: An unknown name, or a field that it does not have.
  """
  if network not in NETWORKS:
    raise ValueError(f"network={network!r}; it must be one of {[*NETWORKS]}")
  kind = NETWORKS[network]
  known = {field.name for field in dataclasses.fields(kind)}
  unknown = sorted(set(fields) - known)
  if unknown:
    raise ValueError(f"{network} has no {', '.join(unknown)}")
  return kind(**fields)
