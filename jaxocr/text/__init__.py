"""Text: the alphabet, CTC decoding, scores."""

from jaxocr.text.alphabet import LATIN
from jaxocr.text.alphabet import NUMERIC
from jaxocr.text.alphabet import Alphabet
from jaxocr.text.alphabet import load_alphabet
from jaxocr.text.ctc import Character
from jaxocr.text.ctc import Reading
from jaxocr.text.ctc import best_path
from jaxocr.text.ctc import collapse
from jaxocr.text.ctc import greedy_decode
from jaxocr.text.scores import PROTOCOLS
from jaxocr.text.scores import character_error_rate
from jaxocr.text.scores import divide
from jaxocr.text.scores import line_accuracy
from jaxocr.text.scores import normalised_edit_similarity
from jaxocr.text.scores import score_lines
from jaxocr.text.scores import str36

__all__ = [
  "LATIN",
  "NUMERIC",
  "PROTOCOLS",
  "Alphabet",
  "Character",
  "Reading",
  "best_path",
  "character_error_rate",
  "collapse",
  "divide",
  "greedy_decode",
  "line_accuracy",
  "load_alphabet",
  "normalised_edit_similarity",
  "score_lines",
  "str36",
]
