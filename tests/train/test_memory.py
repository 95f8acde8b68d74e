import platform

from jaxocr.train import memory


def test_glibc_takes_every_setting():
  assert memory.keep_freed_memory() == (platform.libc_ver()[0] == "glibc")
