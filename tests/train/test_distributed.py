import pytest

from jaxocr.train import distributed


@pytest.mark.parametrize(
  "given",
  [("127.0.0.1:1", None, None), (None, 2, 0), ("127.0.0.1:1", 2, None)],
)
def test_all_three_or_none(given):
  with pytest.raises(ValueError, match="give all three, or none"):
    distributed.start(*given)


def test_one_process_is_alone(monkeypatch):
  assert distributed.is_writer()
  assert distributed.any_process(True) and not distributed.any_process(False)
  distributed.barrier("nobody else")


def test_no_cluster_is_no_error(monkeypatch):
  def initialize(*given):
    raise ValueError("coordinator_address should be defined.")

  monkeypatch.setattr("jax.distributed.initialize", initialize)
  distributed.start(None, None, None)


def test_a_coordinator_that_does_not_answer_is_named(monkeypatch):
  def initialize(*given):
    raise RuntimeError("DEADLINE_EXCEEDED: waited\nmore")

  monkeypatch.setattr("jax.distributed.initialize", initialize)
  with pytest.raises(ValueError, match=r"=host:1: .*waited\); start") as error:
    distributed.start("host:1", 2, 1)
  assert "\n" not in str(error.value)


def test_a_broken_cluster_is_an_error(monkeypatch):
  def initialize(*given):
    raise ValueError("process_id must be nonnegative")

  monkeypatch.setattr("jax.distributed.initialize", initialize)
  with pytest.raises(ValueError, match="process_id"):
    distributed.start(None, None, None)
