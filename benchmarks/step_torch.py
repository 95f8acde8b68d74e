"""Contestant: the same network and training step in PyTorch.

  step_torch.py BATCH WIDTH THREADS contiguous|channels_last

Mirrors `jaxocr.models.crnn.CRNN(backbone="mobilenet")` layer by layer, with
PyTorch's own best operators: oneDNN convolutions and LSTM, fused AdamW.
"""

import sys

import torch
from torch import nn
import torch.nn.functional as F
import turns

CLASSES = 23  # `numeric` and the blank.
# (row stride, column stride, channels), as in MobileNetBackbone.
PLAN = (
  (2, 2, 64),
  (1, 1, 64),
  (2, 1, 128),
  (1, 1, 128),
  (2, 1, 128),
  (1, 1, 128),
)
STEM, PROJECTION, HIDDEN, HEIGHT = 24, 96, 96, 32
EMA_DECAY, CLIP_NORM, LEARNING_RATE = 0.99, 5.0, 4e-3


def _norm_relu(channels: int) -> list[nn.Module]:
  norm = nn.BatchNorm2d(channels, momentum=0.05)
  return [norm, nn.ReLU(inplace=True)]


def _separable(inputs: int, channels: int, strides) -> list[nn.Module]:
  return [
    nn.Conv2d(inputs, inputs, 3, strides, 1, groups=inputs, bias=False),
    *_norm_relu(inputs),
    nn.Conv2d(inputs, channels, 1, bias=False),
    *_norm_relu(channels),
  ]


class Network(nn.Module):
  """CRNN: images [B, 1, H, W] to logits [T, B, K]."""

  def __init__(self):
    super().__init__()
    layers = [nn.Conv2d(1, STEM, 3, 2, 1, bias=False), *_norm_relu(STEM)]
    inputs = STEM
    for rows, columns, channels in PLAN:
      layers += _separable(inputs, channels, (rows, columns))
      inputs = channels
    self.backbone = nn.Sequential(*layers)
    self.collapse = nn.Linear(inputs * HEIGHT // 16, PROJECTION, bias=False)
    self.collapse_norm = nn.BatchNorm1d(PROJECTION, momentum=0.05)
    self.bilstm = nn.LSTM(PROJECTION, HIDDEN, bidirectional=True)
    self.head = nn.Linear(2 * HIDDEN, CLASSES)
    # PyTorch has two biases where one does; the second stays 0.
    for name, parameter in self.bilstm.named_parameters():
      if name.startswith("bias_hh"):
        nn.init.zeros_(parameter).requires_grad_(False)

  def forward(self, image):
    features = self.backbone(image * 2 - 1)
    columns = self.collapse(features.permute(3, 0, 2, 1).flatten(2))
    normed = self.collapse_norm(columns.flatten(0, 1))  # [T * B, C]
    context, _ = self.bilstm(normed.view_as(columns))
    return self.head(context)


def main(batch_size: int, width: int, threads: int, layout: str) -> None:
  torch.manual_seed(0)
  torch.set_num_threads(threads)
  network = Network()
  image = torch.rand(batch_size, 1, HEIGHT, width)
  if layout == "channels_last":
    network = network.to(memory_format=torch.channels_last)
    image = image.to(memory_format=torch.channels_last)
  lengths = torch.randint(1, 13, (batch_size,))
  labels = torch.randint(1, CLASSES, (batch_size, 16))
  frames = torch.full((batch_size,), width // 4)
  learnt = [p for p in network.parameters() if p.requires_grad]
  averages = [p.detach().clone() for p in learnt]
  optimiser = torch.optim.AdamW(learnt, LEARNING_RATE, fused=True)

  def step():
    optimiser.zero_grad(set_to_none=True)
    scores = network(image).log_softmax(-1)
    loss = F.ctc_loss(scores, labels, frames, lengths, reduction="sum")
    (loss / batch_size).backward()
    nn.utils.clip_grad_norm_(learnt, CLIP_NORM)
    optimiser.step()
    torch._foreach_lerp_(averages, learnt, 1 - EMA_DECAY)

  turns.serve(
    step,
    batch_size,
    parameters=sum(p.numel() for p in learnt),
    torch=torch.__version__,
  )


if __name__ == "__main__":
  main(int(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
