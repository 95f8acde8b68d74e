"""Sets of labelled lines in the formats that people have."""

from jaxocr.data.readers.find import open_lines
from jaxocr.data.readers.lines import DataError
from jaxocr.data.readers.lines import Entry
from jaxocr.data.readers.lines import Lines

__all__ = ["DataError", "Entry", "Lines", "open_lines"]
