"""Engines that compute a recogniser's logits: JAX, onnxruntime, MNN.

All take the same images and give the same logits, so that one preprocessing and
one decoder serve them all.
"""

from collections.abc import Callable, Iterator
import contextlib
import ctypes
import json
import os
import pathlib
import sys
import threading
from typing import Any, Protocol

import jax
import numpy as np

from jaxocr import exact
from jaxocr.export import card
from jaxocr.text import alphabet as alphabet_lib

# An engine: images [B, H, W, 1] float32 in [0, 1] -> logits [B, T, K] float32.
# Called from several threads at once.
Logits = Callable[[np.ndarray], np.ndarray]

NAMES = ("jax", "onnx", "mnn")
# How the files of each are called.
SUFFIXES = {".onnx": "onnx", ".mnn": "mnn"}


class Engine(Protocol):
  """What reads with a network.

  Attributes:
    alphabet: Of K - 1 characters.
    height: Of its images, pixels.
    frame_px: Pixels of an image for one frame.
  """

  alphabet: alphabet_lib.Alphabet
  height: int
  frame_px: float

  def logits(self, image: np.ndarray) -> np.ndarray:
    """Images [B, height, W, 1] in [0, 1] to logits [B, T, K], float32."""
    ...


def make_logits(model, variables) -> Logits:
  """The engine that computes with JAX; each shape is compiled once.

  Args:
    model: Flax module that maps [B, H, W, 1] to logits [B, T, K].
    variables: Its variables, as they are to be applied.
  """
  variables = jax.device_put(variables)

  @jax.jit
  @exact.products
  def apply(variables, image):
    return model.apply(variables, image, train=False)

  programs: dict[tuple[int, ...], Any] = {}
  lock = threading.Lock()

  def logits(image: np.ndarray) -> np.ndarray:
    program = programs.get(image.shape)
    if program is None:
      with lock:  # Another thread may have compiled it meanwhile.
        program = programs.get(image.shape)
        if program is None:
          program = apply.lower(variables, image).compile()
          programs[image.shape] = program
    return np.asarray(program(variables, image))

  logits.programs = programs
  return logits


class JaxEngine:
  """The network itself, from a `reader.Model`."""

  def __init__(self, model):
    self.alphabet = model.alphabet
    self.height, self.frame_px = model.height, model.frame_px
    self.logits = make_logits(*model.deployed())


class OnnxEngine:
  """An exported ONNX file in onnxruntime, on the CPU."""

  def __init__(self, path: str | os.PathLike, *, threads: int = 0):
    """Opens a file.

    Args:
      path: Of an .onnx file that `jaxocr export` wrote.
      threads: Of the computation; 0 leaves it to onnxruntime.

    Raises:
      ModuleNotFoundError: onnxruntime is not installed.
      OSError: The file cannot be read.
      ValueError: It is no such file, or onnxruntime lacks what it needs.
    """
    self._session = OnnxSession(path, threads=threads)
    stated = self._session.stated
    if "classes" in stated:
      raise _digits(path)
    try:
      self.alphabet = alphabet_lib.Alphabet(
        stated["alphabet"], stated["alphabet_name"]
      )
      sizes = json.loads(stated["preprocess"])
      self.height, self.frame_px = sizes["height"], sizes["frame_px"]
    except (KeyError, ValueError) as error:
      raise ValueError(
        f"{path}: an ONNX file, but without the metadata of jaxocr; give one "
        "that `jaxocr export` wrote"
      ) from error

    self.logits = self._session.logits


class MnnEngine:
  """An exported MNN file, on the CPU."""

  def __init__(self, path: str | os.PathLike, *, threads: int = 1):
    """Opens a file; the JSON that `jaxocr export` wrote lies beside it.

    Raises:
      ModuleNotFoundError: MNN is not installed.
      OSError: A file cannot be read.
      ValueError: It is no such file.
    """
    self._session = MnnSession(path, threads=threads)
    stated = self._session.stated
    if "classes" in stated:
      raise _digits(path)
    self.alphabet = alphabet_lib.Alphabet(**stated["alphabet"])
    sizes = stated["preprocess"]
    self.height, self.frame_px = sizes["height"], sizes["frame_px"]
    self.logits = self._session.logits


class OnnxSession:
  """An ONNX file in onnxruntime, whatever it reads.

  Attributes:
    stated: What its metadata say.
  """

  def __init__(self, path: str | os.PathLike, *, threads: int):
    """Opens a file; see `OnnxEngine`."""
    try:
      import onnxruntime
    except ModuleNotFoundError as error:
      raise _missing("onnxruntime") from error
    data = pathlib.Path(path).read_bytes()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # Errors; it warns of what it folds.
    try:
      self._session = onnxruntime.InferenceSession(
        data, options, providers=["CPUExecutionProvider"]
      )
    except Exception as error:  # A class of onnxruntime for each of its codes.
      raise ValueError(
        f"{path}: onnxruntime {onnxruntime.__version__} cannot open it "
        f"({_first_line(error)}); export it again, or update onnxruntime"
      ) from error
    self.stated = self._session.get_modelmeta().custom_metadata_map

  def logits(self, image: np.ndarray) -> np.ndarray:
    """Images [B, H, W, 1] in [0, 1] to logits."""
    grey = np.ascontiguousarray(image, np.float32)[:, None, :, :, 0]
    return self._session.run(["logits"], {"image": grey})[0]


class MnnSession:
  """An MNN file in MNN, whatever it reads.

  Attributes:
    stated: What the JSON beside it says.
  """

  def __init__(self, path: str | os.PathLike, *, threads: int):
    """Opens a file; see `MnnEngine`."""
    try:
      with _unheard():
        import MNN
    except ModuleNotFoundError as error:
      raise _missing("MNN") from error
    path = pathlib.Path(path)
    self.stated = card.load(path)
    path.open("rb").close()  # MNN itself prints, and goes on with nothing.
    self._expr = MNN.expr
    with _unheard():
      # One made here: without, MNN shares one with all modules of the process.
      self._runtime = MNN.nn.create_runtime_manager(
        ({"backend": "CPU", "numThread": max(1, threads), "precision": "high"},)
      )
      self._module = MNN.nn.load_module_from_file(
        os.fspath(path),
        ["image"],
        ["logits"],
        runtime_manager=self._runtime,
        shape_mutable=True,  # Else another width gives the last one's logits.
      )
    if self._module is None:
      raise ValueError(f"{path}: MNN cannot open it; export it again")

  def logits(self, image: np.ndarray) -> np.ndarray:
    """Images [B, H, W, 1] in [0, 1] to logits."""
    grey = np.ascontiguousarray(image, np.float32)[:, None, :, :, 0]
    given = self._expr.const(
      np.ascontiguousarray(grey), list(grey.shape), self._expr.NCHW
    )
    (found,) = self._module.forward([given])
    found = self._expr.convert(found, self._expr.NCHW)
    return np.array(found.read(), np.float32).reshape(found.shape)


SESSIONS = {"onnx": OnnxSession, "mnn": MnnSession}


def open_engine(path: str | os.PathLike, *, threads: int = 0) -> Engine:
  """The engine of an exported file, by its suffix.

  Raises:
    ModuleNotFoundError: The engine's package is not installed.
    OSError: A file cannot be read.
    ValueError: It is no exported file.
  """
  name = SUFFIXES.get(pathlib.Path(path).suffix)
  if name is None:
    raise ValueError(
      f"{path}: exported files end in {' or '.join(SUFFIXES)}; make one with "
      "`jaxocr export`"
    )
  if name == "onnx":
    return OnnxEngine(path, threads=threads)
  return MnnEngine(path, threads=threads)


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
  """Without what C code prints to stdout, where readings belong."""
  flush = ctypes.CDLL(None).fflush if os.name == "posix" else (lambda _: None)
  sys.stdout.flush()
  flush(None)
  kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
  try:
    os.dup2(nowhere, 1)
    yield
  finally:
    flush(None)
    os.dup2(kept, 1)
    os.close(kept)
    os.close(nowhere)


def _digits(path) -> ValueError:
  return ValueError(
    f"{path} reads single digits, not lines; it is for other engines, with the "
    "JSON beside it, and `jaxocr inspect` reads digits with its bundle"
  )


def _missing(package: str) -> ModuleNotFoundError:
  return ModuleNotFoundError(
    f"this engine needs the package {package}; pip install {package}",
    name=package,
  )


def _first_line(error: Exception) -> str:
  return str(error).strip().split("\n")[0]
