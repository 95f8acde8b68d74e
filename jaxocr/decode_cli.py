"""Flags of how logits become text, for `jaxocr read` and `jaxocr eval`."""

import argparse
from typing import Any

# Flag, type, help; names as the arguments of `text.decode.make_decoding`.
_FLAGS = (
  ("beam", int, "prefixes kept by beam search; 0: greedy (default)"),
  ("lexicon", str, "file of one word a line; other words cost something"),
  ("lexicon-penalty", float, "of other words, nats (default: 3)"),
  ("lm", str, "file of text whose characters a language model counts"),
  ("lm-weight", float, "of the language model (default: 0.3)"),
  ("allowed", str, "the only characters that may be read, as 0123456789"),
  ("temperature", float, "divides the logits, see `jaxocr calibrate`"),
  ("reject-below", float, "reject readings less sure than this"),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
  """Adds the flags."""
  group = parser.add_argument_group("decoding")
  for name, kind, text in _FLAGS:
    group.add_argument(f"--{name}", type=kind, help=text)


def options(args: argparse.Namespace) -> dict[str, Any]:
  """Those that were given."""
  names = [name.replace("-", "_") for name, _, _ in _FLAGS]
  given = {name: getattr(args, name) for name in names}
  return {name: value for name, value in given.items() if value is not None}
