"""Checkpoints that survive a kill and are not believed when damaged.

Orbax writes each checkpoint in a thread of its own, beside its place, and
renames it when it is whole. Just before that rename `SHA256SUMS` goes in, in
the format of sha256sum(1), since Orbax reads altered bytes without a word.
Before a checkpoint is read its files are held against it; one that fails is
named, moved aside, and the one before it is used.
"""

from collections.abc import Mapping
import dataclasses
import hashlib
import os
import pathlib
import shutil
from typing import Any
import warnings

from absl import logging
import jax
import numpy as np
import orbax.checkpoint as ocp

from jaxocr.train import distributed
from jaxocr.train import interrupt

PyTree = Any
_ITEMS = ("state", "meta")  # Folders of a checkpoint, all that is read back.
_SUMS = "SHA256SUMS"


class NoUsableCheckpoint(interrupt.Stopped):
  """Checkpoints are there, and each of them is damaged."""


class NotFinite(ValueError):
  """A state with NaN or infinity, which is never saved."""


class DamagedCheckpointWarning(UserWarning):
  """A damaged checkpoint was passed over."""


@dataclasses.dataclass(frozen=True)
class Restored:
  """A checkpoint that was read back whole."""

  step: int
  state: PyTree
  meta: dict  # What was saved beside the state.


class Checkpoints:
  """The last few checkpoints of a run, and its best.

  Every process of a run must make the same calls.
  """

  def __init__(self, workdir: str | os.PathLike, *, keep: int, stage: str = ""):
    """Opens `workdir`/checkpoints, or its folder `stage`.

    Args:
      workdir: The run's folder.
      keep: How many of the last to keep; the best is kept besides.
      stage: Of a staged run.
    """
    logging.set_verbosity(logging.WARNING)  # Orbax tells of every file else.
    workdir = pathlib.Path(workdir).absolute()
    self.directory = workdir / "checkpoints" / stage
    self._rejected = workdir / "rejected_checkpoints" / stage
    self._keep = _LastAndBest(keep)
    self._saving: int | None = None
    self._manager = ocp.CheckpointManager(
      self.directory,
      options=ocp.CheckpointManagerOptions(
        # A kill leaves the folder of an unfinished write behind.
        cleanup_tmp_directories=True,
        preservation_policy=self._keep,
        async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
      ),
    )

  def save(
    self,
    state: PyTree,
    step: int,
    meta: Mapping[str, Any],
    *,
    score: float | None = None,
  ) -> None:
    """Starts to save; returns when the arrays may change again.

    Does nothing where the step has been saved already.

    Args:
      state: Arrays, whole on every device.
      step: Updates done.
      meta: JSON-able, given back by `restore`.
      score: Higher is better; the checkpoint with the highest is kept.

    Raises:
      NotFinite: The state holds NaN or infinity; names the first such leaf.
    """
    if step in self._manager.all_steps():
      return
    _check_finite(state)
    self.wait()  # One write at a time; `_seal` must know whose files it sees.
    self._saving = step
    self._keep.consider(step, score)
    self._manager.save(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardSave(state),
        meta=ocp.args.JsonSave(dict(meta) | {"best": self._keep.best}),
      ),
    )

  def restore(self, template: PyTree) -> Restored | None:
    """The newest whole checkpoint, or None where none was ever saved.

    Args:
      template: State whose shapes, types and shardings the result shall have;
        the arrays may have been saved from another sharding.

    Raises:
      NoUsableCheckpoint: All of them are damaged.
    """
    steps = sorted(self._manager.all_steps(), reverse=True)
    shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, template)
    for step in steps:
      fault = _fault(self.directory / str(step))
      if fault is None:
        return self._read(step, shapes)
      self._reject(step, fault)
    if steps:
      raise NoUsableCheckpoint(
        f"all {len(steps)} checkpoints in {self.directory} are damaged; they "
        f"are in {self._rejected} now; the same command starts from step 0"
      )
    return None

  def latest_step(self) -> int | None:
    """The newest step saved, or None."""
    return self._manager.latest_step()

  def best_step(self) -> int | None:
    """The step of the highest score, the later of equals, or None."""
    return self._keep.best and self._keep.best["step"]

  def wait(self) -> None:
    """Returns when all that was saved is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, then lets go of the folder."""
    self._manager.close()

  def _seal(self) -> None:
    """Called by Orbax with all files written, just before its rename."""
    if not distributed.is_writer():
      return
    (unfinished,) = self.directory.glob(f"{self._saving}.*")
    sums = _sums(unfinished)
    text = "".join(f"{digest}  {name}\n" for name, digest in sums.items())
    (unfinished / _SUMS).write_text(text)

  def _read(self, step: int, shapes: PyTree) -> Restored:
    found = self._manager.restore(
      step,
      args=ocp.args.Composite(
        state=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore()
      ),
    )
    meta = dict(found.meta)
    self._keep.best = meta.pop("best")
    return Restored(step, found.state, meta)

  def _reject(self, step: int, fault: str) -> None:
    path = self.directory / str(step)
    warnings.warn(
      f"checkpoint {path} is damaged ({fault}); moved to {self._rejected}, "
      "using the one before it",
      DamagedCheckpointWarning,
      stacklevel=3,
    )
    distributed.barrier(f"reject {step}")
    if distributed.is_writer():
      self._rejected.mkdir(parents=True, exist_ok=True)
      shutil.rmtree(self._rejected / str(step), ignore_errors=True)
      os.replace(path, self._rejected / str(step))
    distributed.barrier(f"rejected {step}")
    self._manager.reload()


class _LastAndBest:
  """Orbax preservation policy: the `last` newest and the best."""

  def __init__(self, last: int):
    self._last = last
    self.best: dict | None = None  # {step, score}, saved with each checkpoint.

  def consider(self, step: int, score: float | None) -> None:
    if score is None:
      return
    if self.best is None or score >= self.best["score"]:
      self.best = {"step": step, "score": score}

  def should_preserve(self, checkpoints, *, context) -> list[bool]:
    newest = {info.step for info in checkpoints[-self._last :]}
    best = self.best and self.best["step"]
    return [info.step in newest or info.step == best for info in checkpoints]


def _sums(checkpoint: pathlib.Path) -> dict[str, str]:
  """Relative path -> SHA-256 of each file that a restore reads."""
  sums = {}
  for item in _ITEMS:
    for path in sorted((checkpoint / item).rglob("*")):
      if path.is_file():
        with path.open("rb") as file:
          digest = hashlib.file_digest(file, "sha256").hexdigest()
        sums[path.relative_to(checkpoint).as_posix()] = digest
  return sums


def _fault(checkpoint: pathlib.Path) -> str | None:
  """What is wrong with a checkpoint's files, or None."""
  try:
    text = (checkpoint / _SUMS).read_text()
  except (FileNotFoundError, UnicodeDecodeError):
    return f"no readable {_SUMS}"
  lines = [line.split("  ", 1)[::-1] for line in text.splitlines()]
  if not lines or any(len(line) != 2 for line in lines):
    return f"no readable {_SUMS}"
  found = _sums(checkpoint)
  for name, digest in lines:
    if name not in found:
      return f"{name} is missing"
    if found[name] != digest:
      return f"{name} was truncated or altered"
  return None


def _check_finite(state: PyTree) -> None:
  for path, leaf in jax.tree_util.tree_leaves_with_path(state):
    array = jax.device_get(leaf)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
      raise NotFinite(jax.tree_util.keystr(path, simple=True, separator="/"))
