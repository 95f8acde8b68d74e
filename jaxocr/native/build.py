"""The C++ beside this file, compiled once for this machine and kept."""

import concurrent.futures
import ctypes
import functools
import hashlib
import os
import pathlib
import platform
import shlex
import shutil
import subprocess
import tempfile
import threading

import jax

from jaxocr import compiled

SWITCH = "JAXOCR_NATIVE"  # 0: XLA's own operations.
_LOCK = threading.Lock()
_HERE = pathlib.Path(__file__).parent
_FLAGS = ("-std=c++17", "-O3", "-fPIC", "-w")
_TARGETS = (
  "conv",
  "conv_dkernel",
  "conv_dx",
  "depthwise",
  "depthwise_gradient",
  "lstm",
  "lstm_gradient",
  "norm",
  "norm_gradient",
  "norm_rprelu",
  "norm_rprelu_gradient",
  "pool",
  "rprelu",
  "rprelu_gradient",
  "sums",
)


class BuildError(Exception):
  """Why there is no library, in one line."""


def missing() -> str:
  """Why XLA computes all by itself here, or "" where it need not.

  The first call compiles, which takes some seconds on a machine that never did.
  """
  with _LOCK:  # A stage is compiled beside another's training.
    return _missing()


@functools.cache
def _missing() -> str:
  if os.environ.get(SWITCH) == "0":
    return f"{SWITCH}=0"
  if os.name == "nt":
    return "on Windows it was never tried"
  try:
    folder = compiled.folder()
    if folder is not None:
      _load_kept(folder)
      return ""
    with tempfile.TemporaryDirectory(prefix="jaxocr-native-") as once:
      load(_library(pathlib.Path(once)))
  except (BuildError, OSError, AttributeError) as error:
    return " ".join(str(error).split())
  return ""


def _load_kept(folder: pathlib.Path) -> None:
  path = _library(folder)
  try:
    load(path)
  except OSError:  # Damaged: once more.
    path.unlink()
    load(_library(folder))


def load(path: str | os.PathLike) -> None:
  """Makes XLA know the functions in a library."""
  library = ctypes.CDLL(os.fspath(path))
  for name in (f"jaxocr_{target}" for target in _TARGETS):
    handler = jax.ffi.pycapsule(getattr(library, name))
    jax.ffi.register_ffi_target(name, handler, platform="cpu")


def _library(folder: pathlib.Path) -> pathlib.Path:
  """Where it lies in a folder, made if it is not there yet."""
  headers = pathlib.Path(jax.ffi.include_dir())
  command = [*_compiler(), *_FLAGS, _tuned(), f"-I{headers}"]
  target = folder / f"native-{_digest(command, headers)}.so"
  if not target.exists():
    with tempfile.TemporaryDirectory(dir=folder, prefix="building-") as scratch:
      made = _compile(command, pathlib.Path(scratch))
      os.replace(made, target)  # Others may build it at the same time.
  return target


def _compiler() -> list[str]:
  """Its command: that of CXX, with arguments, or the first one found."""
  given = shlex.split(os.environ.get("CXX", ""))
  for name in given[:1] or ("c++", "g++", "clang++"):
    path = shutil.which(name)
    if path:
      return [path, *given[1:]]
  if given:
    raise BuildError(f"CXX={given[0]}: there is no such program")
  raise BuildError("no C++ compiler: install g++ or clang++, or set CXX")


def _tuned() -> str:
  """Makes a compiler use all that this processor has."""
  arm = platform.machine().lower() in ("arm64", "aarch64")
  return "-mcpu=native" if arm else "-march=native"


def _digest(command, headers) -> str:
  """Of all that the library depends on."""
  parts = [
    *command,
    _run([*command[: command.index(_FLAGS[0])], "--version"]),
    _processor(),
  ]
  parts += [
    path.read_text(encoding="utf-8")
    for path in (*_sources(), *sorted(headers.rglob("*.h")))
  ]
  return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _processor() -> str:
  """What it can do: a home folder may be shared by unlike machines."""
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      return next((x for x in file if x.startswith(("flags", "Features"))), "")
  except OSError:
    return platform.machine()


def _sources() -> list[pathlib.Path]:
  return sorted([*_HERE.glob("*.h"), *_HERE.glob("*.cc")])


def _compile(command, scratch) -> pathlib.Path:
  """The library, of all files at once, each by a compiler of its own."""
  sources = [path for path in _sources() if path.suffix == ".cc"]
  objects = [os.fspath(scratch / f"{path.stem}.o") for path in sources]
  with concurrent.futures.ThreadPoolExecutor() as pool:
    jobs = [
      pool.submit(_run, [*command, "-c", os.fspath(source), "-o", to])
      for source, to in zip(sources, objects, strict=True)
    ]
    for job in jobs:
      job.result()
  made = scratch / "made.so"
  _run([*command, "-shared", *objects, "-o", os.fspath(made)])
  with made.open("rb") as file:
    os.fsync(file.fileno())  # Else its name may reach the disk first.
  return made


def _run(command) -> str:
  """What it prints.

  Raises:
    BuildError: It failed, with its first complaint.
  """
  done = subprocess.run(
    command, capture_output=True, text=True, errors="replace", check=False
  )
  if done.returncode:
    complaints = [x for x in done.stderr.splitlines() if "error" in x]
    why = (complaints or [done.stderr.strip() or f"exit {done.returncode}"])[0]
    raise BuildError(f"{command[0]} failed: {why[:200]}")
  return done.stdout
