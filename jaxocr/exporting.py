"""`jaxocr export`: a bundle as a file for another engine, and its proof.

Imports that take time wait until they are needed, as in `cli`.
"""

from collections.abc import Iterator
import os
import pathlib
import tempfile
from typing import Any

TARGETS = ("onnx", "mnn")


def open_reader(
  model: str | os.PathLike | None, engine: str = "jax", **decoding: Any
):
  """A `reader.Reader` of a bundle or of an exported file.

  Args:
    model: As of `reader.find_model`, or an exported file, which says by itself
      what it is for.
    engine: `jax`, or one of TARGETS, for which a bundle is exported first.
    **decoding: As of `reader.Reader.load`.

  Raises:
    As `export`.
  """
  from jaxocr import reader as reader_lib
  from jaxocr.export import engines

  suffix = pathlib.Path(model or "").suffix
  made_for = engines.SUFFIXES.get(suffix)
  if made_for not in (None, engine) and engine != "jax":
    raise ValueError(f"{model} is for {made_for}, not for --engine {engine}")
  if made_for:
    return reader_lib.Reader.of_engine(engines.open_engine(model), **decoding)
  if engine == "jax":
    return reader_lib.Reader.load(model, **decoding)
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder) / f"model.{engine}"
    write(reader_lib.load_model(reader_lib.find_model(model)), path)
    return reader_lib.Reader.of_engine(engines.open_engine(path), **decoding)


def export(
  model: str | os.PathLike | None,
  to: str,
  *,
  out: str | os.PathLike | None = None,
  int8: bool = False,
  dense: bool = False,
  decode: bool = False,
  check: bool = False,
  labels: str | os.PathLike | None = None,
  mnist_dir: str = "",
  threads: int = 1,
) -> Iterator[str]:
  """Writes the file and its JSON; yields what there is to say, line by line.

  Args:
    model: As of `reader.find_model`.
    to: One of TARGETS.
    out: The file; None: in the current folder, called like the bundle.
    int8: Whether products are to be of 8-bit integers.
    dense: Whether weights lie in the file as float32 (ONNX). By default they
      lie there as they are packed: as fast once it is loaded, and far smaller.
    decode: Whether the file gives classes as well (ONNX).
    check: Whether to run the file beside the bundle.
    labels: Real lines for that, a file of path<TAB>label.
    mnist_dir: Folder with MNIST's files, to check a digit network on its test
      images; empty: on those of scikit-learn's digits.
    threads: Of the engine that is checked.

  Raises:
    ModuleNotFoundError: A package is missing.
    OSError: A file cannot be read or written.
    ValueError: Not a bundle, or one that cannot be exported so.
  """
  from jaxocr import reader as reader_lib
  from jaxocr.export import digit_model

  path = reader_lib.find_model(model)
  found = load(path)
  _refuse(path, found, labels, mnist_dir)
  target = _target(out or f"{path.stem}.{to}", to)
  try:
    said, stated, reference = write(
      found, target, int8=int8, dense=dense, decode=decode
    )
  except OSError as error:
    raise ValueError(
      f"--out {target} cannot be written ({error.strerror}); choose another"
    ) from error
  yield (
    f"{target}: {target.stat().st_size:,} bytes, {said}; "
    f"{path.name} {path.stat().st_size:,} bytes, "
    f"{stated['content_hash'][:12]}"
  )
  if check and isinstance(reference, digit_model.JaxEngine):
    yield from _check_digits(target, reference, stated, mnist_dir, threads)
  elif check:
    yield from _check(target, found, reference, stated, labels, threads)


def _refuse(path, found, labels, mnist_dir):
  """Raises ValueError where what to check with is of another kind."""
  from jaxocr.export import digit_model

  reads_digits = isinstance(found, digit_model.DigitModel)
  if reads_digits and labels is not None:
    raise ValueError(
      f"--labels {labels} are of lines, {path} reads single digits; give "
      "--mnist-dir, or neither"
    )
  if mnist_dir and not reads_digits:
    raise ValueError(
      f"--mnist-dir {mnist_dir} is for digit networks, {path} reads lines; "
      "give --labels"
    )


def _target(out, to) -> pathlib.Path:
  """The file to write; raises ValueError where that cannot be."""
  target = pathlib.Path(out)
  if target.suffix != f".{to}":
    raise ValueError(f"--out {target}: call it NAME.{to}")
  if not target.parent.is_dir():
    raise ValueError(f"--out {target}: there is no folder {target.parent}")
  return target


def load(path: pathlib.Path):
  """A `reader.Model` or a `digit_model.DigitModel`, whichever a bundle holds.

  Raises:
    OSError, ValueError: As they do.
  """
  from jaxocr import reader as reader_lib
  from jaxocr.export import bundle
  from jaxocr.export import digit_model

  if digit_model.is_digits(bundle.load_bundle(path)):
    return digit_model.load(path)
  return reader_lib.load_model(path)


def write(
  model,
  target: pathlib.Path,
  *,
  int8: bool = False,
  dense: bool = False,
  decode: bool = False,
  reference=None,
):
  """Writes a recogniser and its JSON; as `export` but without words.

  Args:
    model: A `reader.Model` or a `digit_model.DigitModel`.
    target: Ends in .onnx or .mnn.
    int8, dense, decode: As of `export`.
    reference: Its engine of JAX, where there is one already.

  Returns:
    What is in the file, in a few words; what the JSON holds; the network
    itself, an `engines.JaxEngine` or a `digit_model.JaxEngine`.

  Raises:
    As `export`.
  """
  from jaxocr.export import card
  from jaxocr.export import digit_card
  from jaxocr.export import digit_model
  from jaxocr.export import engines
  from jaxocr.export import mnn_file
  from jaxocr.export import onnx_file

  if dense and target.suffix == ".mnn":
    raise ValueError(
      "dense is for ONNX; MNN's files hold packed weights wherever MNN can "
      "compute with them"
    )
  if dense and int8:
    raise ValueError(
      "dense weights are floats, int8 computes with integers; leave one out"
    )
  if isinstance(model, digit_model.DigitModel):
    reference = reference or digit_model.JaxEngine(model)
    stated = digit_card.make(model, reference)
  else:
    reference = reference or engines.JaxEngine(model)
    stated = card.make(model, reference)
  if target.suffix == ".mnn":
    said = mnn_file.save(target, model, int8=int8)
  else:
    proto = onnx_file.make_model(
      model, stored=not dense, integer=int8, decode=decode
    )
    onnx_file.save(target, proto)
    said = onnx_file.describe(proto)
  try:
    card.save(target, stated)
  except OSError:
    target.unlink()  # Nobody can use one without the other.
    raise
  return said, stated, reference


def _check_digits(target, reference, stated, mnist_dir, threads):
  from jaxocr.data import digits
  from jaxocr.export import digit_check
  from jaxocr.export import engines

  session = engines.SESSIONS[target.suffix[1:]](target, threads=threads)
  name = digits.MNIST if mnist_dir else digits.SKLEARN
  found = digits.load(name, mnist_dir=mnist_dir)
  yield from digit_check.told(session, reference, stated, found)


def _check(target, found, reference, stated, labels, threads):
  from jaxocr.data import real
  from jaxocr.export import check
  from jaxocr.export import engines

  engine = engines.open_engine(target, threads=threads)
  read, wanted = check.golden_text(engine, stated), stated["golden"]["text"]
  yield f"golden line: {read!r}" + (
    "" if read == wanted else f", but the bundle reads {wanted!r}"
  )
  lines = check.rendered_lines(found.alphabet, 256)
  count = check.make_near_threshold(found)
  for width, batch, error in check.logit_errors(engine, reference, lines):
    near = count(check.images(lines, width, batch)).sum()
    yield f"width {width}, batch {batch}: largest logit error {error:.2g}" + (
      f" ({near} features within {check.NEAR:g} of a sign's threshold)"
      if near
      else ""
    )
  own = check.own_error(reference, lines)
  yield (
    "the bundle in JAX, batch 1 beside itself in batch "
    f"{check.LARGE_BATCH}: {own:.2g}"
  )
  yield from check.told(check.compare(engine, reference, lines))
  if labels is not None:
    kept = real.read_labels(labels, found.alphabet)
    yield kept.summary()
    known = check.Lines(kept.name, kept.items)
    yield from check.told(check.compare(engine, reference, known))
  ours, theirs = check.latency_ms(engine), check.latency_ms(reference)
  yield (
    f"latency of a line of {found.height}x{check.LATENCY_PX}, median of "
    f"{check.TURNS}: {ours:.2f} ms in {threads} thread(s); the bundle in JAX "
    f"{theirs:.2f} ms in up to {os.cpu_count()}"
  )
