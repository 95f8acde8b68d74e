"""Contestant: the short Pillow loop that everybody writes first.

  lines_pillow.py ASSETS.json PROCESSES LINES_PER_TURN WIDTH

Text at a random grey, rotation, Gaussian blur, normal noise; fonts are loaded
once. Far fewer effects than ours.
"""

import json
import multiprocessing
import pathlib
import sys

import numpy as np
from PIL import Image
from PIL import ImageDraw
from PIL import ImageFilter
from PIL import ImageFont
import turns

HEIGHT = 32
_fonts: dict[str, ImageFont.FreeTypeFont] = {}  # Of this process, by path.


def draw(job) -> int:
  """Draws lines as float32 arrays in [0, 1]; the number drawn."""
  labels, fonts, count, width, seed = job
  rng = np.random.default_rng(seed)
  for index in range(count):
    path = fonts[index % len(fonts)]
    if path not in _fonts:
      _fonts[path] = ImageFont.truetype(path, 22)
    paper = int(rng.integers(160, 256))
    image = Image.new("L", (width, HEIGHT), paper)
    ImageDraw.Draw(image).text(
      (4, 3),
      labels[index % len(labels)],
      fill=int(rng.integers(0, 100)),
      font=_fonts[path],
    )
    image = image.rotate(
      rng.uniform(-2, 2), Image.Resampling.BILINEAR, fillcolor=paper
    )
    image = image.filter(ImageFilter.GaussianBlur(rng.uniform(0, 1)))
    noise = rng.normal(0, 0.03, (HEIGHT, width)).astype(np.float32)
    line = np.asarray(image, np.float32) / 255 + noise
    np.clip(line, 0, 1, out=line)
  return count


def main(assets_path: str, processes: int, lines: int, width: int) -> None:
  assets = json.loads(pathlib.Path(assets_path).read_text("utf-8"))
  labels, fonts = assets["labels"], assets["fonts"]
  share = lines // processes
  jobs = [(labels, fonts, share, width, seed) for seed in range(processes)]
  if processes == 1:
    turns.serve(lambda: draw(jobs[0]), share)
    return
  with multiprocessing.Pool(processes) as pool:
    turns.serve(lambda: pool.map(draw, jobs, chunksize=1), share * processes)


if __name__ == "__main__":
  main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
