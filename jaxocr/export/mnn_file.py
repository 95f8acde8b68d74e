"""A recogniser as an MNN file, by the converter that MNN's wheel carries.

The converter gets the float ONNX graph and a JSON of how each layer is to be
compressed, made from the packed parameters. It runs in a process of its own:
its command-line tools install packages and send usage data, its extension does
not, but it may end the process that it runs in.
"""

from collections.abc import Mapping, Sequence
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

from jaxocr import files
from jaxocr.compress import packed as packed_lib
from jaxocr.export import onnx_file
from jaxocr.export import onnx_crnn
from jaxocr.export import weights

# fast: MNN's own LSTM, with float weights. small: an LSTM of products, whose
# weights can be 8-bit integers; it takes nearly twice the time.
FLAVOURS = ("fast", "small")
_SCRIPT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv[1:])"
_DONE = "Converted Success!"
_TIMEOUT_S = 300


class ConversionError(ValueError):
  """MNN's converter did not do what it was told."""
