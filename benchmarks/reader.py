"""One Reader for very many readings: does memory stay, and how fast is it?

  python benchmarks/reader.py --data SET [--readings 100000] [--peer 500]

Reads the set's images again and again, from encoded bytes, and prints resident
memory on the way. With --peer, RapidOCR's recogniser reads so many of the same
images as well, without detection and classification
(benchmarks/requirements-rapidocr.txt). One thread each: the process binds
itself to one core.
"""

import argparse
import json
import os
import time

_READ_AT_ONCE = 1000
_WARM_UP = 2  # Passes before memory is compared: all widths are compiled.


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
  parser.add_argument("--data", required=True)
  parser.add_argument("--model")
  parser.add_argument("--readings", type=int, default=100_000)
  parser.add_argument("--peer", type=int, default=0)
  parser.add_argument("--json")
  args = parser.parse_args()
  # Before JAX starts its threads.
  os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
  images = _encoded(args.data)
  figures = _ours(images, args)
  if args.peer:
    figures["peer"] = _peer(images[: args.peer])
    ratio = figures["lines_per_s"] / figures["peer"]["lines_per_s"]
    figures["ratio"] = ratio
    print(f"ours / RapidOCR: {ratio:.1f}x")
  if args.json:
    with open(args.json, "w", encoding="utf-8") as file:
      json.dump(figures, file, indent=2)


def _encoded(path: str) -> list[bytes]:
  """The set's images, as they are encoded."""
  from jaxocr.data import convert
  from jaxocr.data import preprocess
  from jaxocr.data import readers

  lines, found = readers.open_lines(path), []
  for entry in lines.entries:
    try:
      found.append(convert.encoded(lines.fetch(entry.key)))
    except preprocess.PreprocessError:
      continue
  return found


def _ours(images: list[bytes], args) -> dict:
  import jaxocr
  from jaxocr import cpu

  cpu.prefer_wide_vectors()  # As the command does.
  reader = jaxocr.load(args.model)
  warm_up = _WARM_UP * len(images)
  done, seconds, rss = 0, 0.0, []
  while done < args.readings + warm_up:
    start = done % len(images)
    part = images[start : start + _READ_AT_ONCE]
    began = time.perf_counter()
    reader(part)
    if done >= warm_up:
      seconds += time.perf_counter() - began
    before, done = done, done + len(part)
    if before < warm_up <= done or before // 10_000 < done // 10_000:
      rss.append((done, _rss_mb()))
      print(f"{done:,} readings, {rss[-1][1]:.1f} MB resident", flush=True)
  rss = [(n, mb) for n, mb in rss if n >= warm_up]
  timed = done - rss[0][0]
  grown = _rss_mb() - rss[0][1]
  speed = timed / seconds
  print(
    f"ours: {timed:,} readings, {speed:.0f} lines/s, memory "
    f"{rss[0][1]:.1f} -> {_rss_mb():.1f} MB ({grown:+.1f})"
  )
  return {"readings": timed, "lines_per_s": speed, "rss_mb": rss}


def _peer(images: list[bytes]) -> dict:
  import cv2
  import numpy as np
  import rapidocr

  engine = rapidocr.RapidOCR(
    params={
      "EngineConfig.onnxruntime.intra_op_num_threads": 1,
      "EngineConfig.onnxruntime.inter_op_num_threads": 1,
    }
  )

  def read(data):
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    return engine(image, use_det=False, use_cls=False, use_rec=True)

  for data in images[:20]:
    read(data)
  began = time.perf_counter()
  for data in images:
    read(data)
  speed = len(images) / (time.perf_counter() - began)
  print(f"RapidOCR {rapidocr.__file__}: {speed:.1f} lines/s")
  return {"readings": len(images), "lines_per_s": speed}


def _rss_mb() -> float:
  with open("/proc/self/statm", encoding="ascii") as file:
    return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


if __name__ == "__main__":
  main()
