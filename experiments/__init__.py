"""One module is one experiment: a header, `Config` and `run(config, workdir)`.

The header's first line describes it in `python launch.py --list`. `Config` is a
dataclass of plain fields with `validate()`, which raises ValueError.
"""

import ast
import pathlib


def descriptions() -> dict[str, str]:
  """Name -> first line of the header; nothing is imported."""
  found = {}
  for path in sorted(pathlib.Path(__file__).parent.glob("[!_]*.py")):
    header = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    found[path.stem] = header.split("\n")[0]
  return found
