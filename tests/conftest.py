"""What holds in every test: strict ranks and eight virtual CPU devices.

Both are set before JAX starts its backend, so this file must be imported
before any test touches an array. Warnings are errors: see pyproject.toml.

Whole runs spend their time on compiling training steps for a handful of
updates. They compile without LLVM's optimisations, in two thirds of the time;
what is held bit against bit in `compress` is compiled as users have it.
"""

import os
import tempfile

import jax

# Broadcasting [B] against [B, K] by accident is the commonest silent bug.
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_platforms", "cpu")
# Sharding is tested on every machine; see tests/train/test_sharding.py.
jax.config.update("jax_num_cpu_devices", 8)

# The same small functions are compiled by test after test, in each worker and
# in the processes that tests start: once a session is enough.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = tempfile.TemporaryDirectory(prefix="jaxocr-tests-")
  os.environ["JAX_COMPILATION_CACHE_DIR"] = _cache.name
jax.config.update(
  "jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"]
)

_WHOLE_RUNS = ("experiments", "export", "models", "train")


def pytest_runtest_setup(item):
  hasty = item.path.parent.name in _WHOLE_RUNS
  jax.config.update("jax_disable_most_optimizations", hasty)
  # Also for the processes that a test starts.
  os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = str(int(hasty))
