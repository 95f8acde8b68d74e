"""Staged training as data: each stage starts from the averages of the last.

float teacher -> binary activations -> binary weights -> int8 for the rest is a
tuple of `Stage`s. What a stage changes (the form of the weights, the features,
what is minimised) is stated in it and nowhere else.
"""

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
  # How latent one-bit kernels learn.
  latent: optimiser.LatentRule = optimiser.CLIPPED_ADAM
  # (regex, why): leaves that the stage before has not or that are not taken
  # from it; they are initialised.
  fresh: tuple[tuple[str, str], ...] = ()

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
