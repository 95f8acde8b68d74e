import math

import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import calibrate
from jaxocr.text import ctc
from jaxocr.text import decode

ALPHABET = alphabet_lib.Alphabet("abc", name="three")


def random_logits(*shape, seed=0):
  rng = np.random.default_rng(seed)
  return 3 * rng.normal(size=shape).astype(np.float32)


def texts(logits, **options):
  decoding = decode.Decoding(**options)
  return [r.text for r in decode.decode(logits, ALPHABET, decoding)]


def test_greedy_is_that_of_training():
  logits = random_logits(20, 30, 4)
  scales, widths = np.linspace(0.5, 3, 20).tolist(), [50.0] * 20
  expected = ctc.greedy_decode(
    jnp.asarray(logits), ALPHABET, x_scales=scales, widths_px=widths
  )
  found = decode.decode(logits, ALPHABET, x_scales=scales, widths_px=widths)
  assert [r.text for r in found] == [r.text for r in expected]
  for a, b in zip(found, expected, strict=True):
    assert a.confidence == pytest.approx(b.confidence, rel=1e-5)
    assert [c[2:] for c in a.chars] == [c[2:] for c in b.chars]


def test_no_lines():
  assert decode.decode(np.zeros((0, 5, 4), np.float32), ALPHABET) == []
  with pytest.raises(AssertionError):
    decode.decode(np.zeros((1, 5, 3), np.float32), ALPHABET)


def test_allowed_characters_are_chosen_before_the_search():
  logits = np.log(
    np.array([[[0.1, 0.5, 0.3, 0.1], [0.7, 0.1, 0.1, 0.1]]], np.float32)
  )
  assert texts(logits) == ["a"]
  # Not `` (what is left without a), but the likeliest of those allowed.
  assert texts(logits, allowed="bc") == texts(logits, allowed="bc", beam=4)
  assert texts(logits, allowed="bc") == ["b"]
  # The probability is that among the allowed: b of blank, b and c.
  decoding = decode.Decoding(allowed="cb")
  (reading,) = decode.decode(logits, ALPHABET, decoding)
  assert reading.confidence == pytest.approx(0.3 / 0.5)
  for line in texts(random_logits(30, 20, 4), allowed="c", beam=4):
    assert set(line) <= {"c"}


def test_temperature_changes_how_sure_not_what():
  logits = random_logits(10, 12, 4)
  plain = decode.decode(logits, ALPHABET)
  cooler = decode.decode(logits, ALPHABET, decode.Decoding(temperature=3.0))
  assert [r.text for r in cooler] == [r.text for r in plain]
  assert all(
    a.confidence <= b.confidence for a, b in zip(cooler, plain, strict=True)
  )
  scaled = decode.decode(logits / 3, ALPHABET)
  for a, b in zip(cooler, scaled, strict=True):
    assert a.confidence == pytest.approx(b.confidence, rel=1e-5)


def test_rejected_readings_have_no_text():
  logits = random_logits(40, 12, 4)
  plain = decode.decode(logits, ALPHABET)
  limit = float(np.median([r.confidence for r in plain]))
  found = decode.decode(logits, ALPHABET, decode.Decoding(reject_below=limit))
  for before, after in zip(plain, found, strict=True):
    assert after.rejected == (before.confidence < limit)
    assert after.text == ("" if after.rejected else before.text)
    assert after.characters == before.characters
  assert 0 < sum(r.rejected for r in found) < 40


def test_what_a_search_reads_has_its_places():
  """Graves' example again, beside a sure `b`: greedy reads `b` alone."""
  frames = [[0.6, 0.4, 0, 0], [0.6, 0.4, 0, 0], [0.9, 0, 0.1, 0], [0, 0, 1, 0]]
  logits = np.log(np.array([frames], np.float32) + 1e-9)
  assert texts(logits) == ["b"]
  decoding = decode.Decoding(beam=8)
  (reading,) = decode.decode(logits, ALPHABET, decoding)
  assert reading.text == "ab"
  assert [c[2:] for c in reading.chars] in (
    [(0, 4), (12, 16)],
    [(4, 8), (12, 16)],
  )
  assert reading.chars[0][1] == pytest.approx(0.4, rel=1e-3)


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"beam": -1}, "beam=-1"),
    ({"scorers": (1,)}, "needs a beam search"),
    ({"temperature": 0.0}, "temperature=0.0"),
    ({"reject_below": 1.5}, "reject_below=1.5"),
    ({"allowed": "ax"}, "'x' are not in the alphabet 'three'"),
    ({"allowed": ""}, "give one or more of 'abc'"),
  ],
)
def test_what_cannot_be_is_refused(options, message):
  with pytest.raises(ValueError, match=message):
    decode.Decoding(**options).validate(ALPHABET)


def test_decoding_from_files(tmp_path):
  (tmp_path / "w.txt").write_text("cab\n")
  (tmp_path / "t.txt").write_text("abc cab\n")
  assert decode.make_decoding(ALPHABET) == decode.GREEDY
  found = decode.make_decoding(ALPHABET, lexicon=tmp_path / "w.txt")
  assert found.beam == decode.BEAM and len(found.scorers) == 1
  both = decode.make_decoding(
    ALPHABET, beam=3, lexicon=tmp_path / "w.txt", lm=tmp_path / "t.txt"
  )
  assert both.beam == 3 and len(both.scorers) == 2
  for option in ("lexicon", "lm"):
    with pytest.raises(ValueError, match="No such file"):
      decode.make_decoding(ALPHABET, **{option: tmp_path / "none"})


def test_reliability_by_hand():
  found = calibrate.reliability(
    [0.05, 0.15, 0.15, 0.95, 1.0], [False, False, True, True, True]
  )
  assert found.counts == (1, 2, 0, 0, 0, 0, 0, 0, 0, 2)
  assert found.confidence[1] == pytest.approx(0.15)
  assert found.accuracy[1] == 0.5 and found.accuracy[9] == 1
  assert math.isnan(found.accuracy[5])
  error = (1 * 0.05 + 2 * 0.35 + 2 * 0.025) / 5
  assert found.error == pytest.approx(error)
  logs = [0.95, 0.85, 0.15, 0.95, 1 - 1e-6]
  assert found.entropy == pytest.approx(-np.log(logs).mean())
  with pytest.raises(ValueError, match="0 confidences for 0 lines"):
    calibrate.reliability([], [])


def test_confidence_is_that_of_the_reading():
  logits = random_logits(12, 15, 4)
  logits[0, :, 0] += 9  # Read as nothing.
  for temperature in (1.0, 2.5):
    decoding = decode.Decoding(temperature=temperature)
    read = decode.decode(logits, ALPHABET, decoding)
    np.testing.assert_allclose(
      calibrate.greedy_confidences(logits, temperature),
      [r.confidence for r in read],
      rtol=1e-4,
    )


def test_a_known_temperature_is_found_again():
  """One frame a line; a line is right as often as its true confidence says."""
  rng = np.random.default_rng(0)
  true = 2 * rng.normal(size=(1500, 1, 3)).astype(np.float32)
  true[:, :, 0] = -30  # Never blank, so that confidence is that of the frame.
  sure = calibrate.greedy_confidences(true, 1.0)
  right = rng.random(1500) < sure
  overconfident = 3 * true
  assert calibrate.fit_temperature(overconfident, right) == pytest.approx(
    3, rel=0.15
  )
  before = calibrate.reliability(
    calibrate.greedy_confidences(overconfident, 1.0), right
  )
  after = calibrate.reliability(
    calibrate.greedy_confidences(overconfident, 3.0), right
  )
  assert after.error < 0.05 < before.error
  with pytest.raises(ValueError, match="no line to calibrate on"):
    calibrate.fit_temperature([], [])
