"""Batches of digits: each image once an epoch, the same for any process."""

import numpy as np

from jaxocr.data import digit_batches
from jaxocr.data import idx


def numbered(count):
  """Images whose pixels are their number."""
  images = np.tile(np.arange(count, dtype=np.uint8)[:, None, None], (1, 2, 2))
  return idx.Digits(images, np.arange(count, dtype=np.uint8))


def epoch(batch, steps):
  return np.concatenate([batch(step)[1] for step in range(steps)])


def test_an_epoch_is_every_image_once_and_the_next_another_order():
  batch = digit_batches.training_batches(numbered(12), batch_size=4, seed=3)
  first = epoch(batch, 3)
  both = epoch(batch, 6)
  assert sorted(first) == sorted(both[12:]) == list(range(12))
  np.testing.assert_array_equal(both[:12], first)
  assert both[12:].tolist() != first.tolist() != list(range(12))


def test_images_go_with_their_labels_and_batches_cross_epochs():
  batch = digit_batches.training_batches(numbered(10), batch_size=4, seed=0)
  images, labels = batch(2)  # The end of the first epoch, then the second.
  assert images.shape == (4, 2, 2) and labels.dtype == np.int32
  np.testing.assert_array_equal(images[:, 0, 0], labels)
  assert sorted(epoch(batch, 5)) == sorted([*range(10)] * 2)


def test_any_step_can_be_asked_for_first():
  make = lambda: digit_batches.training_batches(  # noqa: E731
    numbered(10), batch_size=4, seed=1
  )
  straight = [make()(step)[1].tolist() for step in range(8)]
  late = make()
  assert late(7)[1].tolist() == straight[7]
  other = digit_batches.training_batches(numbered(10), batch_size=4, seed=2)
  assert other(0)[1].tolist() != straight[0]


def test_processes_share_the_batch_of_one():
  whole = digit_batches.training_batches(numbered(24), batch_size=6, seed=5)
  shares = [
    digit_batches.training_batches(
      numbered(24), batch_size=6, seed=5, process=p, processes=2
    )
    for p in (0, 1)
  ]
  for step in (0, 3, 5):
    parts = [share(step)[1] for share in shares]
    assert [len(part) for part in parts] == [3, 3]
    assert sorted(np.concatenate(parts)) == sorted(whole(step)[1])


def test_evaluation_fills_up_and_masks():
  batches = list(digit_batches.evaluation_batches(numbered(5), batch_size=3))
  assert [b[0].shape for b in batches] == [(3, 2, 2)] * 2
  assert [b[2].tolist() for b in batches] == [[1, 1, 1], [1, 1, 0]]
  kept = np.concatenate([labels[mask] for _, labels, mask in batches])
  assert kept.tolist() == [0, 1, 2, 3, 4]
