"""What benchmarks take from the package is there; they are not run here."""

import ast
import importlib
import pathlib

import pytest

SCRIPTS = sorted(
  (pathlib.Path(__file__).parents[1] / "benchmarks").glob("*.py")
)


def _missing(source: str) -> list[str]:
  """Attributes of the project's modules that a script names in vain."""
  nodes, modules = list(ast.walk(ast.parse(source))), {}
  for node in nodes:
    if isinstance(node, ast.ImportFrom) and node.level == 0:
      package = node.module or ""
      if package.partition(".")[0] not in ("jaxocr", "experiments"):
        continue
      for name in node.names:
        module = importlib.import_module(f"{package}.{name.name}")
        modules[name.asname or name.name] = module
  return [
    f"{node.value.id}.{node.attr}"
    for node in nodes
    if isinstance(node, ast.Attribute)
    and isinstance(node.value, ast.Name)
    and node.value.id in modules
    and not hasattr(modules[node.value.id], node.attr)
  ]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_names_exist(path):
  assert _missing(path.read_text(encoding="utf-8")) == []


def test_a_name_that_is_gone_is_found():
  source = "from jaxocr import files\nfiles.aside\nfiles.nowhere\n"
  assert _missing(source) == ["files.nowhere"]
