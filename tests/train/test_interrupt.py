import os
import signal
import sys

import pytest

from jaxocr.train import interrupt


def test_a_guard_notes_the_first_signal_and_hands_back():
  before = signal.getsignal(signal.SIGTERM)
  with interrupt.Guard() as guard:
    assert guard.signum is None
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    assert guard.signum == signal.SIGTERM
  assert signal.getsignal(signal.SIGTERM) == before


def test_a_second_ctrl_c_does_not_wait():
  with pytest.raises(KeyboardInterrupt), interrupt.Guard():
    os.kill(os.getpid(), signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize(
  "fault, code, text",
  [
    (
      interrupt.Interrupted(signal.SIGINT, 3, "d"),
      130,
      "Ctrl-C: stopped after",
    ),
    (interrupt.Interrupted(signal.SIGTERM, 3, "d"), 143, "SIGTERM: stopped"),
    (
      interrupt.Diverged(3, "x", None),
      1,
      "x at step 3 is not finite; no check",
    ),
    (ValueError("bad"), 1, "error: bad"),
  ],
)
def test_plain_exit(fault, code, text, capsys):
  with (
    pytest.raises(SystemExit) as stop,
    interrupt.plain_exit(interrupt.Stopped, ValueError),
  ):
    raise fault
  assert stop.value.code == code
  assert capsys.readouterr().err.startswith(text)


@pytest.mark.parametrize(
  "signum, name", [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")]
)
def test_a_signal_without_a_guard_is_one_line(signum, name, capfd, monkeypatch):
  monkeypatch.setattr(os, "_exit", sys.exit)
  before = signal.getsignal(signal.SIGTERM)
  with pytest.raises(SystemExit) as stop, interrupt.plain_exit(ValueError):
    signal.raise_signal(signum)
  assert stop.value.code == 128 + signum
  err = capfd.readouterr().err
  assert err.startswith(f"{name}: stopped at once") and err.count("\n") == 1
  assert signal.getsignal(signal.SIGTERM) == before


def test_plain_exit_lets_other_faults_through():
  with pytest.raises(KeyError), interrupt.plain_exit(ValueError):
    raise KeyError("a bug")
