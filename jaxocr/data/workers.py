"""Elements made ahead of their use, by threads or by processes of grain's.

A worker leaves Ctrl-C and SIGTERM to the training, and ends when that one is
gone, however it went.
"""

from collections.abc import Generator, Iterator
import contextlib
import functools
import gc
import multiprocessing
from multiprocessing import resource_tracker
import os
import signal
import threading
from typing import Any

from absl import flags
import grain
import jax
import numpy as np

_THREADS = 2  # That make elements while the device learns.
_AHEAD = 4  # Elements made ahead; twice as many by each worker.
_KILLED = "terminated unexpectedly"  # So grain says it.
# To which it is the training that answers.
_FOR_TRAINING = (signal.SIGINT, signal.SIGTERM)


def read_ahead(elements: grain.MapDataset, workers: int) -> Generator[Any]:
  """The elements in their order, the same however they are made.

  Args:
    elements: Trees of arrays and other leaves.
    workers: Processes that make them, each with all that `elements` holds in
      its memory; 0 leaves it to threads of this one.

  Raises, from the generator:
    ChildProcessError: A worker was killed.
    Exception: What making an element raised.
  """
  if workers:
    found = iter(_by_workers(elements, workers))
  else:
    options = grain.ReadOptions(
      num_threads=_THREADS, prefetch_buffer_size=_AHEAD
    )
    found = iter(elements.to_iter_dataset(options))
  end = object()
  try:
    # Workers start with the first element.
    with _signals_held() if workers else contextlib.nullcontext():
      element = next(found, end)
    while element is not end:
      yield element
      element = next(found, end)
  except RuntimeError as error:
    if _KILLED not in str(error):
      raise
    raise ChildProcessError(
      f"one of {workers} workers that read ahead was killed ({error}); give "
      "fewer, or more memory, of which /dev/shm is a part"
    ) from error
  finally:
    found.close()  # Ends the workers.
    del found
    if workers:
      gc.collect()  # Cycles hold the last elements, in shared memory.


def _by_workers(elements: grain.MapDataset, workers: int) -> grain.IterDataset:
  """The same elements, in their order, made by processes."""
  if not flags.FLAGS.is_parsed():  # grain asks for flags of its own.
    flags.FLAGS.mark_as_parsed()
  made = elements.to_iter_dataset(
    grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
  )
  options = grain.MultiprocessingOptions(
    num_workers=workers, per_worker_buffer_size=_AHEAD
  )
  made = made.mp_prefetch(options, worker_init_fn=_end_with_parent)
  # Out of shared memory, so that nothing of it is held when a training ends.
  return made.map(functools.partial(jax.tree.map, _copied))


def _copied(leaf):
  return np.array(leaf) if isinstance(leaf, np.ndarray) else leaf


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
  """Ctrl-C and SIGTERM wait, also in processes that are started meanwhile.

  Otherwise they end a worker before it comes to ignore them.
  """
  # It would let them through in the thread that starts it.
  resource_tracker.ensure_running()
  before = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_TRAINING)
  try:
    yield
  finally:
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(worker: int, workers: int) -> None:
  """Sets a worker up to live as long as the training, neither more nor less."""
  del worker, workers
  for signum in _FOR_TRAINING:  # They reach all processes of a job.
    signal.signal(signum, signal.SIG_IGN)
  parent = multiprocessing.parent_process()

  def wait():
    parent.join()
    os._exit(1)  # Killed, it could not end its workers.

  threading.Thread(target=wait, daemon=True).start()
