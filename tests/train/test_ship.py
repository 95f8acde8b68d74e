"""Which rules are shipped folded."""

import pathlib

import pytest

from jaxocr.compress import affine
from jaxocr.compress import rules
from jaxocr.compress import specs
from jaxocr.text import alphabet as alphabet_lib
from jaxocr.train import ship


@pytest.mark.parametrize(
  "spec, folds",
  [
    (specs.Binary(), True),
    (specs.Binary(scaled=False), False),
    (specs.Affine(), True),
    (specs.Affine(per_channel=False), False),
    (specs.Affine(affine.Grid(symmetric=False)), False),
    (specs.Ternary(), False),  # Its threshold is the whole kernel's.
    (specs.DoReFa(bits=2), False),
  ],
)
def test_only_what_works_per_channel_is_folded(spec, folds):
  recipe = ((r".*kernel", spec), *rules.ALL_FLOAT)
  assert ship.folds(recipe) == folds


def test_what_cannot_be_folded_is_not_shipped(tmp_path):
  recipe = ((r".*kernel", specs.Ternary()), *rules.ALL_FLOAT)
  with pytest.raises(ValueError, match="BatchNorm cannot be folded with"):
    ship.save(
      pathlib.Path(tmp_path / "a.safetensors"),
      ship.Weights({}, {}),
      {},
      recipe,
      alphabet_lib.load_alphabet("numeric"),
      {},
    )
  assert not list(tmp_path.iterdir())
