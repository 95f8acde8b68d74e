"""Sampled labels: only from the alphabet, never ambiguous, of every kind."""

import re

import jax
import numpy as np
import pytest

from jaxocr.data import corpus as corpus_lib
from jaxocr.text import alphabet as alphabet_lib

NUMERIC = alphabet_lib.load_alphabet("numeric")
LATIN = alphabet_lib.load_alphabet("latin")


def _texts(alphabet, count=2000, max_length=16, seed=0, **options):
  corpus = corpus_lib.make_corpus(alphabet, max_length=max_length, **options)
  keys = jax.random.split(jax.random.key(seed), count)
  sample = jax.jit(corpus_lib.sample_labels, static_argnames="max_length")
  labels, lengths = map(np.asarray, sample(keys, corpus, max_length=max_length))
  assert labels.shape == (count, max_length)
  assert lengths.min() >= 1
  for label, length in zip(labels, lengths, strict=True):
    assert (label[:length] > 0).all() and not label[length:].any()
    assert label.max() <= alphabet.size
  return [
    alphabet.decode(label[:length])
    for label, length in zip(labels, lengths, strict=True)
  ]


@pytest.mark.parametrize("alphabet", [NUMERIC, LATIN])
def test_labels_are_unambiguous_and_use_every_character(alphabet):
  texts = _texts(alphabet, random_share=0.2)
  for text in texts:
    assert text == text.strip() and "  " not in text
  assert set("".join(texts)) == set(alphabet.characters)


def test_numeric_labels_hold_every_kind():
  texts = _texts(NUMERIC)
  for kind in (
    r"\d\.\d\d",  # amounts
    r"\d,\d{3}\.\d\d",
    r"\$\d\.\d\d",
    r"[0-3]\d/[01]\d/20\d\d",  # dates
    r"[0-3]\d:[0-5]\d",  # times
    r"\(\d{3}\) \d{3} \d{4}",  # phone numbers
    r"\d{12}",  # codes
    r"\d",
  ):
    assert any(re.fullmatch(kind, text) for text in texts), kind


def test_latin_labels_hold_words_in_three_cases_and_several_words():
  texts = _texts(LATIN)
  for kind in (
    r"[a-z]{4,}",
    r"[A-Z][a-z]{3,}",
    r"[A-Z]{4,}",
    r"[A-Za-z]+ [A-Za-z]+",
    r"[A-Za-z]+[.,:;!?] [A-Za-z]+",
  ):
    assert any(re.fullmatch(kind, text) for text in texts), kind


def test_letters_follow_english_statistics():
  texts = _texts(LATIN, random_share=0.0)
  # Templates have any letters, beside digits.
  text = " ".join(t.lower() for t in texts if not re.search(r"\d", t))
  words = re.findall(r"[a-z]{2,}", text)
  assert len(words) > 500
  assert not any(re.search("q[^u]", word) for word in words)
  counts = [sum(word.count(c) for word in words) for c in "eq"]
  assert counts[0] > 10 * counts[1]


def test_templates_longer_than_the_labels_drop_out():
  assert max(map(len, _texts(NUMERIC, count=300, max_length=5))) <= 5


def test_an_alphabet_without_templates_gives_random_strings():
  greek = alphabet_lib.Alphabet("αβγ ", "greek")
  texts = _texts(greek, count=300)
  assert set("".join(texts)) == set(greek.characters)


def test_seed_decides_and_only_the_seed():
  assert _texts(NUMERIC, count=50) == _texts(NUMERIC, count=50)
  assert _texts(NUMERIC, count=50) != _texts(NUMERIC, count=50, seed=1)


def test_bad_numbers_are_named():
  with pytest.raises(ValueError, match="max_length=0"):
    corpus_lib.make_corpus(NUMERIC, max_length=0)
  with pytest.raises(ValueError, match=r"random_share=1\.5"):
    corpus_lib.make_corpus(NUMERIC, max_length=4, random_share=1.5)
