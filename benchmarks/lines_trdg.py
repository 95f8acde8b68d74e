"""Contestant: TextRecognitionDataGenerator 1.8 with effects like ours.

  lines_trdg.py ASSETS.json PROCESSES LINES_PER_TURN

Random skew, random blur, sine distortion and a background of Gaussian noise;
it has nothing for stroke weight, light, rules, neighbours or low resolution.
"""

import json
import multiprocessing
import pathlib
import sys

from trdg import generators
import turns

HEIGHT = 32


def draw(job) -> int:
  """Draws lines as grey arrays; the number drawn."""
  labels, fonts, count = job
  generator = generators.GeneratorFromStrings(
    labels,
    count=count,
    fonts=fonts,
    size=HEIGHT,
    skewing_angle=2,
    random_skew=True,
    blur=1,
    random_blur=True,
    background_type=0,  # Gaussian noise.
    distorsion_type=1,  # Sine,
    distorsion_orientation=0,  # up and down.
    image_mode="L",
  )
  return sum(image is not None for image, _ in generator)


def main(assets_path: str, processes: int, lines: int) -> None:
  assets = json.loads(pathlib.Path(assets_path).read_text("utf-8"))
  labels, fonts = assets["labels"], assets["fonts"]
  share = lines // processes
  jobs = [
    (labels[i:] + labels[:i], fonts[i:] + fonts[:i], share)
    for i in range(processes)
  ]
  with multiprocessing.Pool(processes) as pool:

    def turn():
      drawn = sum(pool.map(draw, jobs, chunksize=1))
      assert drawn == share * processes, drawn

    turns.serve(turn, share * processes)


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
