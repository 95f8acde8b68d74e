import io
import struct
import zlib

import numpy as np
import PIL.Image
import pytest

from jaxocr.data import preprocess

RAMP = np.arange(6 * 40, dtype=np.uint8).reshape(6, 40)


def _encoded(image, image_format="PNG", **kwargs):
  file = io.BytesIO()
  image.save(file, image_format, **kwargs)
  return file.getvalue()


def _png_header(width, height):
  """A PNG that claims a size and holds no pixels."""

  def chunk(kind, data):
    crc = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)

  header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
  return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IEND", b"")


def _fails(source, message):
  with pytest.raises(preprocess.PreprocessError, match=message) as info:
    preprocess.load_image(source)
  assert "\n" not in str(info.value)


def test_load_every_kind_of_source(tmp_path):
  image = PIL.Image.fromarray(RAMP)
  path = tmp_path / "ramp.png"
  image.save(path)
  data = path.read_bytes()
  sources = [
    path,
    str(path),
    data,
    bytearray(data),
    memoryview(data),
    image,
    RAMP,
  ]
  for source in [
    *sources,
    RAMP[:, :, None],
    np.stack([RAMP] * 3, 2),
    RAMP / 255,
  ]:
    grey = preprocess.load_image(source)
    assert grey.dtype == np.uint8
    np.testing.assert_array_equal(grey, RAMP)
  assert preprocess.load_image(RAMP) is RAMP
  with pytest.raises(TypeError, match="got int"):
    preprocess.load_image(7)


def test_load_missing_directory_empty_and_garbage(tmp_path):
  (tmp_path / "empty.png").touch()
  (tmp_path / "text.png").write_text("not an image")
  _fails(tmp_path / "none.png", "no such file")
  _fails(tmp_path, "a directory, not an image")
  _fails(tmp_path / "empty.png", "empty: 0 bytes")
  _fails(b"", "empty: 0 bytes")
  _fails(tmp_path / "text.png", "not an image")
  _fails(b"\x00" * 100, "not an image")
  _fails("nul\0byte.png", "unreadable")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "TIFF", "BMP", "WEBP"])
def test_load_truncated(image_format):
  noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
  data = _encoded(PIL.Image.fromarray(noise), image_format)
  for share in (0.1, 0.5, 0.9):
    _fails(data[: int(len(data) * share)], "unreadable|not an image")


def test_load_truncated_lazy_pil_image():
  noise = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
  data = _encoded(PIL.Image.fromarray(noise))
  _fails(PIL.Image.open(io.BytesIO(data[:2000])), "unreadable: ")


def test_load_huge():
  _fails(
    _png_header(10_001, 10_000), r"too large: 10001x10000 .* 100 megapixels"
  )
  _fails(_png_header(40_000, 40_000), "too large: over 100 megapixels")
  # Pillow would only warn here; the pixels are what is wrong.
  _fails(_png_header(9_500, 10_000), "unreadable")
  flat = np.broadcast_to(np.uint8(0), (10_001, 10_000))
  _fails(flat, "too large: 10000x10001")


def test_load_cmyk():
  # 100 % cyan = (0, 255, 255), luma 0.701; 40 % black = 153.
  pixels = np.array([[[255, 0, 0, 0], [0, 0, 0, 102]]], np.uint8)
  image = PIL.Image.fromarray(pixels, "CMYK")
  np.testing.assert_array_equal(preprocess.load_image(image), [[179, 153]])
  grey = preprocess.load_image(_encoded(image.resize((16, 8), 0), "JPEG"))
  np.testing.assert_allclose(grey[:, :4], 179, atol=3)


@pytest.mark.parametrize("dtype", ["<u2", ">u2", "<i4", "<f4"])
def test_load_deep(dtype):
  deep = RAMP.astype(dtype) * 257  # 16 bits in each container.
  image_format = "TIFF" if dtype in ("<f4", "<i4") else "PNG"
  image = PIL.Image.fromarray(deep)
  np.testing.assert_array_equal(preprocess.load_image(image), RAMP)
  data = _encoded(image, image_format)
  np.testing.assert_array_equal(preprocess.load_image(data), RAMP)


def test_load_other_scales():
  twelve_bits = np.array([[0, 4095, 1365]], np.uint16)
  np.testing.assert_array_equal(
    preprocess.load_image(twelve_bits), [[0, 255, 85]]
  )
  image = PIL.Image.fromarray(np.array([[0, 1, 0.2]], np.float32))
  np.testing.assert_array_equal(preprocess.load_image(image), [[0, 255, 51]])
  image = PIL.Image.fromarray(np.array([[-5, 2**20, 2**19]], np.int32))
  np.testing.assert_array_equal(preprocess.load_image(image), [[0, 255, 128]])
  image = PIL.Image.fromarray(np.array([[0, np.nan]], np.float32))
  _fails(image, "unreadable: pixels that are NaN or infinite")


def test_load_bilevel_and_palette():
  bits = np.array([[True, False]])
  np.testing.assert_array_equal(preprocess.load_image(bits), [[255, 0]])
  image = PIL.Image.fromarray(bits)
  assert image.mode == "1"
  np.testing.assert_array_equal(preprocess.load_image(image), [[255, 0]])
  image = PIL.Image.new("P", (2, 1))
  image.putpalette([10, 10, 10, 200, 200, 200])
  image.putpixel((1, 0), 1)
  np.testing.assert_array_equal(preprocess.load_image(image), [[10, 200]])
  image.info["transparency"] = 0
  np.testing.assert_array_equal(preprocess.load_image(image), [[255, 200]])


def test_load_alpha_over_white():
  # Black at alpha 0, 51 and 255 over white; colours below alpha 0 don't show.
  pixels = np.zeros((1, 3, 4), np.uint8)
  pixels[0, :, 3] = [0, 51, 255]
  for source in (pixels, PIL.Image.fromarray(pixels), pixels / 255):
    np.testing.assert_array_equal(
      preprocess.load_image(source), [[255, 204, 0]]
    )
  for mode in ("LA", "PA", "RGBa"):
    image = PIL.Image.fromarray(pixels).convert(mode)
    np.testing.assert_array_equal(preprocess.load_image(image), [[255, 204, 0]])
  grey_alpha = PIL.Image.fromarray(pixels).convert("LA")
  image = grey_alpha.convert("La")
  np.testing.assert_array_equal(preprocess.load_image(image), [[255, 204, 0]])


@pytest.mark.parametrize("mode", ["RGB", "RGBX", "YCbCr", "HSV", "LAB"])
def test_load_colour_modes(mode):
  white = PIL.Image.new("RGB", (2, 1), "white")
  if mode == "LAB":
    white = PIL.Image.new("LAB", (2, 1), (255, 128, 128))
  elif mode != "RGB":
    white = white.convert(mode)
  grey = preprocess.load_image(white)
  np.testing.assert_array_equal(grey, [[255, 255]])


def test_load_animation_takes_the_first_frame():
  frames = [PIL.Image.new("L", (5, 4), level) for level in (40, 90, 200)]
  for image_format in ("GIF", "PNG", "WEBP"):
    data = _encoded(
      frames[0],
      image_format,
      save_all=True,
      append_images=frames[1:],
      **({"lossless": True} if image_format == "WEBP" else {}),
    )
    np.testing.assert_array_equal(
      preprocess.load_image(data), np.full((4, 5), 40)
    )


@pytest.mark.parametrize(
  ("orientation", "upright"),
  [
    (1, [[1, 2, 3], [4, 5, 6]]),
    (2, [[3, 2, 1], [6, 5, 4]]),
    (3, [[6, 5, 4], [3, 2, 1]]),
    (6, [[4, 1], [5, 2], [6, 3]]),
    (8, [[3, 6], [2, 5], [1, 4]]),
    (99, [[1, 2, 3], [4, 5, 6]]),
  ],
)
def test_load_turns_upright(orientation, upright):
  pixels = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
  exif = PIL.Image.Exif()
  exif[0x0112] = orientation
  for image_format in ("PNG", "TIFF"):
    data = _encoded(PIL.Image.fromarray(pixels), image_format, exif=exif)
    np.testing.assert_array_equal(preprocess.load_image(data), upright)


def test_load_ignores_broken_exif():
  data = _encoded(PIL.Image.fromarray(RAMP), exif=b"Exif\0\0II*\0\xff\xff")
  np.testing.assert_array_equal(preprocess.load_image(data), RAMP)


def test_load_leaves_the_callers_image_alone():
  image = PIL.Image.new("RGBA", (3, 2), (0, 0, 0, 0))
  image.getexif()[0x0112] = 6
  assert preprocess.load_image(image).shape == (3, 2)
  assert image.size == (3, 2) and image.mode == "RGBA"


@pytest.mark.parametrize(
  ("array", "message"),
  [
    (np.zeros((0, 5), np.uint8), "empty"),
    (np.zeros(5, np.uint8), r"shape \(5,\)"),
    (np.zeros((2, 2, 2), np.uint8), r"shape \(2, 2, 2\)"),
    (np.zeros((2, 2), np.int64), "int64"),
    (np.full((2, 2), 1.5), r"in \[1.5, 1.5\]; scale it"),
    (np.full((2, 2), np.nan), "scale it"),
  ],
)
def test_load_refuses_arrays(array, message):
  _fails(array, message)


def test_line_array_shrinks_by_area():
  grey = np.random.default_rng(0).integers(0, 256, (96, 300), np.uint8)
  line, x_scale = preprocess.line_array(grey)
  assert line.shape == (32, 100) and line.dtype == np.float32
  assert x_scale == 3.0
  means = grey.reshape(32, 3, 100, 3).mean((1, 3))
  # Rounded to 8 bits twice, along x and along y.
  np.testing.assert_allclose(line * 255, means, atol=1.01)


def test_line_array_grows_bilinearly():
  grey = np.repeat(np.array([[0], [160]], np.uint8), 7, axis=1)
  line, x_scale = preprocess.line_array(grey, height=4)
  assert line.shape == (4, 14) and x_scale == 0.5
  # Centres at 1/4, 3/4 of the first pixel and so on; the edges hold.
  np.testing.assert_allclose(line[:, 3] * 255, [0, 40, 120, 160], atol=0.51)


def test_line_array_keeps_its_own_height():
  grey = np.random.default_rng(0).integers(0, 256, (32, 77), np.uint8)
  line, x_scale = preprocess.line_array(grey)
  np.testing.assert_array_equal(np.round(line * 255), grey)
  assert x_scale == 1.0


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (500, 1), (1, 256), (33, 1)])
def test_line_array_of_thin_images(shape):
  line, x_scale = preprocess.line_array(np.full(shape, 51, np.uint8))
  assert line.shape[0] == 32 and line.shape[1] >= 1
  assert x_scale == shape[1] / line.shape[1]
  np.testing.assert_allclose(line, 0.2, rtol=1e-6)


def test_line_array_limits_the_width():
  line, _ = preprocess.line_array(np.zeros((8, 2048), np.uint8))
  assert line.shape == (32, 8192)
  with pytest.raises(preprocess.PreprocessError, match="8196 px at height 32"):
    preprocess.line_array(np.zeros((8, 2049), np.uint8))
  with pytest.raises(preprocess.PreprocessError, match="cut the line in parts"):
    preprocess.line_array(np.zeros((1, 2000), np.uint8))
  with pytest.raises(ValueError, match="use load_image"):
    preprocess.line_array(np.zeros((8, 8), np.float32))


@pytest.mark.parametrize(
  ("width", "bucket"),
  [
    (1, 64),
    (64, 64),
    (65, 96),
    (321, 384),
    (2048, 2048),
    (2049, 2112),
    (8192,) * 2,
  ],
)
def test_bucket_width(width, bucket):
  assert preprocess.bucket_width(width) == bucket


def test_buckets_suit_the_network():
  assert all(bucket % 32 == 0 for bucket in preprocess.BUCKETS)
  assert list(preprocess.BUCKETS) == sorted(preprocess.BUCKETS)


@pytest.mark.parametrize(("paper", "ink"), [(0.9, 0.1), (0.15, 0.8)])
def test_pad_with_the_lines_own_background(paper, ink):
  line = np.full((32, 70), paper, np.float32)
  line[4:28, 5:60] = ink  # Most of the area is ink.
  line[:, 69] = ink  # A tight crop: a stroke all along the right edge.
  padded = preprocess.pad_to_bucket(line)
  assert padded.shape == (32, 96) and padded.dtype == np.float32
  np.testing.assert_array_equal(padded[:, :70], line)
  np.testing.assert_array_equal(padded[:, 70:], np.float32(paper))


def test_pad_to_a_width():
  line = np.zeros((32, 64), np.float32)
  assert preprocess.pad_to_bucket(line) is not line
  assert preprocess.pad_to_bucket(line, 80).shape == (32, 80)
  with pytest.raises(ValueError, match="64 px does not fit in 60"):
    preprocess.pad_to_bucket(line, 60)
