"""What may be asked of an experiment's `Config` dataclass.

A field explains itself by the comment above it or at the end of its line; the
launcher shows that comment as the flag's help, so there is one text, beside the
default. A nested dataclass gives dotted names (`strengths.blur`).
"""

import ast
import dataclasses
import inspect
import io
import json
import textwrap
import tokenize
from typing import Any


def as_dict(config: Any) -> dict:
  """The config as JSON would give it back: dicts, lists, no tuples."""
  return json.loads(json.dumps(dataclasses.asdict(config)))


def flatten(config: dict, prefix: str = "") -> dict[str, Any]:
  """Dotted field names -> values, in the order of the fields."""
  flat = {}
  for name, value in config.items():
    if isinstance(value, dict):
      flat |= flatten(value, f"{prefix}{name}.")
    else:
      flat[prefix + name] = value
  return flat


def differences(stored: dict, given: dict) -> list[str]:
  """One text for each field that differs: name, stored and given value."""
  old, new = flatten(stored), flatten(given)
  absent = "absent"
  return [
    f"{name}: stored {old.get(name, absent)!r}, given {new.get(name, absent)!r}"
    for name in dict.fromkeys([*old, *new])
    if old.get(name, absent) != new.get(name, absent)
  ]


def field_help(config: Any, prefix: str = "") -> dict[str, str]:
  """Dotted field names -> the comments of the source, "" where there is none.

  Args:
    config: Dataclass instance whose source can be read.
    prefix: Put before every name.
  """
  comments = {}
  for cls in reversed(type(config).__mro__):  # Inherited fields as well.
    if dataclasses.is_dataclass(cls):
      comments |= _comments(cls)
  found = {}
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      found |= field_help(value, f"{prefix}{field.name}.")
    else:
      found[prefix + field.name] = comments.get(field.name, "")
  return found


def thawed(config: Any) -> Any:
  """A copy of like fields whose dataclasses are not frozen.

  The flags of ml_collections set fields in place.
  """
  values, types = {}, []
  for field in dataclasses.fields(config):
    value = getattr(config, field.name)
    if dataclasses.is_dataclass(value):
      value = thawed(value)
      types.append((field.name, type(value)))
    else:
      types.append((field.name, field.type))
    values[field.name] = value
  return dataclasses.make_dataclass(type(config).__name__, types)(**values)


def frozen_like(config: Any, copy: Any) -> Any:
  """A config of the class of `config` with the values of its thawed `copy`."""
  values = {}
  for field in dataclasses.fields(config):
    before, value = getattr(config, field.name), getattr(copy, field.name)
    nested = dataclasses.is_dataclass(before)
    values[field.name] = frozen_like(before, value) if nested else value
  return type(config)(**values)


def _comments(cls: type) -> dict[str, str]:
  """Field name -> the comment lines above it, then the one on its line."""
  source = textwrap.dedent(inspect.getsource(cls))
  by_line, alone = {}, set()
  for token in tokenize.generate_tokens(io.StringIO(source).readline):
    if token.type == tokenize.COMMENT:
      line, column = token.start
      by_line[line] = token.string.lstrip("# ").rstrip()
      if not token.line[:column].strip():
        alone.add(line)
  comments = {}
  for node in ast.parse(source).body[0].body:
    if not isinstance(node, ast.AnnAssign):
      continue
    first = node.lineno
    while first - 1 in alone:
      first -= 1
    lines = [by_line.get(n) for n in range(first, node.end_lineno + 1)]
    comments[node.target.id] = " ".join(filter(None, lines))
  return comments
