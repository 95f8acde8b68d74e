import dataclasses

import numpy as np
import pytest

from jaxocr.text import alphabet as alphabet_lib


def test_named_alphabets():
  numeric = alphabet_lib.load_alphabet("numeric")
  assert numeric.characters == "0123456789.,:/()%$*+- "
  assert (numeric.name, numeric.size, numeric.num_classes) == (
    "numeric",
    22,
    23,
  )
  latin = alphabet_lib.load_alphabet("latin")
  assert latin.size == 95
  assert latin.characters[0] == " " and latin.characters[-1] == "~"


def test_encode_is_index_plus_one():
  alphabet = alphabet_lib.Alphabet("ab c")
  ids = alphabet.encode("cab a")
  assert ids.dtype == np.int32
  np.testing.assert_array_equal(ids, [4, 1, 2, 3, 1])
  assert alphabet.encode("").shape == (0,)


def test_decode_inverts_encode_and_skips_padding():
  alphabet = alphabet_lib.load_alphabet("latin")
  assert alphabet.decode(alphabet.encode(" Total: 1 2 ")) == " Total: 1 2 "
  assert alphabet.decode([0, 34, 0, 35, 0, 0]) == "AB"
  assert alphabet.decode(np.zeros(3, np.int32)) == ""


def test_nfc():
  alphabet = alphabet_lib.Alphabet("\u00e9e")
  np.testing.assert_array_equal(alphabet.encode("e\u0301e"), [1, 2])
  assert alphabet.unknown("e\u0301") == ""


def test_unknown_lists_each_once_in_order():
  alphabet = alphabet_lib.Alphabet("12")
  assert alphabet.unknown("b1a2b") == "ba"


def test_encode_names_the_characters_outside():
  alphabet = alphabet_lib.load_alphabet("numeric")
  with pytest.raises(ValueError, match=r"'€' \(U\+20AC\), 'x' \(U\+0078\)"):
    alphabet.encode("12€x")


@pytest.mark.parametrize("wrong", [-1, 3])
def test_decode_refuses_other_ids(wrong):
  with pytest.raises(ValueError, match=rf"class id {wrong} is not in 0\.\.2"):
    alphabet_lib.Alphabet("ab").decode([1, wrong])


@pytest.mark.parametrize(
  ("characters", "message"),
  [
    ("", "is empty"),
    ("abca", r"repeats 'a' \(U\+0061\)"),
    ("a\u212b", r"'\u212b' \(U\+212B\), which NFC writes as '\u00c5'"),
    ("a\t", "control character"),
    ("a\n", "control character"),
  ],
)
def test_refuses(characters, message):
  with pytest.raises(ValueError, match=message):
    alphabet_lib.Alphabet(characters)


def test_is_hashable_and_frozen():
  one, two = alphabet_lib.Alphabet("ab"), alphabet_lib.Alphabet("ab")
  one.encode("a")  # A cache must not change what it equals.
  assert one == two and hash(one) == hash(two)
  with pytest.raises(dataclasses.FrozenInstanceError):
    one.name = "other"


def test_file(tmp_path):
  path = tmp_path / "mine.txt"
  path.write_bytes("\ufeffa\r\n \r\n\r\n\u20ac\r\ne\u0301".encode())
  alphabet = alphabet_lib.load_alphabet(path)
  assert alphabet.characters == "a \u20ac\u00e9"
  assert alphabet.name == "mine"
  assert alphabet_lib.load_alphabet(str(path)) == alphabet


def test_file_errors(tmp_path):
  path = tmp_path / "bad.txt"
  path.write_text("a\nbc\n")
  with pytest.raises(ValueError, match="line 2: 'bc' is 2 characters"):
    alphabet_lib.load_alphabet(path)
  path.write_bytes(b"\xff\n")
  with pytest.raises(ValueError, match="not UTF-8"):
    alphabet_lib.load_alphabet(path)
  path.write_text("a\nb\na\n")
  with pytest.raises(ValueError, match="repeats 'a'"):
    alphabet_lib.load_alphabet(path)
  with pytest.raises(ValueError, match="neither numeric nor latin nor a file"):
    alphabet_lib.load_alphabet("numerics")
