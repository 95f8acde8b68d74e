import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.train import early

SHAPE = jax.ShapeDtypeStruct((3,), jnp.float32)


@pytest.fixture
def traced():
  """Threads in which `make`'s function was traced, in order."""
  return []


@pytest.fixture
def make(traced):
  def double(x):
    traced.append(threading.current_thread())
    return 2 * x

  return lambda: early.Early(jax.jit(double))


def test_compiled_in_the_background_once(make, traced):
  function = make()
  function.compile(SHAPE)
  function.compile(SHAPE)
  np.testing.assert_array_equal(function(jnp.arange(3.0)), [0, 2, 4])
  np.testing.assert_array_equal(function(jnp.ones(3)), [2, 2, 2])
  assert len(traced) == 1 and traced[0] is not threading.current_thread()
  function.compile(SHAPE)  # Too late to be of use.
  assert function(jnp.ones(3)).shape == (3,) and len(traced) == 1


def test_without_it_the_call_compiles(make, traced):
  function = make()
  np.testing.assert_array_equal(function(jnp.ones(3)), [2, 2, 2])
  function.compile(SHAPE)
  function(jnp.ones(3))
  assert traced == [threading.current_thread()]


def test_the_call_waits_for_what_is_under_way():
  enter, leave = threading.Event(), threading.Event()

  def slow(x):
    enter.set()
    assert leave.wait(timeout=30)
    return x + 1

  function = early.Early(jax.jit(slow))
  function.compile(SHAPE)
  assert enter.wait(timeout=30)  # It began, and nobody had to wait.
  threading.Timer(0.05, leave.set).start()
  np.testing.assert_array_equal(function(jnp.zeros(3)), [1, 1, 1])


def test_what_compiling_raises_reaches_the_caller():
  def broken(x):
    raise ValueError("no such layer")

  function = early.Early(jax.jit(broken))
  function.compile(SHAPE)
  with pytest.raises(ValueError, match="no such layer"):
    function(jnp.zeros(3))


def test_other_shapes_are_refused(make):
  function = make()
  function.compile(SHAPE)
  with pytest.raises(TypeError, match="compiled"):
    function(jnp.zeros(4))


def test_several_processes_compile_in_their_order(make, traced, monkeypatch):
  monkeypatch.setattr(jax, "process_count", lambda: 2)
  function = make()
  function.compile(SHAPE)
  function(jnp.ones(3))
  assert traced == [threading.current_thread()]
