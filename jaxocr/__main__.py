"""`python -m jaxocr`, the same as the `jaxocr` command."""

import sys

from jaxocr import cli

if __name__ == "__main__":
  sys.exit(cli.main())
