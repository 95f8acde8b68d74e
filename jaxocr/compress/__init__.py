"""Smaller networks: rules that say which parameter takes which form.

from jaxocr import compress

rules = ((r".*/binary_kernel", compress.Binary()), (r".*", compress.Float()))
logits = model.apply({"params": compress.fake(params, rules)}, x)  # In a loss.
packed = compress.pack(params, rules)  # For a file; `unpack` gives them back.
print(compress.summarise(packed).table())

It knows nothing of text or of training: any tree of arrays will do.
"""

from jaxocr.compress.affine import Grid
from jaxocr.compress.distil import Distillation
from jaxocr.compress.distil import distillation_loss
from jaxocr.compress.packed import AffineTensor
from jaxocr.compress.packed import BitTensor
from jaxocr.compress.packed import CodebookTensor
from jaxocr.compress.packed import FloatTensor
from jaxocr.compress.rules import Rules
from jaxocr.compress.rules import fake
from jaxocr.compress.rules import match
from jaxocr.compress.rules import pack
from jaxocr.compress.rules import unpack
from jaxocr.compress.rules import with_steps
from jaxocr.compress.specs import LSQ
from jaxocr.compress.specs import Affine
from jaxocr.compress.specs import Binary
from jaxocr.compress.specs import Codebook
from jaxocr.compress.specs import DoReFa
from jaxocr.compress.specs import Float
from jaxocr.compress.specs import Spec
from jaxocr.compress.specs import Ternary
from jaxocr.compress.summary import summarise

__all__ = [
  "LSQ",
  "Affine",
  "AffineTensor",
  "Binary",
  "BitTensor",
  "Codebook",
  "CodebookTensor",
  "Distillation",
  "DoReFa",
  "Float",
  "FloatTensor",
  "Grid",
  "Rules",
  "Spec",
  "Ternary",
  "distillation_loss",
  "fake",
  "match",
  "pack",
  "summarise",
  "unpack",
  "with_steps",
]
