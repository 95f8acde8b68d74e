"""Contestant: our renderer, jitted, with every effect at its default strength.

  lines_jax.py BATCH WIDTH BATCHES_PER_TURN

Tells the fonts and labels that it draws, so that its rivals draw the same.
"""

import sys

import jax
import turns

from jaxocr import cpu
from jaxocr.data import atlas as atlas_lib
from jaxocr.data import corpus as corpus_lib
from jaxocr.data import render
from jaxocr.text import alphabet as alphabet_lib

MAX_LENGTH = 16


def main(batch_size: int, width: int, batches: int) -> None:
  cpu.set_up()  # As launch.py does.
  alphabet = alphabet_lib.load_alphabet("numeric")
  fonts = atlas_lib.default_fonts()
  atlas = jax.device_put(atlas_lib.build_atlas(fonts, alphabet))
  corpus = corpus_lib.make_corpus(alphabet, max_length=MAX_LENGTH)
  keys = jax.random.split(jax.random.key(0), batch_size)
  labels, lengths = corpus_lib.sample_labels(
    keys, corpus, max_length=MAX_LENGTH
  )

  @jax.jit
  def draw(key, atlas, labels, lengths):
    return render.render_lines(key, atlas, labels, lengths, width=width)

  def turn():
    for index in range(batches):
      # One batch at a time, as a training step asks for them.
      key = jax.random.key(index)
      jax.block_until_ready(draw(key, atlas, labels, lengths))

  texts = [
    alphabet.decode(label[:length])
    for label, length in zip(*jax.device_get((labels, lengths)), strict=True)
  ]
  turns.serve(
    turn,
    batches * batch_size,
    fonts=[str(face.path) for face in fonts],
    labels=texts,
  )


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
