"""The training loop: one fixed order, resumable at every step.

Restore; then for each step: update, log, evaluate, save, stop if asked. Numbers
stay on the device until a log point, and a state is saved only when all of it
is finite.
"""

from collections.abc import Callable, Sequence
import contextlib
import dataclasses
import math
import os
from typing import Any

import jax

from jaxocr.train import checkpoints as checkpoints_lib
from jaxocr.train import clock as clock_lib
from jaxocr.train import distributed
from jaxocr.train import evaluate
from jaxocr.train import interrupt
from jaxocr.train import progress
from jaxocr.train import report_lines
from jaxocr.train import state as state_lib
from jaxocr.train import writers

_SHOWN = 4  # Lines in the sample below an evaluation.
_PICTURED = 16  # Lines of an evaluation that TensorBoard shows.

TrainStep = Callable[
  [state_lib.TrainState, int], tuple[state_lib.TrainState, dict[str, Any]]
]
Evaluate = Callable[[state_lib.TrainState], Sequence[report_lines.LineResult]]


@dataclasses.dataclass(frozen=True)
class Plan:
  """How long, and what happens how often; all in steps but `batch_size`."""

  steps: int
  batch_size: int  # Lines of a step.
  log_every: int
  eval_every: int
  checkpoint_every: int  # Evaluations save besides, with their score.
  keep_checkpoints: int  # The best is kept besides.
  stage: str = ""  # Of a staged run: its checkpoints lie in a folder so called.
  earlier_steps: int = 0  # Of the stages before, which metrics go on from.

  def due(self, step: int) -> tuple[bool, bool, bool]:
    """Whether `step` is to be logged, evaluated and saved."""
    at_eval = step == self.steps or step % self.eval_every == 0
    at_save = at_eval or step % self.checkpoint_every == 0
    return step % self.log_every == 0, at_eval, at_save


def fit(
  state: state_lib.TrainState,
  train_step: TrainStep,
  evaluate_state: Evaluate,
  *,
  plan: Plan,
  workdir: str | os.PathLike,
  clock: clock_lib.Clock,
  learning_rate: Callable[[int], Any],
) -> state_lib.TrainState:
  """Trains up to `plan.steps`, from the newest checkpoint where there is one.

  Args:
    state: A new state, which also says how a restored one is to be placed.
    train_step: (state, updates done) -> (state, metrics as (sum, count)); may
      take the state's buffers for the new one. The number is the state's, but
      known before the state is.
    evaluate_state: Lines as the state reads them, with the same ones each time.
    plan: The numbers.
    workdir: The run's folder.
    clock: Started with the run.
    learning_rate: Updates done -> rate of the next one, to be logged.

  Returns:
    The last state, saved.

  Raises:
    interrupt.Interrupted: SIGTERM or Ctrl-C; the state was saved.
    interrupt.Diverged: Something is not finite; names the step.
  """
  with interrupt.Guard() as guard, contextlib.ExitStack() as stack:
    store = checkpoints_lib.Checkpoints(
      workdir, keep=plan.keep_checkpoints, stage=plan.stage
    )
    stack.callback(store.close)
    # 0. Restore. The template's arrays are dropped for the saved ones.
    start, state = _restore(store, state, clock)
    if start >= plan.steps:
      return state  # The record of later stages stays as it is.
    record = _Record(workdir, plan, clock, learning_rate, start)
    stack.enter_context(record)
    for step in range(start + 1, plan.steps + 1):
      # 1. Update.
      state, metrics = train_step(state, step - 1)
      record.add(step, metrics)
      # 2. Log. Whatever saves must log first: it finds what is not finite.
      at_log, at_eval, at_save = plan.due(step)
      stop = _asked_to_stop(guard, at_log)
      if at_log or at_save or stop:
        record.flush(store.latest_step())
      # 3. Evaluate.
      score = None
      if at_eval:
        score = record.evaluation(step, evaluate_state(state))
      # 4. Save.
      if at_save or stop:
        _save(store, state, step, clock, score)
      # 5. Stop, also for what came while the last step was evaluated or saved.
      if stop or step == plan.steps:
        store.wait()
        stop = stop or _asked_to_stop(guard, at_log=True)
      if stop:
        raise interrupt.Interrupted(stop, step, store.directory)
  return state


def _restore(store, state, clock) -> tuple[int, state_lib.TrainState]:
  """The newest step saved and its state; 0 and `state` where there is none."""
  restored = store.restore(state)
  if restored is None:
    return 0, state
  clock.resume(restored.meta)
  return restored.step, restored.state


def _asked_to_stop(guard: interrupt.Guard, at_log: bool) -> int | None:
  """The signal that came, if all processes know of it by now."""
  if jax.process_count() == 1:
    return guard.signum
  # A signal may have reached one process only, and asking costs a collective.
  if not at_log or not distributed.any_process(guard.signum is not None):
    return None
  return guard.signum or interrupt.DEFAULT


def _save(store, state, step, clock, score) -> None:
  try:
    store.save(state, step, clock.saved(), score=score)
  except checkpoints_lib.NotFinite as fault:
    raise interrupt.Diverged(step, str(fault), store.latest_step()) from fault
  clock.start()  # So that evaluating and saving are in no lap.


class _Record:
  """What is known of the steps since the last log point, and who is told."""

  def __init__(self, workdir, plan, clock, learning_rate, start):
    self._plan, self._clock = plan, clock
    self._learning_rate = learning_rate
    self._pending: list[tuple[int, Any]] = []  # (step, metrics on the device)
    self._first = start + 1
    writes = distributed.is_writer()
    self._writer = (
      writers.MetricWriter(workdir, start_step=plan.earlier_steps + start)
      if writes
      else None
    )
    self._progress = progress.Progress(
      start=start, steps=plan.steps, shown=writes
    )
    of = f" of stage {plan.stage}" if plan.stage else ""
    if start:
      self._progress.note(f"going on from step {start}{of}")
    if start < plan.steps:
      self._progress.note(f"compiling the training step{of}")

  def __enter__(self):
    return self

  def __exit__(self, *exc_info) -> None:
    self._progress.close()
    if self._writer is not None:
      self._writer.close()

  def add(self, step: int, metrics: Any) -> None:
    """Takes a step's metrics without fetching them."""
    self._pending.append((step, metrics))
    if step == self._first:
      jax.block_until_ready(metrics)
      self._clock.start()  # So that compiling is in no lap.
    elif len(self._pending) > 1:
      # At most two steps are under way, so a signal is soon obeyed.
      jax.block_until_ready(self._pending[-2])
    self._progress.advance()

  def flush(self, saved: int | None) -> None:
    """Fetches, checks and tells what is pending.

    Raises:
      interrupt.Diverged: Names the first step that is not finite.
    """
    fetched = jax.device_get(self._pending)
    self._pending = []
    for step, metrics in fetched:
      if not metrics["finite"][0]:
        raise interrupt.Diverged(step, "the loss or its gradient", saved)
    step = fetched[-1][0]
    # The first step of a session compiles and is in no lap.
    timed = sum(done != self._first for done, _ in fetched)
    speed, waits = math.nan, {}
    if timed:
      if self._clock.waited_s is not None:
        waits["data_wait_ms"] = 1e3 * self._clock.waited_s / timed
      speed = self._clock.lap(timed * self._plan.batch_size)
      if waits:
        waits["step_ms"] = 1e3 * self._plan.batch_size / speed
    values = {
      name: _mean(metrics[name] for _, metrics in fetched)
      for name in fetched[0][1]
      if name != "finite"
    }
    self._progress.figures(step, values["loss"], speed, **waits)
    values["learning_rate"] = float(self._learning_rate(step - 1))
    self._scalars("train", step, values | {"lines_per_s": speed} | waits)

  def evaluation(
    self, step: int, lines: Sequence[report_lines.LineResult]
  ) -> float:
    """Tells how lines were read; returns their line accuracy."""
    scores = evaluate.score(lines)
    self._scalars("eval", step, scores)
    text = evaluate.describe(scores)
    self._progress.note(
      f"step {step}: {text}\n{evaluate.samples(lines, _SHOWN)}"
    )
    if self._writer is not None:
      pictures = [line.image[..., None] / 255 for line in lines[:_PICTURED]]
      self._writer.images(
        self._plan.earlier_steps + step, "eval/lines", pictures
      )
    return scores["line_accuracy"]

  def _scalars(self, group: str, step: int, values: dict[str, float]) -> None:
    if self._writer is not None:
      known = {k: v for k, v in values.items() if math.isfinite(v)}
      named = {f"{group}/{k}": v for k, v in known.items()}
      self._writer.scalars(self._plan.earlier_steps + step, named)


def _mean(pairs) -> float:
  """Merges (sum, count) pairs and divides once."""
  sums, counts = zip(*pairs, strict=True)
  return float(sum(sums) / sum(counts))
