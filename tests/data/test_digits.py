"""Sets of digits: through TFDS, from scikit-learn, and when there is none."""

import functools
import gzip
import hashlib
import http.server
import pathlib
import struct
import subprocess
import sys
import threading

import numpy as np
import pytest

from jaxocr.data import digits
from jaxocr.data import digits_builder
from jaxocr.data import idx
from tests.data import test_idx

MNIST = pathlib.Path(__file__).parents[3] / "shared" / "data" / "mnist"
NOISY = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(name="small")
def make_small(tmp_path, monkeypatch):
  """A folder of a few digits that the builder takes for MNIST."""
  folder = tmp_path / "mnist"
  folder.mkdir()
  test_idx.write_mnist(folder, train=6, test=3, size=(28, 28))
  for name in digits_builder.SHA256:
    held = gzip.decompress((folder / name).read_bytes())
    monkeypatch.setitem(
      digits_builder.SHA256, name, hashlib.sha256(held).hexdigest()
    )
  return folder


@NOISY
def test_local_files_come_through_tfds_in_their_order(small, tmp_path):
  found = digits.load(
    "mnist", mnist_dir=str(small), data_dir=str(tmp_path / "tfds")
  )
  assert (tmp_path / "tfds" / "jaxocr_mnist" / "1.0.0").is_dir()
  for part, expected in zip(
    (found.train, found.test), idx.load_mnist(small), strict=True
  ):
    np.testing.assert_array_equal(part.images, expected.images)
    np.testing.assert_array_equal(part.labels, expected.labels)
  assert found.classes == tuple("0123456789")
  # A second time nothing is prepared: the files are not even opened.
  again = digits.load("mnist", data_dir=str(tmp_path / "tfds"))
  np.testing.assert_array_equal(again.train.images, found.train.images)


@NOISY
def test_what_is_not_mnist_is_refused(small, tmp_path):
  path = small / idx.TRAIN[1]
  path.write_bytes(gzip.compress(struct.pack(">II6B", 2049, 6, *range(6))[:-1]))
  with pytest.raises(idx.IdxError, match=f"is not MNIST's {idx.TRAIN[1]}: "):
    digits.load("mnist", mnist_dir=str(small), data_dir=str(tmp_path / "t"))
  path.write_bytes(b"<html>")
  with pytest.raises(idx.IdxError, match=rf"{idx.TRAIN[1]} is no sound gzip"):
    digits.load("mnist", mnist_dir=str(small), data_dir=str(tmp_path / "t"))
  path.unlink()
  with pytest.raises(idx.IdxError, match=f"{idx.TRAIN[1]}: there is no such"):
    digits.load("mnist", mnist_dir=str(small), data_dir=str(tmp_path / "t"))


@NOISY
def test_without_files_and_network_three_ways_are_told(tmp_path, monkeypatch):
  # A port where nobody listens.
  monkeypatch.setattr(digits_builder, "URL", "http://127.0.0.1:9/")
  with pytest.raises(digits.DataError) as error:
    digits.load("mnist", data_dir=str(tmp_path))
  for way in ("--cfg.mnist_dir=FOLDER", "network", "--cfg.dataset=digits"):
    assert way in str(error.value)


@NOISY
def test_files_are_fetched_and_held_against_their_checksums(
  small, tmp_path, monkeypatch
):
  handler = functools.partial(_Quiet, directory=small)
  with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/"
    monkeypatch.setattr(digits_builder, "URL", url)
    found = digits.load("mnist", data_dir=str(tmp_path / "a"))
    monkeypatch.setitem(digits_builder.SHA256, idx.TEST[0], "0" * 64)
    with pytest.raises(idx.IdxError, match=f"is not MNIST's {idx.TEST[0]}"):
      digits.load("mnist", data_dir=str(tmp_path / "b"))
    server.shutdown()
  np.testing.assert_array_equal(
    found.test.images, idx.load_mnist(small)[1].images
  )


class _Quiet(http.server.SimpleHTTPRequestHandler):
  def log_message(self, *args):
    pass


@NOISY
def test_other_sets_must_be_prepared_and_known(tmp_path):
  for name, text in (
    ("kmnist", "kmnist is not prepared in .*file_format=array_record"),
    ("nothing_of_that_name", "is unknown to TFDS"),
  ):
    with pytest.raises(digits.DataError, match=text):
      digits.load(name, data_dir=str(tmp_path))


def test_sklearn_digits_look_like_mnist():
  from sklearn import datasets

  found = digits.load("digits")
  assert found.train.images.shape == (1437, 28, 28)
  assert found.test.images.shape == (360, 28, 28)
  source = datasets.load_digits()
  np.testing.assert_array_equal(found.test.labels, source.target[::5])
  # The first image's ink, enlarged (20/8)^2 times, in 16ths of 255.
  ink = found.test.images[0].sum() / 255
  assert ink == pytest.approx(source.images[0].sum() / 16 * 6.25, rel=0.05)
  assert not found.test.images[:, :4].any()


@pytest.mark.slow
@pytest.mark.skipif(not MNIST.is_dir(), reason="needs MNIST's four files")
def test_real_mnist_without_tensorflow(tmp_path):
  """In a process of its own, so that no other test imported anything."""
  code = f"""
import sys
from jaxocr.data import digits
mnist_dir, data_dir = {str(MNIST)!r}, {str(tmp_path)!r}
found = digits.load("mnist", mnist_dir=mnist_dir, data_dir=data_dir)
assert found.train.images.shape == (60000, 28, 28)
assert found.test.images.shape == (10000, 28, 28)
assert found.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
assert found.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
# Mean .1307 and deviation .3081 are the published figures.
x = found.train.images / 255
assert round(x.mean(), 4) == 0.1307 and round(x.std(), 4) == 0.3081
assert "tensorflow" not in sys.modules
"""
  root = pathlib.Path(__file__).parents[2]
  subprocess.run([sys.executable, "-c", code], check=True, cwd=root)
