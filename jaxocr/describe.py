"""What `jaxocr info` says of a model: where each bit goes.

Imports that take time wait until they are needed, as in `cli`.
"""

import dataclasses
import pathlib
import textwrap

# Multiply-accumulates are told for a line of this width.
LINE_PX = 128


def alphabet(stated: dict) -> str:
  """Name and size of a bundle's alphabet."""
  return f"{stated['name']}, {len(stated['characters'])} characters"


def _summarise(model):
  """Of a `reader.Model`, for a line of LINE_PX; nothing is computed."""
  import jax
  import jax.numpy as jnp

  from jaxocr.compress import summary
  from jaxocr.models import macs

  image = jax.ShapeDtypeStruct((1, model.height, LINE_PX, 1), jnp.float32)
  counted = macs.count_macs(
    model.network.apply, jax.eval_shape(model.stored.variables), image
  )
  return summary.summarise(model.stored.params, counted)


def fields(path: pathlib.Path, model) -> dict:
  """All of it, JSON-able; `model` is a `reader.Model`."""
  summary = _summarise(model)
  meta = model.stored.meta
  stated = ("format", "content_hash", "architecture", "alphabet", "preprocess")
  return {
    "path": str(path),
    "file_bytes": path.stat().st_size,
    **{name: meta[name] for name in stated},
    "training": meta["training"],
    "line": {"height": model.height, "width": LINE_PX},
    "parameters": [
      {
        "path": row.path,
        "shape": row.shape,
        "form": row.form,
        "bytes": row.nbytes,
        "macs": row.macs,
        "macs_by_precision": row.macs_by_precision,
        **(
          {"codebook": dataclasses.asdict(row.codebook)} if row.codebook else {}
        ),
      }
      for row in summary.rows
    ],
    "all": _sums(summary),
    "backbone": _sums(summary.below("backbone")),
  }


def _sums(summary) -> dict:
  return {
    "count": summary.count,
    "bytes": summary.nbytes,
    "float32_bytes": summary.float_nbytes,
    "ratio": summary.ratio,
    "macs": summary.macs,
    "macs_by_precision": summary.macs_by_precision,
  }


def text(path: pathlib.Path, model) -> str:
  """For a person; `model` is a `reader.Model`."""
  summary = _summarise(model)
  meta = model.stored.meta
  backbone = summary.below("backbone")
  return "\n".join(
    [
      f"{path}: {path.stat().st_size:,} bytes, format {meta['format']}",
      _paragraph("content hash", meta["content_hash"]),
      _paragraph("architecture", _listed(meta["architecture"])),
      _paragraph("alphabet", alphabet(meta["alphabet"])),
      f"  {meta['alphabet']['characters']}",
      _paragraph("preprocessing", _listed(meta["preprocess"])),
      _paragraph("training", _listed(meta["training"]) or "nothing is said"),
      f"\nMACs are those of one line of {model.height}x{LINE_PX}, of weights x "
      "features.",
      summary.table(),
      f"backbone: {backbone.float_nbytes:,} bytes in float32, "
      f"{backbone.nbytes:,} packed: {backbone.ratio:.1f} times smaller",
    ]
  )


def _paragraph(title: str, text: str) -> str:
  return textwrap.fill(
    f"{title}: {text}",
    width=80,
    subsequent_indent="  ",
    break_long_words=False,
    break_on_hyphens=False,
  )


def _listed(values: dict, prefix: str = "") -> str:
  """`name=value, outer.inner=value`, floats as a person reads them."""
  parts = []
  for name, value in values.items():
    if isinstance(value, dict):
      parts.append(_listed(value, f"{prefix}{name}."))
    else:
      text = f"{value:.4g}" if isinstance(value, float) else f"{value}"
      parts.append(f"{prefix}{name}={text}")
  return ", ".join(part for part in parts if part)
