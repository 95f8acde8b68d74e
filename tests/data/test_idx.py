"""IDX files, written here byte by byte."""

import gzip
import struct

import numpy as np
import pytest

from jaxocr.data import idx


def pack(array):
  """An IDX file's bytes before compression."""
  array = np.asarray(array, np.uint8)
  head = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
  return head + array.tobytes()


def write(path, data):
  path.write_bytes(gzip.compress(data))
  return path


def write_mnist(folder, *, train=5, test=3, size=(4, 6), labels=None):
  """Four files of random pixels; `labels` replaces those of the test part."""
  rng = np.random.default_rng(0)
  for names, count in ((idx.TRAIN, train), (idx.TEST, test)):
    write(folder / names[0], pack(rng.integers(0, 256, (count, *size))))
    write(folder / names[1], pack(np.arange(count) % 10))
  if labels is not None:
    write(folder / idx.TEST[1], pack(labels))


def test_by_hand(tmp_path):
  data = bytes([0, 0, 8, 3, 0, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 3])
  path = write(tmp_path / "a.gz", data + bytes([1, 2, 3, 4, 5, 255]))
  array = idx.read_idx(path, rank=3)
  assert array.dtype == np.uint8
  assert array.tolist() == [[[1, 2, 3]], [[4, 5, 255]]]


def test_lengths_are_big_endian(tmp_path):
  values = np.arange(300) % 256
  array = idx.read_idx(write(tmp_path / "a.gz", pack(values)), rank=1)
  np.testing.assert_array_equal(array, values)


GOOD = pack([7, 8, 9])


@pytest.mark.parametrize(
  "data, text",
  [
    (b"", r"starts with bytes \(none\)"),
    (pack([[7, 8, 9]]), "starts with bytes 00 00 08 02; .* 00 00 08 01"),
    (b"\x00\x00\x0d\x01" + GOOD[4:], "starts with bytes 00 00 0d 01"),
    (GOOD[:6], "is cut short"),
    (GOOD[:-1], "states a shape of 3, 3 bytes, and holds less"),
    (GOOD[:4] + b"\xff" * 4 + GOOD[8:], "states a shape of 4294967295, "),
    (GOOD + b"x", "states a shape of 3, 3 bytes, and holds more"),
  ],
)
def test_wrong_content_is_told(tmp_path, data, text):
  path = write(tmp_path / "labels.gz", data)
  with pytest.raises(idx.IdxError, match=rf"labels\.gz {text}"):
    idx.read_idx(path, rank=1)


def test_a_vast_shape_is_no_reason_to_reserve_memory(tmp_path):
  path = write(tmp_path / "a.gz", bytes((0, 0, 8, 3)) + b"\xff" * 12 + b"x")
  with pytest.raises(idx.IdxError, match="and holds less"):
    idx.read_idx(path, rank=3)


def test_damaged_files_are_told(tmp_path):
  path = tmp_path / "labels.gz"
  with pytest.raises(idx.IdxError, match=r"labels\.gz: there is no such file"):
    idx.read_idx(path, rank=1)
  whole = gzip.compress(pack(np.arange(256)))
  path.write_bytes(whole[: len(whole) // 2])
  with pytest.raises(idx.IdxError, match=r"labels\.gz is cut short"):
    idx.read_idx(path, rank=1)
  for data in (
    b"no gzip",
    whole[:10] + b"\xff" + whole[11:],
    whole[:-8] + bytes(8),
  ):
    path.write_bytes(data)
    with pytest.raises(idx.IdxError, match=r"labels\.gz is no sound gzip file"):
      idx.read_idx(path, rank=1)


def test_both_parts(tmp_path):
  write_mnist(tmp_path)
  train, test = idx.load_mnist(tmp_path)
  assert train.images.shape == (5, 4, 6) and test.images.shape == (3, 4, 6)
  assert train.labels.tolist() == [0, 1, 2, 3, 4]
  assert test.labels.tolist() == [0, 1, 2]


def test_what_is_missing_is_named_beside_all_four(tmp_path):
  write_mnist(tmp_path)
  (tmp_path / idx.TEST[0]).unlink()
  lacks = rf"lacks {idx.TEST[0]}; .*{', '.join(idx.TRAIN + idx.TEST)}"
  with pytest.raises(idx.IdxError, match=lacks):
    idx.load_mnist(tmp_path)


@pytest.mark.parametrize(
  "labels, text",
  [
    ([1, 2], "has 3 images, .* has 2 labels"),
    ([1, 2, 10], "has label 10; digits are 0 to 9"),
  ],
)
def test_labels_must_fit(tmp_path, labels, text):
  write_mnist(tmp_path, labels=labels)
  with pytest.raises(idx.IdxError, match=text):
    idx.load_mnist(tmp_path)


def test_parts_must_fit_and_hold_images(tmp_path):
  write_mnist(tmp_path)
  write(tmp_path / idx.TEST[0], pack(np.zeros((3, 5, 6))))
  with pytest.raises(idx.IdxError, match="are 4x6, test images 5x6"):
    idx.load_mnist(tmp_path)
  write(tmp_path / idx.TEST[0], pack(np.zeros((0, 4, 6))))
  with pytest.raises(idx.IdxError, match="holds no image"):
    idx.load_mnist(tmp_path)
