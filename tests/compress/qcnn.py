"""AlexNet as Wu et al. 2016 quantise it: shapes and settings."""

from jaxocr.compress import specs

# Kernel with the channels of a group, groups, places of inputs and of outputs.
ALEXNET = {
  "conv1": ((11, 11, 3, 96), 1, 227 * 227, 55 * 55),
  "conv2": ((5, 5, 48, 256), 2, 27 * 27, 27 * 27),
  "conv3": ((3, 3, 256, 384), 1, 13 * 13, 13 * 13),
  "conv4": ((3, 3, 192, 384), 2, 13 * 13, 13 * 13),
  "conv5": ((3, 3, 192, 256), 2, 13 * 13, 13 * 13),
  "fc6": ((9216, 4096), 1, 1, 1),
  "fc7": ((4096, 4096), 1, 1, 1),
  "fc8": ((4096, 1000), 1, 1, 1),
}


def rules(d):
  """d=3 or 4 for fc6 and fc7 are the two settings of table 5."""
  return (
    ("conv./kernel", specs.Codebook(8, 128, "float32")),
    ("fc[67]/kernel", specs.Codebook(d, 32, "float32")),
    ("fc8/kernel", specs.Codebook(1, 16, "float32")),
  )
