import os
import platform

import pytest

from jaxocr import cpu


def test_memory_is_kept_where_glibc_is():
  assert cpu.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")


@pytest.mark.parametrize(
  ("features", "given", "after"),
  [
    ("fpu avx2 avx512f", "", "--xla_cpu_prefer_vector_width=512"),
    ("avx512f fma", "--xla_a=1", "--xla_a=1 --xla_cpu_prefer_vector_width=512"),
    (
      "avx512f",
      "--xla_cpu_prefer_vector_width=256",
      "--xla_cpu_prefer_vector_width=256",
    ),
    ("fpu avx2 fma", "--xla_a=1", "--xla_a=1"),
  ],
)
def test_vectors_are_as_wide_as_the_processor_has(
  features, given, after, tmp_path, monkeypatch
):
  cpuinfo = tmp_path / "cpuinfo"
  cpuinfo.write_text(f"processor\t: 0\nflags\t\t: {features}\nbogomips: 1\n")
  monkeypatch.setenv("XLA_FLAGS", given)
  assert cpu.prefer_wide_vectors(str(cpuinfo)) == (given != after)
  assert os.environ["XLA_FLAGS"] == after


def test_without_linux_nothing_is_set(tmp_path, monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  assert not cpu.prefer_wide_vectors(str(tmp_path / "absent"))
  assert os.environ["XLA_FLAGS"] == ""
