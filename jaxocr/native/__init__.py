"""Training's slowest operations on CPUs, in C++ behind XLA's foreign functions.

XLA's CPU backend runs the convolutions of small networks in one thread and a
recurrent network a frame at a time. What is here computes the same, but for how
float32 rounds, from the threads of that backend. It is built by the machine's
own compiler when first asked for; without one, or on other backends, training
is XLA's alone. So is that of digit networks, whose maps are too small for it.
"""

from jaxocr.native.build import missing
from jaxocr.native.calls import LANES
from jaxocr.native.calls import conv
from jaxocr.native.calls import depthwise
from jaxocr.native.calls import lstm
from jaxocr.native.calls import norm
from jaxocr.native.calls import norm_rprelu
from jaxocr.native.calls import pool
from jaxocr.native.calls import rprelu
from jaxocr.native.calls import shift
from jaxocr.native.scope import active
from jaxocr.native.scope import applied
from jaxocr.native.scope import kernels
from jaxocr.native.scope import lacking

__all__ = [
  "LANES",
  "active",
  "applied",
  "conv",
  "depthwise",
  "kernels",
  "lacking",
  "lstm",
  "missing",
  "norm",
  "norm_rprelu",
  "pool",
  "rprelu",
  "shift",
]
