"""Staged training as data: each stage starts from the averages of another.

float teacher -> binary activations -> binary weights -> int8 for the rest is a
tuple of `Stage`s. What a stage changes (the form of the weights, the features,
what is minimised) is stated in it and nowhere else.
"""

from collections.abc import Mapping, Sequence
import dataclasses

import optax

from jaxocr.compress import distil
from jaxocr.compress import rules as rules_lib
from jaxocr.train import objective
from jaxocr.train import optimiser


@dataclasses.dataclass(frozen=True)
class Stage:
  """One training."""

  name: str
  steps: int
  # Peak of the schedule.
  learning_rate: float
  # How the network sees its weights.
  rules: rules_lib.Rules = rules_lib.ALL_FLOAT
  # Share of the steps in which the features' signs harden; 0: they are hard.
  harden_signs: float = 0.0
  # Share of the steps in which the weights take their form; 0: they have it.
  harden_weights: float = 0.0
  # What the teacher adds; None: there is no teacher.
  distillation: distil.Distillation | None = None
  # Weight of CTC; 0 for the first of FSP's two stages.
  task: float = 1.0
  # Whether the teacher's part falls to zero over the stage, like the rate.
  fade_teacher: bool = False
  # The stage whose weights are the start; None: the one before, if any.
  after: str | None = None

  def objective(self) -> objective.Objective:
    """What is minimised."""
    if self.distillation is None:
      return objective.ctc_objective
    scale = None
    if self.fade_teacher:
      scale = optax.cosine_decay_schedule(1.0, self.steps)
    return objective.make_distilled(
      self.distillation, task=self.task, scale=scale
    )

  def schedule(self, warmup_steps: int) -> optax.Schedule:
    """The learning rate after so many updates of this stage."""
    return optimiser.make_schedule(
      learning_rate=self.learning_rate,
      warmup_steps=min(warmup_steps, self.steps // 10),
      steps=self.steps,
    )

  def hardness(self, share: float) -> optax.Schedule:
    """From 0 to 1 in that share of the steps, then 1."""
    rise = round(share * self.steps)
    if not rise:
      return optax.constant_schedule(1.0)
    return optax.linear_schedule(0.0, 1.0, rise)


def starts(stages: Sequence[Stage]) -> Mapping[str, str | None]:
  """Stage name -> the stage it starts from, None for a new network.

  Raises:
    ValueError: Two stages of a name, or a start that does not come before.
  """
  found: dict[str, str | None] = {}
  before = None
  for stage in stages:
    start = before if stage.after is None else stage.after
    if stage.name in found:
      raise ValueError(f"two stages are called {stage.name!r}; rename one")
    if start is not None and start not in found:
      raise ValueError(
        f"stage {stage.name!r} starts after {start!r}, which does not come "
        f"before it; earlier are {', '.join(found) or 'none'}"
      )
    found[stage.name] = start
    before = stage.name
  return found
