"""What a run was made on, in one line."""

import os
import platform

import jax


def describe() -> str:
  """Processor, cores, accelerators and the JAX version."""
  parts = [f"{_processor()}, {os.cpu_count()} cores"]
  devices = jax.devices()
  kind = devices[0].device_kind
  if devices[0].platform != "cpu":
    parts.append(f"{len(devices)} x {kind}")
  elif len(devices) > 1:
    parts.append(f"{len(devices)} virtual devices")
  if jax.process_count() > 1:
    parts.append(f"{jax.process_count()} processes")
  if jax.config.jax_default_matmul_precision:
    parts.append(f"products: {jax.config.jax_default_matmul_precision}")
  parts.append(f"JAX {jax.__version__}, Python {platform.python_version()}")
  return "; ".join(parts)


def _processor() -> str:
  """The model's name, as far as the system tells."""
  try:
    with open("/proc/cpuinfo", encoding="utf-8") as file:
      for line in file:
        if line.startswith("model name"):
          return line.partition(":")[2].strip()
  except OSError:
    pass  # Not Linux.
  return platform.processor() or platform.machine()
