import dataclasses

import pytest

from jaxocr.train import configs


@dataclasses.dataclass(frozen=True)
class Inner:
  blur: float = 0.5  # Px.
  bare: int = 1


@dataclasses.dataclass(frozen=True)
class Config:
  """Docstring."""

  # Of the weights,
  # and of the lines.
  seed: int = 0  # Not negative.

  steps: int = 10
  # A word on # signs.
  name: str = "a # b"
  inner: Inner = dataclasses.field(default_factory=Inner)

  def method(self):
    local: int = 3  # Not a field.
    return local


def test_comments_become_help():
  assert configs.field_help(Config(), "cfg.") == {
    "cfg.seed": "Of the weights, and of the lines. Not negative.",
    "cfg.steps": "",
    "cfg.name": "A word on # signs.",
    "cfg.inner.blur": "Px.",
    "cfg.inner.bare": "",
  }


@dataclasses.dataclass(frozen=True)
class Derived(Config):
  # Of this one.
  width: int = 4
  # Other than above.
  steps: int = 20
  bare: int = 1


class Plain(Derived):
  """No dataclass of its own."""


@pytest.mark.parametrize("cls", [Derived, Plain])
def test_inherited_fields_keep_their_comments(cls):
  found = configs.field_help(cls())
  assert found == {
    "seed": "Of the weights, and of the lines. Not negative.",
    "steps": "Other than above.",
    "name": "A word on # signs.",
    "inner.blur": "Px.",
    "inner.bare": "",
    "width": "Of this one.",
    "bare": "",
  }
  assert next(iter(found)) == "seed"  # In the order of the fields.


def test_differences_name_both_values():
  stored = configs.as_dict(Config())
  given = configs.as_dict(Config(seed=3, inner=Inner(blur=1.0)))
  assert configs.differences(stored, given) == [
    "seed: stored 0, given 3",
    "inner.blur: stored 0.5, given 1.0",
  ]
  assert configs.differences(stored, stored) == []


def test_a_field_that_came_or_went_differs():
  assert configs.differences({"a": 1}, {"b": 2}) == [
    "a: stored 1, given 'absent'",
    "b: stored 'absent', given 2",
  ]


def test_thawed_fields_can_be_set_and_frozen_again():
  copy = configs.thawed(Config())
  copy.steps = 20
  copy.inner.blur = 2.0
  config = configs.frozen_like(Config(), copy)
  assert config == Config(steps=20, inner=Inner(blur=2.0))
  assert isinstance(config.inner, Inner)
  with pytest.raises(dataclasses.FrozenInstanceError):
    config.steps = 3
