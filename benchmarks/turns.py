"""Contests between processes that take turns, so that noise hits all alike.

A contestant is a script in this folder that ends in `turns.serve(work, lines)`.
It is stopped in a process of its own until it is asked for a turn, does some
pieces of work and says how long those took. Other Python environments take part
by their interpreter, and all share the same cores.

Only the standard library is imported here, since every environment reads it.
"""

from collections.abc import Callable, Mapping, Sequence
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
_PIECES = 6  # Of work, timed together in a turn.
_ANSWERS = "TURNS_ANSWERS_FD"  # Environment variable, the pipe to answer on.


class Contestant:
  """A process that does timed pieces of work on request."""

  def __init__(self, script: str, *arguments, python: str = sys.executable):
    """Starts `script` of this folder and waits until it has warmed up.

    Raises:
      RuntimeError: The process ended instead; its own message is on stderr.
    """
    self.name = " ".join([script.removesuffix(".py"), *map(str, arguments)])
    path = [str(HERE), str(HERE.parent), os.environ.get("PYTHONPATH", "")]
    # Answers have a pipe of their own: libraries print what they like.
    reading, writing = os.pipe()
    self._answers = os.fdopen(reading, encoding="utf-8")
    self._process = subprocess.Popen(
      [python, str(HERE / script), *map(str, arguments)],
      stdin=subprocess.PIPE,
      stdout=sys.stderr,
      text=True,
      pass_fds=(writing,),
      env=os.environ
      | {
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        _ANSWERS: str(writing),
      },
    )
    os.close(writing)
    self.facts = self._answer()
    self._pause()

  def turn(self) -> float:
    """Lines per second of `_PIECES` pieces of work, after one unmeasured."""
    self._process.send_signal(signal.SIGCONT)
    self._process.stdin.write("turn\n")
    self._process.stdin.flush()
    answer = self._answer()
    self._pause()
    return answer["lines"] / answer["seconds"]

  def _pause(self) -> None:
    """Stops it: threads that wait by spinning would slow the next one down."""
    self._process.send_signal(signal.SIGSTOP)

  def close(self) -> None:
    self._process.send_signal(signal.SIGCONT)
    self._process.stdin.close()
    self._process.wait(timeout=30)
    self._answers.close()

  def _answer(self) -> dict:
    line = self._answers.readline()
    if not line:
      raise RuntimeError(
        f"{self.name} ended with code {self._process.wait()}; see its message"
        " above, and the requirements file of that peer in benchmarks/"
      )
    return json.loads(line)


def serve(work: Callable[[], None], lines: int, **facts) -> None:
  """A contestant's side: warms up, then works when asked until stdin closes.

  Args:
    work: One piece; returns when all of its results are there.
    lines: Lines of text in a piece.
    **facts: JSON-able things to tell of this contestant.
  """
  for _ in range(3):
    work()
  with os.fdopen(int(os.environ[_ANSWERS]), "w", encoding="utf-8") as answers:
    print(json.dumps(facts), file=answers, flush=True)
    for _ in sys.stdin:
      work()
      start = time.perf_counter()
      for _ in range(_PIECES):
        work()
      seconds = time.perf_counter() - start
      answer = {"lines": _PIECES * lines, "seconds": seconds}
      print(json.dumps(answer), file=answers, flush=True)


def share_cores(count: int) -> None:
  """Confines this process and the contestants it starts to `count` cores."""
  if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:count])
  os.environ["OMP_NUM_THREADS"] = str(count)


def play(
  contestants: Mapping[str, Contestant], *, rounds: int
) -> dict[str, list[float]]:
  """Lines per second of every turn; the order turns round from round to round.

  So nobody always follows the same neighbour, whose caches and clocks it would
  inherit.
  """
  speeds = {name: [] for name in contestants}
  for index in range(rounds):
    names = list(contestants)[:: 1 if index % 2 else -1]
    for name in names:
      speeds[name].append(contestants[name].turn())
  return speeds


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
  """Median over rounds of ours / theirs, each pair measured back to back."""
  pairs = zip(ours, theirs, strict=True)
  return statistics.median(a / b for a, b in pairs)


def write(path: str, result: dict) -> None:
  """Writes the result as JSON, aside and then renamed."""
  target = pathlib.Path(path)
  target.parent.mkdir(parents=True, exist_ok=True)
  aside = target.with_name(target.name + ".part")
  aside.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
  os.replace(aside, target)
