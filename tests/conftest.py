"""What holds in every test: strict ranks and eight virtual CPU devices.

Both are set before JAX starts its backend, so this file must be imported
before any test touches an array. Warnings are errors: see pyproject.toml.
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
