"""Labels sampled on the device: amounts, dates, codes, words, random strings.

A label is a template filled in, pseudo-words from letter statistics, or plain
random characters. All of it is table look-ups over arrays made once by
`make_corpus`, so that sampling jits, vmaps and shards like the rest of a step.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxocr.data import dice
from jaxocr.text import alphabet as alphabet_lib

# What a letter in a template stands for; every other character is itself.
# Counts are relative. Zeros are common on price tags and receipts.
_SLOTS = {
  "d": {c: 1.0 for c in "0123456789"},
  "n": {c: 1.0 for c in "123456789"},
  "c": {"0": 6.0, "5": 2.0} | {c: 1.0 for c in "12346789"},
  "m": {"0": 3.0, "1": 1.0},
  "t": {c: 1.0 for c in "0123"},
  "s": {c: 1.0 for c in "012345"},
  "y": {"2": 4.0, "1": 1.0, "0": 1.0},
  "L": {c: 1.0 for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"},
  "l": {c: 1.0 for c in "abcdefghijklmnopqrstuvwxyz"},
}

# (relative frequency, template). Templates that the alphabet cannot write or
# that are longer than the labels drop out.
_TEMPLATES = (
  (10.0, "d.cc"),
  (12.0, "nd.cc"),
  (8.0, "ndd.cc"),
  (3.0, "nddd.cc"),
  (2.0, "n,ddd.cc"),
  (1.0, "nd,ddd.cc"),
  (2.0, "$d.cc"),
  (2.0, "$nd.cc"),
  (2.0, "-d.cc"),
  (2.0, "-nd.cc"),
  (1.0, "-ndd.cc"),
  (1.0, "d.cc-"),
  (1.0, "nd.cc *"),
  (0.7, "(d.cc)"),
  (0.7, "(nd.cc)"),
  (1.0, ".cc"),
  (1.0, "d.ddd"),
  (1.0, "+d.cc"),
  (10.0, "d"),
  (2.0, "nd"),
  (1.5, "ndd"),
  (1.5, "dddd"),
  (2.0, "ddddd"),
  (2.0, "dddddd"),
  (1.0, "ddddddd"),
  (1.0, "dddddddd"),
  (1.5, "dddddddddd"),
  (1.5, "dddddddddddd"),
  (1.0, "ddddddddddddd"),
  (1.0, "0000ddddd"),
  (0.7, "-d"),
  (1.0, "d%"),
  (1.0, "nd%"),
  (0.7, "d.c%"),
  (0.5, "nd *"),
  (0.5, "* nd"),
  (0.4, "*"),
  (0.3, "**"),
  (0.4, "***"),
  (0.4, "%"),
  (0.4, "-"),
  (1.5, ":"),
  (0.6, ": d"),
  (0.8, ": ddddd"),
  (0.6, ": ddddddd"),
  (0.6, ": nd.cc"),
  (2.0, "td/md/20yd"),
  (1.5, "td-md-20yd"),
  (1.0, "td.md.20yd"),
  (1.5, "td/md/yd"),
  (1.0, "td-md-yd"),
  (1.0, "20yd-md-td"),
  (0.7, "n/n/20yd"),
  (2.0, "td:sd"),
  (1.5, "td:sd:sd"),
  (1.0, "td/md/yd td:sd"),
  (1.0, "td/md/20yd td:sd"),
  (0.7, ": td-md-yd"),
  (0.7, "td:sd - td:sd"),
  (1.0, "dd-ddddddd"),
  (1.0, "dd-dddd dddd"),
  (0.7, "(dd) dddd-dddd"),
  (0.7, "(ddd) ddd dddd"),
  (0.7, "+dd-d-dddddddd"),
  (0.7, "0d-dddddddd"),
  (0.7, "d ddd ddd ddd"),
  (0.7, "ddd-ddd-dddd"),
  (0.7, "d x nd.cc"),
  (0.7, "nd nd.cc"),
  (0.7, "nd.cc nd.cc"),
  (0.7, "d d d d"),
  (0.7, "n/nd"),
  (1.0, "LLdddd"),
  (1.0, "LL-dddd"),
  (0.7, "LdddLL"),
  (0.7, "#dddd"),
  (0.7, "LLL ddd"),
  (0.7, "llddd@lll.lll"),
)

# Followers of each letter in English, commonest first; the k-th has a weight
# of 1 / k. `^` starts a word and `$` ends one.
_FOLLOWERS = {
  "^": "taoiswcbphfmdrelnguvyjkqxz",
  "a": "ntlrscdimgbpuvy$kfwx",
  "b": "eloaurisyb$",
  "c": "oehatkilruc$y",
  "d": "$eioasrudly",
  "e": "$rsndaltecmviypxfgwoq",
  "f": "$oriaeftul",
  "g": "$ehroaiulgns",
  "h": "eaoi$trtuy",
  "i": "ntsncolderagmfvpbkz",
  "j": "uoae",
  "k": "e$inslay",
  "l": "lei$aoyduttskf",
  "m": "eaoipum$bys",
  "n": "$gdtesciaokvnuly",
  "o": "nrfu$mtlwospvdkbcgie",
  "p": "eraolipthuys$",
  "q": "u",
  "r": "e$aoistydnmrkulcgv",
  "s": "$tehiosuacplmkwyn",
  "t": "h$eioarstuylwc",
  "u": "rsntlpcmdgiabe$",
  "v": "eaioy",
  "w": "aiheonr$sl",
  "x": "ptaice$",
  "y": "$oesimla",
  "z": "eaoiz$",
}
_LETTERS = "abcdefghijklmnopqrstuvwxyz"
_WORD_ENDS = ".,:;!?"


@flax.struct.dataclass
class Corpus:
  """Tables that `sample_labels` draws from; G templates, M slots, K classes."""

  kind_weights: jax.Array  # [3]: template, words, random.
  template_weights: jax.Array  # [G].
  template_slots: jax.Array  # [G, L] int32, row of `slot_cdf`, 0-padded.
  template_length: jax.Array  # [G] int32.
  slot_cdf: jax.Array  # [M, K - 1], cumulative over the alphabet.
  random_cdf: jax.Array  # [K - 1].
  follower_cdf: jax.Array  # [27, 27], rows: word start, a..z; 0 ends a word.
  lower: jax.Array  # [27] int32 class ids of space, a..z (0: not available).
  upper: jax.Array  # [27] int32, likewise in capitals.
  ends: jax.Array  # [E] int32, class ids of punctuation after a word.
  space: jax.Array  # [] int32, class id of space, or 0.


def make_corpus(
  alphabet: alphabet_lib.Alphabet,
  *,
  max_length: int,
  random_share: float = 0.08,
) -> Corpus:
  """Builds the tables for an alphabet.

  Args:
    alphabet: Characters that labels may have.
    max_length: L, the most characters in a label.
    random_share: Share of labels that are random strings; all of them where
      the alphabet fits neither templates nor words.

  Returns:
    The corpus, as NumPy arrays.

  Raises:
    ValueError: When `max_length` is below 1 or the share not in [0, 1].
  """
  if max_length < 1:
    raise ValueError(f"max_length={max_length}; at least 1")
  if not 0 <= random_share <= 1:
    raise ValueError(f"random_share={random_share}; between 0 and 1")
  templates, slots = _usable_templates(alphabet, max_length)
  spaced = " " in alphabet.characters  # Words need something between them.
  letters = spaced and set(_LETTERS) <= set(alphabet.characters)
  capitals = spaced and set(_LETTERS.upper()) <= set(alphabet.characters)
  shares = np.array([float(bool(templates)), 1.0 * (letters or capitals), 0.0])
  shares = shares / max(shares.sum(), 1) * (1 - random_share)
  shares[2] = 1 - shares.sum()
  lower, upper = _LETTERS, _LETTERS.upper()
  if not letters:
    lower = upper
  if not capitals:
    upper = lower
  ids = {c: i for i, c in enumerate(alphabet.characters, start=1)}
  space = ids.get(" ", 0)
  ends = [ids[c] for c in _WORD_ENDS if c in ids] or [space]
  grid = np.zeros((max(len(templates), 1), max_length), np.int32)
  lengths = np.ones(len(grid), np.int32)
  for row, (_, cells) in enumerate(templates):
    grid[row, : len(cells)], lengths[row] = cells, len(cells)
  weights = [weight for weight, _ in templates] or [1]
  return Corpus(
    kind_weights=shares.astype(np.float32),
    template_weights=np.array(weights, np.float32),
    template_slots=grid,
    template_length=lengths,
    slot_cdf=_cdf(slots),
    random_cdf=_cdf(_random_weights(alphabet)[None])[0],
    follower_cdf=_cdf(_follower_weights()),
    lower=_class_ids(ids, " " + lower),
    upper=_class_ids(ids, " " + upper),
    ends=np.array(ends, np.int32),
    space=np.int32(space),
  )


def sample_labels(
  keys: jax.Array, corpus: Corpus, *, max_length: int
) -> tuple[jax.Array, jax.Array]:
  """Draws one label per key.

  Args:
    keys: [B] typed PRNG keys.
    corpus: Tables made with the same `max_length`.
    max_length: L.

  Returns:
    Labels [B, L] int32, 0-padded, and lengths [B] int32, at least 1. No label
    starts or ends with a space.
  """
  corpus = jax.tree.map(jnp.asarray, corpus)
  return jax.vmap(lambda key: _sample_label(key, corpus, max_length))(keys)


def _sample_label(key, corpus, max_length):
  roll = dice.Dice(key)
  kind = roll.choose(corpus.kind_weights)
  options = (
    _from_template(roll, corpus, max_length),
    _from_letters(roll, corpus, max_length),
    _from_characters(roll, corpus, max_length),
  )
  label, length = jax.tree.map(lambda *x: jnp.stack(x)[kind], *options)
  return _trim(label, length, corpus.space)


def _from_template(roll, corpus, max_length):
  row = roll.choose(corpus.template_weights)
  cdf = corpus.slot_cdf[corpus.template_slots[row]]
  label = 1 + _invert(cdf, roll.take(max_length, 1))
  return label, corpus.template_length[row]


def _from_characters(roll, corpus, max_length):
  # Squared, so that short strings, the hardest to segment, are commoner.
  length = 1 + jnp.floor(roll.one() ** 2 * max_length).astype(jnp.int32)
  label = 1 + _invert(corpus.random_cdf[None], roll.take(max_length, 1))
  # Two spaces in a row look like one wide space: keep the first.
  double = (label == corpus.space) & (jnp.roll(label, 1) == corpus.space)
  return jnp.where(double, _spare_class(corpus.space), label), length


def _from_letters(roll, corpus, max_length):
  """Words from a chain of letters, each word in one of three cases."""
  case = jnp.floor(4 * roll.take(max_length)).astype(jnp.int32)

  def step(carry, x):
    letter, place, word_case, closing = carry
    u, next_case, p = x
    follower = _invert(corpus.follower_cdf[letter][None], u[None, None])[0]
    # A finished word is followed by punctuation (sometimes), then a space.
    follower = jnp.where(closing, 0, follower)
    word_case = jnp.where(place == 0, next_case, word_case)
    capital = (word_case == 2) | ((word_case == 1) & (place == 0))
    out = jnp.where(capital, corpus.upper[follower], corpus.lower[follower])
    mark = (follower == 0) & (place > 0) & ~closing & (p < 0.15)
    marks = corpus.ends[(p / 0.15 * corpus.ends.shape[0]).astype(jnp.int32)]
    out = jnp.where(mark, marks, out)
    place = jnp.where((follower == 0) & ~mark, 0, place + 1)
    return (follower, place, word_case, mark), out

  start = (jnp.int32(0), jnp.int32(0), jnp.int32(0), jnp.bool_(False))
  numbers = (roll.take(max_length), case, roll.take(max_length))
  _, label = jax.lax.scan(step, start, numbers)
  length = 1 + jnp.floor(roll.one() * max_length).astype(jnp.int32)
  return label, length


def _trim(label, length, space):
  """Cuts spaces at both ends; what is only spaces becomes its first letter."""
  place = jnp.arange(label.shape[0])
  ink = (place < length) & (label != space) & (label != 0)
  first = jnp.argmax(ink)
  last = label.shape[0] - 1 - jnp.argmax(ink[::-1])
  length = jnp.where(jnp.any(ink), last - first + 1, 1)
  label = jnp.roll(label, -first)
  label = jnp.where(jnp.any(ink), label, _spare_class(space))
  return jnp.where(place < length, label, 0), length.astype(jnp.int32)


def _spare_class(space):
  """Some class that is not the space."""
  return jnp.where(space == 1, 2, 1)


def _invert(cdf, u):
  """Index of the first entry of cdf [N, V] above u [N, 1]."""
  last = cdf.shape[-1] - 1
  return jnp.minimum(jnp.sum(cdf <= u, axis=-1), last).astype(jnp.int32)


def _usable_templates(alphabet, max_length):
  """Templates as (weight, slot indices), and the slots' weights [M, A]."""
  ids = {c: i for i, c in enumerate(alphabet.characters)}
  slots, index, usable = [], {}, []
  for weight, template in _TEMPLATES:
    if len(template) > max_length:
      continue
    choices = [_SLOTS.get(letter, {letter: 1.0}) for letter in template]
    if any(c not in ids for choice in choices for c in choice):
      continue
    cells = []
    for letter, choice in zip(template, choices, strict=True):
      if letter not in index:
        index[letter] = len(slots)
        row = np.zeros(alphabet.size)
        for character, count in choice.items():
          row[ids[character]] = count
        slots.append(row)
      cells.append(index[letter])
    usable.append((weight, cells))
  return usable, np.array(slots or [np.ones(alphabet.size)])


def _random_weights(alphabet):
  """Digits and letters twice as often as punctuation."""
  return np.array([2.0 if c.isalnum() else 1.0 for c in alphabet.characters])


def _follower_weights():
  symbols = "$" + _LETTERS
  weights = np.zeros((27, 27))
  for row, letter in enumerate("^" + _LETTERS):
    for rank, follower in enumerate(_FOLLOWERS[letter], start=1):
      weights[row, symbols.index(follower)] += 1 / rank
  return weights


def _cdf(weights):
  total = np.cumsum(weights, axis=-1)
  return (total / total[..., -1:]).astype(np.float32)


def _class_ids(ids, characters):
  return np.array([ids.get(c, 0) for c in characters], np.int32)
