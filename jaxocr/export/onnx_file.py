"""A recogniser as an ONNX file."""

import json
import os
from typing import Any

import flax.traverse_util

from jaxocr import files
from jaxocr.export import onnx_crnn
from jaxocr.export import onnx_digits
from jaxocr.export import onnx_graph
from jaxocr.export import onnx_layers
from jaxocr.export import weights
from jaxocr.models import activation
from jaxocr.models import digit_net

Writer = onnx_crnn.Writer | onnx_digits.Writer

CLASSES, PROBABILITIES = "classes", "probabilities"


def make_model(
  model, *, stored: bool = True, integer: bool = False, decode: bool = False
):
  """A recogniser as an onnx.ModelProto.

  The input `image` is float32 [N, 1, height, W] in [0, 1], W divisible by 4;
  the output `logits` is float32 [N, W / 4, K]. Of a network for digits they are
  [N, 1, 28, 28] and [N, K].

  Args:
    model: A `reader.Model` or a `digit_model.DigitModel`.
    stored: Whether weights lie in the file as they are packed; without, as
      float32.
    integer: Whether the BiLSTM computes with integers, see `onnx_crnn.Writer`.
    decode: Whether the most probable class (of each frame), and its
      probability, are outputs as well.

  Raises:
    ModuleNotFoundError: onnx is not installed.
    ValueError: The bundle lacks a parameter; or `integer` is asked of one that
      has nothing for it.
  """
  writer = start(model, stored=stored, integer=integer)
  logits = writer.write()
  if integer and not writer.has_integers:
    raise ValueError(
      "this recogniser has neither a BiLSTM of 8-bit weights nor features of 8 "
      "bits, which int8 needs; train one with --experiment=qat_crnn (digits: "
      "qat_digits), or export without int8"
    )
  outputs = {logits: ("float", writer.logits_shape)}
  if decode:
    outputs |= _decode(writer.graph, logits, writer.logits_shape[:-1])
  return finish(writer, model, outputs)


def start(
  model, *, stored: bool = True, integer: bool = False, for_mnn: bool = False
):
  """An `onnx_crnn.Writer` or an `onnx_digits.Writer`; see there."""
  ranges = flax.traverse_util.flatten_dict(
    model.stored.collections.get(activation.RANGES, {}), sep="/"
  )
  graph = onnx_graph.Graph(weights.load(model.stored), stored=stored)
  if isinstance(model.network, digit_net.DigitNet):
    return onnx_digits.Writer(
      graph, model.network, ranges, standard=model.standard, for_mnn=for_mnn
    )
  return onnx_crnn.Writer(
    graph,
    model.network,
    ranges,
    height=model.height,
    integer=integer,
    for_mnn=for_mnn,
  )


def finish(writer: Writer, model, outputs):
  """What was written, as an onnx.ModelProto; outputs as of `Graph.model`."""
  return writer.graph.model(
    "jaxocr",
    {onnx_layers.IMAGE: writer.image_shape},
    outputs,
    metadata(model),
  )


def metadata(model) -> dict[str, str]:
  """What a file says of itself, all of it text."""
  meta = model.stored.meta
  characters = meta["alphabet"]["characters"]
  if isinstance(characters, str):
    reads = {"alphabet": characters}
  else:
    reads = {"classes": json.dumps(characters, ensure_ascii=False)}
  return {
    **reads,
    "alphabet_name": meta["alphabet"]["name"],
    "preprocess": json.dumps(meta["preprocess"]),
    "content_hash": meta["content_hash"],
    "architecture": json.dumps(meta["architecture"]),
  }


def save(path: str | os.PathLike, model: Any) -> None:
  """Writes an onnx.ModelProto aside, then renames it to `path`."""
  with files.aside(path) as part:
    part.write_bytes(model.SerializeToString())


def describe(model: Any) -> str:
  """An onnx.ModelProto in a few words."""
  opsets = {
    entry.domain or "ONNX": entry.version for entry in model.opset_import
  }
  named = ", ".join(f"{domain} opset {n}" for domain, n in opsets.items())
  return f"IR {model.ir_version}, {named}, {len(model.graph.node)} nodes"


def _decode(graph, logits, shape):
  """The best path as `ctc.best_path` has it; to collapse is the reader's."""
  graph.node("ArgMax", logits, output=CLASSES, axis=-1, keepdims=0)
  softmax = graph.node("Softmax", logits, output="softmax", axis=-1)
  graph.node("ReduceMax", softmax, output=PROBABILITIES, axes=[-1], keepdims=0)
  return {CLASSES: ("int64", shape), PROBABILITIES: ("float", shape)}
