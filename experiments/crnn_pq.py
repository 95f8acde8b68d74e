"""The shipped CRNN in float, integers, bits and codebooks: what reads best?

  python launch.py --experiment=crnn_pq

One busy core: 16 min with 1,680 real lines. Expect 0.9715 of the rendered and
0.884 of the real lines for pq2 at 318 kB, where int8 has 0.9735 and 0.883 at
518 kB; 0.970 and 0.871 for pq4 at 228 kB, as large as the one-bit recogniser
(0.967, 0.885), which itself loses nothing at 154 kB (1bit_pq4_tuned).

Settings of the shipped float recogniser (and of the one-bit
one, whose backbone stays as it is) without training: k-means, then codes and
codewords fitted to each layer's responses behind the layers before it. Those of
`tune` are trained on for a little, codes fixed. Leaves bytes.png.

What is done is kept, so a run that was stopped goes on with the next setting.
"""

import dataclasses
import json
import os
import re
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxocr import files
from jaxocr import zoo
from jaxocr.compress import affine
from jaxocr.compress import rules as rules_lib
from jaxocr.compress import specs
from jaxocr.compress import summary
from jaxocr.export import bundle
from jaxocr.models import crnn
from jaxocr.models import fold
from jaxocr.train import bytes_chart
from jaxocr.train import codebooks
from jaxocr.train import distributed
from jaxocr.train import ship
from jaxocr.train import text_config
from jaxocr.train import text_run
from jaxocr.train import text_tune

CHART = "bytes.png"
CELLS = "cells"
FLOAT, ONE_BIT = "numeric-float", "numeric-1bit"  # In the zoo.
_CALIBRATION_KEY = 7_000  # Apart from the lines of training and evaluation.
_POSITIVE = ("batches", "sweeps", "tune_learning_rate")


@dataclasses.dataclass(frozen=True)
class Config(text_config.TextConfig):
  """Everything that a run depends on."""

  # As those of --experiment=bnn_crnn, so that figures can be compared.
  width: int = 96
  max_length: int = 8
  # Settings to do now whose whole name matches this regex; empty: all. It may
  # be another one each time the same folder is gone on with.
  only: str = ""

  # Of rendered lines that responses are taken from.
  batches: int = 8
  # Over the sub-spaces of a layer, at most.
  sweeps: int = 3
  # Settings that are trained on, with codes fixed; comma-separated.
  tune: str = "pq2,1bit_pq4"
  # Updates of each.
  tune_steps: int = 300
  # Peak of Adam's there.
  tune_learning_rate: float = 5e-4
  # Weight of the float network's logits, a mean over frames where CTC's is a
  # sum.
  logit: float = 24.0

  SELECTIONS: ClassVar[tuple[str, ...]] = ("only",)

  def validate(self) -> None:
    """Raises ValueError for the first thing that cannot work."""
    super().validate()
    text_config.check_fields(
      self,
      [
        ("alphabet", "numeric: the shipped one", lambda v: v == "numeric"),
        ("tune_steps", "0 or more", lambda v: v >= 0),
        *((name, "above 0", lambda v: v > 0) for name in _POSITIVE),
      ],
    )
    unknown = set(text_config.split_paths(self.tune)) - SETTINGS.keys()
    if unknown:
      raise ValueError(
        f"tune={self.tune!r} has {', '.join(sorted(unknown))}; there are "
        f"{', '.join(SETTINGS)}"
      )
    chosen(self)


@dataclasses.dataclass(frozen=True)
class Setting:
  """A recipe and what it starts from."""

  family: str  # Of the picture: float, int, binary, pq or mixed.
  rules: rules_lib.Rules | None  # None: as the bundle has it.
  source: str = FLOAT


def _recipe(
  *, spatial=None, mix=None, collapse=None, bilstm=None, rest=None
) -> rules_lib.Rules:
  """Forms of the parts; `rest` where none is given, half floats beside.

  `spatial` are the backbone's 3x3 kernels, `mix` its 1x1 ones.
  """
  parts = (
    (r"backbone/.*/spatial/conv/binary_kernel", spatial),
    (r"backbone/.*/mix(_twin)?/conv/binary_kernel", mix),
    (r"collapse/kernel", collapse),
    (r"bilstm/.*kernel", bilstm),
  )
  given = tuple((pattern, spec) for pattern, spec in parts if spec)
  rest = rest or specs.Affine()
  return (*given, (r".*kernel", rest), (r".*", specs.Float("float16")))


_INT4 = specs.Affine(affine.Grid(bits=4))
_PQ = specs.Codebook
_BACKBONE2 = dict(spatial=_PQ(2, 64), mix=_PQ(2, 16), collapse=_PQ(2, 16))
_BACKBONE4 = dict(spatial=_PQ(4, 64), mix=_PQ(4, 16), collapse=_PQ(4, 16))
_EVERY4 = dict(spatial=_INT4, mix=_INT4, collapse=_INT4)
# Of the one-bit recogniser only these change.
_ONLY_BILSTM = r"bilstm/.*kernel"

SETTINGS = {
  "float": Setting("float", rules_lib.ALL_FLOAT),
  "int8": Setting("int", _recipe()),
  "int4": Setting("int", _recipe(**_EVERY4, bilstm=_INT4)),
  "pq2": Setting("pq", _recipe(**_BACKBONE2, bilstm=_PQ(2, 64))),
  "pq4": Setting("pq", _recipe(**_BACKBONE4, bilstm=_PQ(4, 64))),
  "pq2_backbone": Setting("mixed", _recipe(**_BACKBONE2)),
  "pq2_bilstm": Setting("mixed", _recipe(bilstm=_PQ(2, 64))),
  "pq2_int4": Setting("mixed", _recipe(**_BACKBONE2, bilstm=_INT4)),
  "1bit": Setting("binary", None, ONE_BIT),
  "1bit_pq2": Setting("mixed", ((_ONLY_BILSTM, _PQ(2, 64)),), ONE_BIT),
  "1bit_pq4": Setting("mixed", ((_ONLY_BILSTM, _PQ(4, 64)),), ONE_BIT),
}


def chosen(config: Config) -> list[str]:
  """Names of the settings to do.

  Raises:
    ValueError: `only` is no regex or matches none.
  """
  try:
    found = [n for n in SETTINGS if re.fullmatch(config.only or ".*", n)]
  except re.error as error:
    raise ValueError(f"only={config.only!r} is no regex: {error}") from error
  if not found:
    raise ValueError(
      f"only={config.only!r} matches no setting; there are "
      f"{', '.join(SETTINGS)}"
    )
  return found


@dataclasses.dataclass(frozen=True)
class Source:
  """A shipped recogniser, folded."""

  architecture: dict[str, Any]  # Arguments of `crnn.CRNN`.
  packed: Any  # As stored.
  params: Any  # As computed with.


def load_source(name: str) -> Source:
  """Of the zoo; BatchNorm is folded where it is not yet."""
  found = bundle.load_bundle(zoo.path(name))
  architecture = {**found.meta["architecture"], "folded": True}
  weights = ship.load_weights(found)
  if found.meta["architecture"].get("folded"):
    return Source(architecture, found.params, weights.params)
  params = jax.device_get(
    jax.jit(fold.fold)(weights.params, weights.collections)
  )
  packed = jax.device_get(rules_lib.pack(params, rules_lib.ALL_FLOAT))
  return Source(architecture, packed, params)


def run(config: Config, workdir: str | os.PathLike) -> dict:
  """Judges every setting that is not done; returns what report.json holds."""
  run = text_run.TextRun(config, workdir)
  sources = {name: load_source(name) for name in (FLOAT, ONE_BIT)}
  tuned = text_config.split_paths(config.tune) if config.tune_steps else []
  rows, best = [], None
  for name, setting in SETTINGS.items():
    if name not in chosen(config) and not _kept(run, name).exists():
      continue
    rows += _rows(run, name, setting, sources, tune=name in tuned)
  chart = run.workdir / CHART
  if distributed.is_writer():
    bytes_chart.draw(
      chart,
      [_flat(row) for row in rows],
      {"line_accuracy": "Rendered lines", "real_accuracy": "Real lines"}
      if run.files
      else {"line_accuracy": "Rendered lines"},
    )
    with files.aside(run.workdir / "table.md") as part:
      part.write_text(table(rows), encoding="utf-8")
  best = better_than_int8(rows)
  first = best or rows[0]
  figures = {
    **{k: v for k, v in first.items() if k in _SCORES},
    "best": best and best["name"],
    "parameters": first["parameters"],
    "bytes": first["bytes"],
    "steps": config.tune_steps,
    "variants": rows,
  }
  return run.report(figures, [])


_SCORES = ("line_accuracy", "cer", "ned", "str36", "lines", "real")


def better_than_int8(rows: list[dict]) -> dict | None:
  """The row that reads most among those smaller and better than int8.

  Better is more of the rendered lines and, where there are any, of the real
  ones.
  """
  plain = next((row for row in rows if row["name"] == "int8"), None)
  if plain is None:
    return None
  measures = [_flat(plain).get("real_accuracy"), plain["line_accuracy"]]

  def better(row):
    own = [_flat(row).get("real_accuracy"), row["line_accuracy"]]
    pairs = [p for p in zip(own, measures, strict=True) if None not in p]
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)

  found = [r for r in rows if r["bytes"] < plain["bytes"] and better(r)]
  return max(found, key=lambda row: row["line_accuracy"], default=None)


def _flat(row) -> dict:
  real = row.get("real") or {}
  return {**row, "real_accuracy": real.get("line_accuracy")}


def table(rows: list[dict]) -> str:
  """All rows, in Markdown."""
  lines = [
    "| setting | bytes | ratio | rendered | real | rendered, k-means alone |",
    "|---|---|---|---|---|---|",
  ]
  for row in map(_flat, rows):
    real, plain = row["real_accuracy"], row.get("uncorrected")
    cells = (
      f"`{row['name']}`",
      f"{row['bytes']:,}",
      f"{row['ratio']:.1f}",
      f"{row['line_accuracy']:.4f}",
      "-" if real is None else f"{real:.4f}",
      "-" if plain is None else f"{plain:.4f}",
    )
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _rows(run, name, setting, sources, *, tune) -> list[dict]:
  """Of a setting, and of the same trained on: kept, or made now."""
  names = [name, f"{name}_tuned"] if tune else [name]
  rows = []
  source = sources[setting.source]
  packed = None
  for made in names:
    kept = _kept(run, made)
    if not kept.exists():
      if packed is None:
        packed, plain = compress(run, name, setting, source)
      shipped = packed
      if made != name:
        shipped = _tune(run, made, source, packed, sources[FLOAT])
      row = {"name": made, "family": setting.family}
      if made == name and plain is not None:
        row["uncorrected"] = _scores(run, source, plain)["line_accuracy"]
      row |= _scores(run, source, shipped) | _sizes(shipped)
      row["layers"] = codebooks.rows(shipped)
      _keep(run, made, row, shipped, source)
    rows.append(json.loads(kept.read_text(encoding="utf-8")))
    run.say(told(rows[-1]))
  return rows


def told(row: dict) -> str:
  """One line on a row for a person."""
  text = (
    f"{row['name']:16} {row['bytes']:>9,} bytes, rendered "
    f"{row['line_accuracy']:.4f}"
  )
  if row.get("real"):
    text += f", real {row['real']['line_accuracy']:.4f}"
  if "uncorrected" in row:
    text += f" (k-means alone: rendered {row['uncorrected']:.4f})"
  return text


def compress(run, name, setting: Setting, source: Source):
  """(packed and corrected, packed by k-means alone or None if the same)."""
  if setting.rules is None:
    return source.packed, None
  if setting.source == ONE_BIT:  # Rules for some of what is packed.
    (pattern, spec), tensors = (
      setting.rules[0],
      codebooks.flatten(source.packed),
    )
    params = codebooks.flatten(source.params)
    packed = codebooks.unflatten(
      {
        path: spec.pack(jnp.asarray(params[path]))
        if re.fullmatch(pattern, path)
        else tensor
        for path, tensor in tensors.items()
      }
    )
  else:
    rules, skipped = rules_lib.leave_unfit(
      source.params, setting.rules, specs.Affine()
    )
    for path, reason in skipped.items():
      run.say(f"{name}: int8 instead: {path}: {reason}")
    packed = rules_lib.pack(source.params, rules)
  packed = jax.device_get(packed)
  if not codebooks.rows(packed):
    return packed, None
  network = codebooks.Network(
    crnn.CRNN(**source.architecture),
    {"params": source.params},
    calibration_images(run),
  )
  corrected = codebooks.correct_layers(
    network,
    packed,
    several=True,
    sweeps=run.config.sweeps,
    folder=run.workdir / CELLS / name,
  )
  return jax.device_get(corrected), packed


def calibration_images(run) -> list[np.ndarray]:
  """Batches of rendered lines, [B, H, W, 1], of no training or evaluation."""
  key = jax.random.fold_in(jax.random.key(run.config.seed), _CALIBRATION_KEY)
  draw = jax.jit(lambda keys: run.sample(run.assets, keys).image)
  size = run.config.batch_size
  return [
    np.asarray(draw(jax.random.split(jax.random.fold_in(key, i), size)))
    for i in range(run.config.batches)
  ]


def _tune(run, name, source: Source, packed, teacher: Source):
  return text_tune.tune(
    run,
    source.architecture,
    packed,
    teacher=(teacher.architecture, teacher.params),
    folder=run.workdir / CELLS / name,
    steps=run.config.tune_steps,
    learning_rate=run.config.tune_learning_rate,
    logit=run.config.logit,
  )


def _scores(run, source: Source, packed) -> dict:
  params = jax.device_get(jax.jit(rules_lib.unpack)(packed))
  _, scores = run.judge(
    ship.Weights(params, {}), source.architecture, rules_lib.ALL_FLOAT
  )
  return scores


def _sizes(packed) -> dict:
  whole = summary.summarise(packed)
  return {
    "parameters": whole.count,
    "bytes": whole.nbytes,
    "ratio": whole.ratio,
    "backbone_bytes": whole.below("backbone").nbytes,
    "bilstm_bytes": whole.below("bilstm").nbytes,
  }


def _kept(run, name):
  return run.workdir / CELLS / f"{name}.json"


def _keep(run, name, row, packed, source: Source) -> None:
  if not distributed.is_writer():
    return
  folder = run.workdir / CELLS
  folder.mkdir(exist_ok=True)
  training = {k: v for k, v in row.items() if k in ("name", *_SCORES)}
  ship.save_packed(
    folder / f"{name}.safetensors",
    packed,
    {},
    source.architecture,
    run.alphabet,
    training,
  )
  with files.aside(_kept(run, name)) as part:
    part.write_text(json.dumps(row) + "\n", encoding="utf-8")
