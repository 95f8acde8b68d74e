"""Searches against all alignments, counted one by one."""

import collections
import itertools
import math

import numpy as np
import pytest

from jaxocr.text import alphabet as alphabet_lib
from jaxocr.text import beam
from jaxocr.text import lexicon
from jaxocr.text import ngram


def log_probs(rng, frames, classes, *, scale=2.0):
  scores = scale * rng.normal(size=(frames, classes))
  return scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))


def labelling(path):
  return tuple(c for c, _ in itertools.groupby(path) if c)


def brute_force(log_p):
  """Labelling -> its probability, over every alignment."""
  frames, classes = log_p.shape
  total = collections.Counter()
  for path in itertools.product(range(classes), repeat=frames):
    total[labelling(path)] += math.exp(log_p[np.arange(frames), path].sum())
  return total


@pytest.mark.parametrize("frames", range(1, 7))
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_best_labelling_of_all_alignments(frames, classes):
  rng = np.random.default_rng(10 * frames + classes)
  for _ in range(4):
    log_p = log_probs(rng, frames, classes)
    expected = brute_force(log_p)
    found = beam.beam_search(log_p, width=10_000)
    assert {h.ids for h in found} == set(expected)
    for hypothesis in found:
      assert math.exp(hypothesis.log_prob) == pytest.approx(
        expected[hypothesis.ids], rel=1e-9
      )
    assert found[0].ids == max(expected, key=expected.get)
    scores = [h.score for h in found]
    assert scores == sorted(scores, reverse=True)


def test_doubled_characters_survive():
  """a, blank, a is `aa`; without the blank the alignments are those of `a`."""
  sure = np.log([[0.05, 0.95], [0.9, 0.1], [0.05, 0.95]])
  (best, *_) = beam.beam_search(sure, width=2)
  assert best.ids == (1, 1)
  assert math.exp(best.log_prob) == pytest.approx(0.95 * 0.9 * 0.95)
  unsure = np.log([[0.05, 0.95], [0.4, 0.6], [0.05, 0.95]])
  assert beam.beam_search(unsure, width=4)[0].ids == (1,)


def test_labelling_beats_the_best_path():
  """Graves' example: the best path is blank, the best labelling is not."""
  log_p = np.log([[0.6, 0.4], [0.6, 0.4]])
  assert labelling(log_p.argmax(axis=1)) == ()
  (best, *_) = beam.beam_search(log_p, width=2)
  assert best.ids == (1,)
  assert math.exp(best.log_prob) == pytest.approx(0.64)


class _LikesTwo:
  """Class 2 is worth two nats; a text that ends in 1 loses one."""

  def start(self):
    return 0

  def step(self, state, class_id):
    return class_id, 2.0 if class_id == 2 else 0.0

  def end(self, state):
    return -1.0 if state == 1 else 0.0


@pytest.mark.parametrize("seed", range(8))
def test_scorers_add_to_every_labelling(seed):
  log_p = log_probs(np.random.default_rng(seed), 4, 3)

  def worth(ids):
    return 2.0 * ids.count(2) - (ids[-1:] == (1,))

  expected = {
    ids: math.log(p) + worth(ids) for ids, p in brute_force(log_p).items()
  }
  found = beam.beam_search(log_p, width=10_000, scorers=[_LikesTwo()])
  assert {h.ids: pytest.approx(h.score) for h in found} == expected
  assert found[0].ids == max(expected, key=expected.get)


def test_classes_below_the_floor_start_nothing():
  log_p = np.log([[0.1, 0.6, 0.3], [0.1, 0.3, 0.6]])
  found = {
    h.ids for h in beam.beam_search(log_p, width=99, floor=math.log(0.5))
  }
  assert found == {(), (1,), (2,), (1, 2)}
  shut = np.array([[math.log(0.5), -math.inf, math.log(0.5)]])
  found = {h.ids for h in beam.beam_search(shut, width=99)}
  assert found == {(), (2,)}
  with pytest.raises(ValueError, match="width=0; it must be 1"):
    beam.beam_search(log_p, width=0)


@pytest.mark.parametrize("frames", [3, 4, 5, 6])
def test_alignment_is_the_best_of_its_labelling(frames):
  rng = np.random.default_rng(frames)
  log_p = log_probs(rng, frames, 3)
  best = {}
  for path in itertools.product(range(3), repeat=frames):
    ids = labelling(path)
    score = log_p[np.arange(frames), path].sum()
    if ids not in best or score > best[ids][0]:
      best[ids] = score, path
  for ids, (_, path) in best.items():
    np.testing.assert_array_equal(beam.align(log_p, ids), path)


def test_a_labelling_that_does_not_fit():
  log_p = log_probs(np.random.default_rng(0), 2, 3)
  with pytest.raises(ValueError, match="2 characters do not fit 2 frames"):
    beam.align(log_p, (1, 1))


ALPHABET = alphabet_lib.Alphabet("aAbt1 ", name="six")


def worth(scorer, text):
  state, total = scorer.start(), 0.0
  for class_id in ALPHABET.encode(text):
    state, value = scorer.step(state, int(class_id))
    total += value
  return total + scorer.end(state)


@pytest.mark.parametrize(
  ("text", "unlisted"),
  [
    ("", 0),
    ("at", 0),
    ("At", 0),  # Case does not matter.
    ("ta", 1),  # Begins a word but is none.
    ("ab", 1),
    ("atb", 1),
    ("tatb", 1),  # Once a word, however long.
    ("at tab", 0),
    ("at1tab", 0),  # Digits part words.
    ("b1b", 0),  # Of `b-b`, whose parts are words.
    ("1 11", 0),
    ("bb bb 1t", 3),
    ("tt at", 1),
    ("ta at", 1),  # Cut short by what parts words.
  ],
)
def test_words_that_are_not_listed_cost(text, unlisted):
  words = lexicon.Lexicon(["AT", "tab", "tab", "b-b"], ALPHABET, penalty=2.5)
  assert worth(words, text) == -2.5 * unlisted
  assert words.size == 3


def test_a_lexicon_turns_a_close_call():
  # `ab` by its frames, `at` by the list.
  alphabet = alphabet_lib.Alphabet("abt")
  log_p = np.log(
    [[0.02, 0.94, 0.02, 0.02], [0.9, 0.06, 0.02, 0.02], [0.02, 0.02, 0.5, 0.46]]
  )
  plain = beam.beam_search(log_p, width=8)[0]
  assert alphabet.decode(plain.ids) == "ab"
  words = lexicon.Lexicon(["at"], alphabet, penalty=1.0)
  found = beam.beam_search(log_p, width=8, scorers=[words])[0]
  assert alphabet.decode(found.ids) == "at"
  # The list says nothing against frames that are sure.
  weak = lexicon.Lexicon(["at"], alphabet, penalty=0.01)
  found = beam.beam_search(log_p, width=8, scorers=[weak])[0]
  assert alphabet.decode(found.ids) == "ab"


def test_word_lists(tmp_path):
  (tmp_path / "w.txt").write_bytes(b"\xef\xbb\xbfyou 224\r\nthe\n\n two 3\n")
  assert lexicon.read_words(tmp_path / "w.txt") == ["you", "the", "two"]
  (tmp_path / "b.txt").write_bytes(b"\xff")
  why = {"b.txt": "'utf-8' codec can't .*", "none.txt": "No such file .*"}
  for name, text in why.items():
    expected = rf"word list {tmp_path / name}: {text}; give a UTF-8 file"
    with pytest.raises(ValueError, match=expected):
      lexicon.read_words(tmp_path / name)
  with pytest.raises(ValueError, match="no word of letters"):
    lexicon.Lexicon(["1", ""], ALPHABET, penalty=1.0)
  with pytest.raises(ValueError, match="penalty=-1"):
    lexicon.Lexicon(["a"], ALPHABET, penalty=-1)


def test_n_grams_by_hand():
  """Two texts, `ab` and `a`: a is followed by b once, by the end once."""
  alphabet = alphabet_lib.Alphabet("ab")
  model = ngram.NGram(["ab", "a"], alphabet, order=2, weight=1.0)
  # Five characters with the ends: a a b end end, three kinds, uniform 1 / 3.
  one = {
    "a": (2 + 3 / 3) / (5 + 3),
    "b": (1 + 3 / 3) / (5 + 3),
    "": (2 + 3 / 3) / (5 + 3),
  }
  for char, p in one.items():
    assert model.probability(char, "") == pytest.approx(p)
    after_a = {"a": 0, "b": 1, "": 1}[char]
    assert model.probability(char, "a") == pytest.approx((after_a + 2 * p) / 4)
    after_b = {"a": 0, "b": 0, "": 1}[char]
    assert model.probability(char, "b") == pytest.approx((after_b + p) / 2)
  for before in ("", "a", "b"):
    total = sum(model.probability(c, before) for c in ("a", "b", ""))
    assert total == pytest.approx(1)
  costs = [
    *(model.probability(c, b) for c, b in (("a", ""), ("b", "a"), ("", "b"))),
    *(model.probability(c, b) for c, b in (("a", ""), ("", "a"))),
  ]
  assert model.entropy == pytest.approx(-np.log(costs).mean())
  # What it was made from costs nothing on average.
  seen = 0.0
  for text in ("ab", "a"):
    state = model.start()
    for class_id in alphabet.encode(text):
      state, value = model.step(state, int(class_id))
      seen += value
    seen += model.end(state)
  assert seen == pytest.approx(0, abs=1e-12)


def test_n_grams_of_text_with_other_characters():
  alphabet = alphabet_lib.Alphabet("ab")
  model = ngram.NGram(["a\u00e9ab", "xyz"], alphabet, order=3)
  same = ngram.NGram(["a", "ab"], alphabet, order=3)
  assert model.entropy == same.entropy
  with pytest.raises(ValueError, match=r"no text .* has a character"):
    ngram.NGram(["xyz"], alphabet)
  with pytest.raises(ValueError, match="order=0"):
    ngram.NGram(["a"], alphabet, order=0)
