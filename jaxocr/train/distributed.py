"""Several processes: how they find each other, and who may write."""

import jax
from jax.experimental import multihost_utils
import numpy as np

from jaxocr import exact


def start(
  coordinator: str | None, num_processes: int | None, process_id: int | None
) -> None:
  """Joins the other processes of this run, and sees to exact products.

  To be called before any computation.

  With all three None, JAX's own detection decides (TPU pods, Slurm, Open MPI),
  and where it finds no cluster the run has one process.

  Args:
    coordinator: host:port of process 0.
    num_processes: How many take part.
    process_id: Of this one, from 0.

  Raises:
    ValueError: Only some of the three are given, or the others are not reached.
  """
  given = (coordinator, num_processes, process_id)
  alone = all(value is None for value in given)
  if not alone and any(value is None for value in given):
    raise ValueError(
      f"coordinator={coordinator}, num_processes={num_processes}, "
      f"process_id={process_id}: give all three, or none to have them detected"
    )
  try:
    jax.distributed.initialize(*given)
  except ValueError as error:
    # So JAX says that it found no cluster; anything else is a real fault.
    if not alone or "coordinator_address should be defined" not in str(error):
      raise
  except RuntimeError as error:
    reason = str(error).partition("\n")[0]
    raise ValueError(
      f"coordinator={coordinator}: the processes did not find each other "
      f"({reason}); start all of them, and give the address of process 0"
    ) from error
  exact.set_up()


def is_writer() -> bool:
  """Whether this process writes the run's files and its screen."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process is here."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def any_process(flag: bool) -> bool:
  """Whether `flag` holds in some process; all processes must call it."""
  if jax.process_count() == 1:
    return flag
  return bool(np.any(multihost_utils.process_allgather(np.array(flag))))
