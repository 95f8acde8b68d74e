"""A recogniser as an MNN file, by the converter that MNN's wheel carries.

The converter gets the float ONNX graph and a JSON of how each layer is to be
compressed, made from the packed parameters. It runs in a process of its own:
its command-line tools install packages and send usage data, its extension does
not, but it may end the process that it runs in.
"""

from collections.abc import Mapping
import importlib.util
import json
import pathlib
import subprocess
import sys
import tempfile
from typing import Any

import numpy as np

from jaxocr import files
from jaxocr.compress import packed as packed_lib
from jaxocr.export import mnn_pack
from jaxocr.export import onnx_file
from jaxocr.export import onnx_graph
from jaxocr.export import onnx_layers
from jaxocr.export import weights

_SCRIPT = "import sys, MNN, _tools; _tools.mnnconvert(sys.argv[1:])"
_DONE = ("Converted Success!", "has convert to MNNModel")
_OTHER_VERSION = "install the version of MNN that requirements-dev.txt names"
_TIMEOUT_S = 300


class ConversionError(ValueError):
  """MNN's converter did not do what it was told."""


def save(path: pathlib.Path, model, *, int8: bool = False) -> str:
  """Writes a recogniser aside, then renames it to `path`.

  Features that the network rounds to integers are so only with `int8`, in the
  convolutions between two of them; elsewhere they stay as they are.

  Args:
    path: Ends in .mnn.
    model: A `reader.Model` or a `digit_model.DigitModel`.
    int8: Whether such convolutions compute with 8-bit integers.

  Returns:
    What is in the file, in a few words.

  Raises:
    ModuleNotFoundError: MNN or onnx is not installed.
    ConversionError: The converter failed, or left a layer as it was.
    ValueError: The bundle lacks a parameter, or `int8` is asked of one that has
      nothing for it.
  """
  _require_mnn()
  writer = onnx_file.start(model, stored=False, for_mnn=True)
  outputs = {writer.write(): ("float", writer.logits_shape)}
  proto = onnx_file.finish(writer, model, outputs)
  layers = integer_layers(writer) if int8 else []
  if int8 and not layers:
    raise ValueError(
      "this recogniser has no convolution with 8-bit weights between two "
      "features of 8 bits, which int8 needs; train one with "
      "--experiment=qat_crnn (of digits: qat_digits), or export without int8"
    )
  with tempfile.TemporaryDirectory() as folder:
    folder = pathlib.Path(folder)
    (folder / "model.onnx").write_bytes(proto.SerializeToString())
    _compress(folder, writer, layers)
    net, packed = _dump(folder, "model.mnn"), ""
    found = _counted(net)
    # JSON has cut the scales of integer features, which are no arrays.
    if not layers and writer.graph.has_bits():
      packed = _pack(folder, proto.graph, net)
    data = (folder / "model.mnn").read_bytes()
  if found["integer"] != len(layers):
    raise ConversionError(
      f"MNN made {found['integer']} convolutions of 8-bit integers, not "
      f"{len(layers)}; {_OTHER_VERSION}"
    )
  with files.aside(path) as part:
    part.write_bytes(data)
  return (
    f"{found['convolutions']} convolutions, {found['packed']} of "
    f"them of packed weights, {found['integer']} of integers{packed}"
  )


def integer_layers(writer: onnx_layers.Layers) -> list[onnx_layers.Conv]:
  """Convolutions of integer weights between two rounded features."""
  return [
    conv
    for conv in writer.convs
    if writer.graph.is_integer(conv.kernel)
    and conv.before in writer.grids
    and conv.output in writer.grids
  ]


def weight_bits(parameter: weights.Parameter) -> int:
  """Bits that the converter holds a parameter in without loss; 0: floats.

  MNN makes its own scale of a channel's largest magnitude, so codes come back
  where that is the largest code.
  """
  if isinstance(parameter.packed, packed_lib.BitTensor):
    return 2  # The converter knows no fewer; `mnn_pack` makes one of them.
  tensor = parameter.packed
  if not isinstance(tensor, packed_lib.AffineTensor):
    return 0
  largest = np.abs(parameter.codes.reshape(-1, tensor.shape[-1])).max(axis=0)
  top = 2 ** (tensor.bits - 1) - 1
  whole = np.all((largest == top) | (largest == 0))
  return tensor.bits if whole and tensor.zero_point is None else 0


def _compress(folder, writer, layers):
  """model.onnx to model.mnn, in `folder`."""
  convert = ["-f", "ONNX", "--modelFile", "model.onnx"]
  # Its own LSTM; else it makes one of products, which takes twice the time and,
  # beside integers, gives other logits from the second call on (3.6.1).
  convert.append("--useOriginRNNImpl")
  # Asked so, the converter writes down what it could compress, and how.
  _convert(
    folder,
    *convert,
    *("--MNNModel", "first.mnn", "--weightQuantBits", "8"),
    *("--compressionParamsFile", "first.json"),
  )
  recipe = json.loads((folder / "first.json").read_text(encoding="utf-8"))
  recipe.pop("forGuide", None)
  (algorithm,) = recipe["algo"]
  for layer in algorithm["quantParams"]["layer"]:
    _state(layer, writer, layers)
  (folder / "recipe.json").write_text(json.dumps(recipe), encoding="utf-8")
  _convert(
    folder,
    *convert,
    *("--MNNModel", "model.mnn", "--weightQuantBits", "8"),
    *("--compressionParamsFile", "recipe.json"),
  )


def _state(layer: dict[str, Any], writer, integers) -> None:
  """How one layer of a recipe is to be stored, and computed."""
  (stated,) = layer["weight"]
  name = layer["opName"]
  graph = writer.graph
  stated["asymmetric"] = False
  kernels = [graph.parameter(path) for path in writer.kernels_of(name)]
  found = {weight_bits(kernel) for kernel in kernels}
  bits = found.pop() if len(found) == 1 else 0
  stated["bits"] = bits
  known = next((conv for conv in integers if conv.name == name), None)
  if known is None:
    return
  parameter = graph.parameter(known.kernel)
  scales = parameter.per_channel("scale", known.layout).reshape(-1)
  top = 2 ** (parameter.packed.bits - 1) - 1
  stated |= {
    "scales": scales.astype(float).tolist(),
    "clampMin": -top,
    "clampMax": top,
  }
  for side, tensor in (("input", known.before), ("output", known.output)):
    layer[side] = [_activation(tensor, writer.grids[tensor])]


def _activation(name: str, grid: onnx_layers.Grid) -> dict[str, Any]:
  """MNN's codes are signed: ours less 128."""
  return {
    "name": name,
    "bits": 8,
    "scales": [float(grid.scale)],
    "zeroPoint": grid.zero_point - 128,
    "clampMin": -128,
    "clampMax": grid.top - 128,
  }


def _pack(folder: pathlib.Path, graph, net: dict[str, Any]) -> str:
  """The file model.mnn, of an ONNX graph, to a smaller one; what was done.

  Its JSON, `net`, is edited.
  """
  to_array = onnx_graph.require_onnx().numpy_helper.to_array
  constants = {t.name: to_array(t) for t in graph.initializer}
  made = (name for node in graph.node for name in node.output)
  names = (*(i.name for i in graph.input), *constants, *made)
  # What is but a step to something with a name begins so, in its last part.
  names = frozenset(n for n in names if "/_" not in n)
  data = (folder / "model.mnn").read_bytes()
  try:
    packed = mnn_pack.pack(net, data, constants, names)
  except mnn_pack.PackingError as error:
    return f"; one-bit weights have two bits: {error}"
  (folder / "small.json").write_text(json.dumps(net), encoding="utf-8")
  _convert(
    folder,
    *("-f", "JSON", "--modelFile", "small.json", "--MNNModel", "small.mnn"),
  )
  small = folder / "small.mnn"
  data = small.read_bytes()
  kept = all(array.tobytes() in data for array in packed.floats)
  if not kept or not mnn_pack.same(net, _dump(folder, "small.mnn")):
    raise ConversionError(
      "MNN's converter wrote another network than it was given; "
      f"{_OTHER_VERSION}"
    )
  small.replace(folder / "model.mnn")
  return f", {packed.one_bit} of one bit"


def _dump(folder: pathlib.Path, name: str) -> dict[str, Any]:
  """A file of MNN as its converter's JSON."""
  made = folder / "dump.json"
  made.unlink(missing_ok=True)
  _convert(folder, "-f", "MNN", "--modelFile", name, "--JsonFile", made.name)
  return json.loads(made.read_text(encoding="utf-8"))


def _counted(net: Mapping[str, Any]) -> dict[str, int]:
  """What the converter has made of a network."""
  nodes = [
    *net["oplists"],
    *(node for part in net.get("subgraphs", ()) for node in part["nodes"]),
  ]
  convs = [n["main"] for n in nodes if n["type"].startswith("Convolution")]
  return {
    "convolutions": len(convs),
    "packed": sum("quanParameter" in conv for conv in convs),
    "integer": sum("symmetricQuan" in conv for conv in convs),
  }


def _convert(folder: pathlib.Path, *arguments: str) -> None:
  """Runs the converter of the wheel in a process of its own.

  It ends with 0 whatever happens, so that only what it prints tells.
  """
  try:
    run = subprocess.run(
      [sys.executable, "-c", _SCRIPT, "mnnconvert", *arguments],
      cwd=folder,
      capture_output=True,
      text=True,
      errors="replace",
      timeout=_TIMEOUT_S,
      check=False,
    )
  except subprocess.TimeoutExpired as error:
    raise ConversionError(
      f"MNN's converter did not end within {_TIMEOUT_S} s"
    ) from error
  said = run.stdout + run.stderr
  dumps = "--JsonFile" in arguments
  if dumps and (folder / "dump.json").exists():
    return
  if any(words in said for words in _DONE):
    return
  raise ConversionError(
    f"MNN's converter failed (exit code {run.returncode}): {_reason(said)}"
  )


def _reason(said: str) -> str:
  """The first line that tells of an error, or the last.

  An operator that MNN lacks is named in it.
  """
  lines = [line.strip() for line in said.splitlines() if line.strip()]
  words = ("not support", "error", "fail", "unknown", "can't")
  bad = [line for line in lines if any(w in line.lower() for w in words)]
  return bad[0] if bad else (lines or ["it said nothing"])[-1]


def _require_mnn() -> None:
  if importlib.util.find_spec("MNN") is None:
    raise ModuleNotFoundError(
      "exporting to MNN needs the package MNN; pip install MNN"
    )
