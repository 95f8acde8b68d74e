import io
import math

from jaxocr.train import progress


class Terminal(io.StringIO):
  def isatty(self):
    return True


def test_a_terminal_has_one_bar():
  file = Terminal()
  bar = progress.Progress(start=0, steps=3, file=file)
  for step in (1, 2, 3):
    bar.advance()
    bar.figures(step, 1.5, 200.4)
  bar.note("hello")
  bar.close()
  text = file.getvalue()
  assert "3/3" in text and "loss 1.5, 200 lines/s" in text
  assert "left" in text and "hello\n" in text
  assert text.count("\n") == 2  # The note's, and the bar's last.


def test_a_log_file_has_plain_lines_at_times(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  file = io.StringIO()
  bar = progress.Progress(start=10, steps=50, file=file)
  for step in range(11, 51):
    now[0] += 4.0
    bar.advance()
    bar.figures(step, 2.0, math.nan)
  bar.close()
  lines = file.getvalue().splitlines()
  # 40 steps of 4 s: every 12 s, and the last.
  assert len(lines) == 14
  assert lines[0] == "step 13/50, loss 2, 02:28 left"
  assert lines[-1] == "step 50/50, loss 2, 00:00 left"
  assert "\r" not in file.getvalue()


def test_the_time_left_does_not_count_compiling(monkeypatch):
  now = [0.0]
  monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
  file = io.StringIO()
  bar = progress.Progress(start=0, steps=5, file=file)
  for step in (1, 2):
    now[0] += {1: 100.0, 2: 10.0}[step]
    bar.advance()
    bar.figures(step, 2.0, math.nan)
  # Nothing is known after the first step; then 3 steps of 10 s are left.
  assert file.getvalue().splitlines() == [
    "step 1/5, loss 2",
    "step 2/5, loss 2, 00:30 left",
  ]


def test_other_processes_are_silent():
  file = Terminal()
  bar = progress.Progress(start=0, steps=2, shown=False, file=file)
  bar.advance()
  bar.figures(2, 1.0, 1.0)
  bar.note("hello")
  bar.close()
  assert file.getvalue() == ""
