"""Stopping a run between two steps, for a person or for the machine."""

import contextlib
import os
import signal
import sys

DEFAULT = signal.SIGTERM  # Taken to have come where another process got it.


class Stopped(Exception):
  """A run that ended early on purpose; its text is for a person.

  Attributes:
    exit_code: What the process should return.
  """

  exit_code = 1


@contextlib.contextmanager
def plain_exit(*kinds: type[Exception]):
  """Turns such an exception into its text and an exit code, no traceback.

  The code is the exception's `exit_code` where it has one, else 1. SIGTERM and
  Ctrl-C that no `Guard` notes end the process in the same way, at once.
  """
  signums = (signal.SIGTERM, signal.SIGINT)
  before = [signal.signal(signum, _leave_at_once) for signum in signums]
  try:
    yield
  except KeyboardInterrupt:  # The second Ctrl-C of a Guard.
    _leave_at_once(signal.SIGINT)
  except kinds as fault:
    prefix = "" if isinstance(fault, Stopped) else "error: "
    print(f"{prefix}{fault}", file=sys.stderr)
    sys.exit(getattr(fault, "exit_code", 1))
  finally:
    for signum, handler in zip(signums, before, strict=True):
      signal.signal(signum, handler)


def _leave_at_once(signum, frame=None):
  """Ends the process; an exception might be lost in a callback of JAX."""
  text = (
    f"{_name(signum)}: stopped at once; what was saved stays, and the same "
    "command goes on from there\n"
  )
  os.write(2, text.encode())  # Not print, which may be what was interrupted.
  os._exit(128 + signum)


def _name(signum: int) -> str:
  return "Ctrl-C" if signum == signal.SIGINT else signal.Signals(signum).name


class Interrupted(Stopped):
  """SIGTERM or Ctrl-C; the state of the last step was saved."""

  def __init__(self, signum: int, step: int, directory):
    super().__init__(
      f"{_name(signum)}: stopped after step {step}, saved in {directory}; the "
      "same command goes on from there"
    )
    self.exit_code = 128 + signum  # As a shell reports it: 130 or 143.


class Diverged(Stopped):
  """A loss, gradient or weight that is not finite; nothing of it was saved."""

  def __init__(self, step: int, what: str, saved: int | None):
    kept = "no checkpoint was made yet"
    if saved is not None:
      kept = f"the checkpoint of step {saved} is kept"
    super().__init__(
      f"{what} at step {step} is not finite; {kept}. Try a lower "
      "learning_rate or a longer warm-up, in another --workdir or with "
      "--restart"
    )


class Guard:
  """Within `with`, notes SIGTERM and Ctrl-C instead of dying of them.

  A second Ctrl-C raises KeyboardInterrupt at once.
  """

  _SIGNALS = (signal.SIGTERM, signal.SIGINT)

  def __init__(self):
    self.signum: int | None = None  # The first signal that came.
    self._before = {}

  def __enter__(self) -> "Guard":
    for signum in self._SIGNALS:
      self._before[signum] = signal.signal(signum, self._note)
    return self

  def __exit__(self, *exc_info) -> None:
    for signum, handler in self._before.items():
      signal.signal(signum, handler)

  def _note(self, signum, frame) -> None:
    if self.signum == signum == signal.SIGINT:
      raise KeyboardInterrupt
    if self.signum is None:
      self.signum = signum
