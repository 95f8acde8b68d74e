import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxocr.data import real
from jaxocr.text import ctc
from jaxocr.train import evaluate
from jaxocr.train import report_lines
from jaxocr.train import sharding
from tests.train import tiny


def result(truth, read, source="rendered"):
  image = np.zeros((2, 3), np.uint8)
  return report_lines.LineResult(
    image, truth, ctc.Reading(read, 1.0, ()), source
  )


@pytest.fixture(scope="module", name="run")
def fixture_run():
  mesh = sharding.make_mesh(jax.devices()[:4])
  state, _, evaluator = tiny.make_run(mesh)
  return state, evaluator


def test_scores_by_hand():
  scores = evaluate.score([result("ab", "ab"), result("abcd", "abxd")])
  assert scores["line_accuracy"] == 0.5
  assert scores["cer"] == pytest.approx(1 / 6)
  assert scores["ned"] == pytest.approx((1 + 3 / 4) / 2)
  assert math.isnan(evaluate.score([])["line_accuracy"])


def test_samples_show_what_was_misread():
  lines = [result("a b", "a b"), result("c", "d"), result("e", "e")]
  assert evaluate.samples(lines, 2) == "  'a b' read\n  'c' read as 'd'"


def test_every_rendered_line_counts_once(run):
  state, evaluator = run
  lines = evaluator.rendered(state, 20)  # A batch of 16, and four of the next.
  assert len(lines) == 20
  assert {line.source for line in lines} == {"rendered"}
  assert lines[0].image.shape == (tiny.HEIGHT, tiny.WIDTH)
  assert lines[0].image.dtype == np.uint8


def test_fewer_lines_are_a_part_of_more(run):
  state, evaluator = run
  few, more = evaluator.rendered(state, 5), evaluator.rendered(state, 20)
  assert [a.truth for a in few] == [a.truth for a in more[:5]]
  assert all(
    (a.image == b.image).all() for a, b in zip(few, more, strict=False)
  )


def test_training_lines_are_others(run):
  state, evaluator = run
  lines = evaluator.rendered(state, 16)
  seen = set()
  for seed in range(3):
    for step in range(5):
      keys = sharding.line_keys(jax.random.key(seed), jnp.array(step), 16)
      images = tiny.sample(jnp.asarray(tiny.LEVELS), keys).image
      seen |= {np.round(np.clip(i, 0, 1) * 255).tobytes() for i in images}
  assert not seen & {
    line.image[..., None].astype(np.float32).tobytes() for line in lines
  }


def test_averages_are_what_is_evaluated(run):
  state, evaluator = run
  before = [line.reading for line in evaluator.rendered(state, 16)]
  moved = state.replace(params=jax.tree.map(lambda p: p * 0 + 9, state.params))
  assert [line.reading for line in evaluator.rendered(moved, 16)] == before
  moved = state.replace(ema_params=jax.tree.map(lambda p: -p, state.ema_params))
  assert [line.reading for line in evaluator.rendered(moved, 16)] != before


def test_rendered_lines_are_drawn_once_for_all_evaluators():
  mesh, drawn = sharding.make_mesh(jax.devices()[:2]), []
  levels = sharding.place(tiny.LEVELS, sharding.replicated(mesh))
  rendered = evaluate.RenderedLines(tiny.sample, levels, mesh, batch_size=4)
  keys = rendered._keys
  rendered._keys = lambda first: drawn.append(first) or keys(first)
  assert [len(b.label) for b in rendered.batches(5)] == [4, 4]
  assert [int(first) for first in drawn] == [0, 4]
  few, more = rendered.batches(3), rendered.batches(9)
  assert len(drawn) == 3 and len(few) == 1 and len(more) == 3
  assert few[0] is more[0]
  assert isinstance(more[0].image, np.ndarray)
  assert len({x.image.tobytes() for x in more}) == 3
  # The same whatever the batches.
  whole = evaluate.RenderedLines(tiny.sample, levels, mesh, batch_size=8)
  np.testing.assert_array_equal(
    whole.batches(8)[0].image, np.concatenate([b.image for b in more[:2]])
  )


def test_batches_must_divide_by_the_devices():
  mesh = sharding.make_mesh(jax.devices()[:4])
  with pytest.raises(ValueError, match=r"batch_size=6 .* 4 devices"):
    evaluate.RenderedLines(tiny.sample, tiny.LEVELS, mesh, batch_size=6)


def test_what_is_judged_is_what_is_shipped(run):
  state, evaluator = run
  given = []

  def deploy(params, collections):
    given.append((params, collections))
    turned = jax.tree.map(jnp.negative, params)
    return {"params": turned, **collections}

  mesh = sharding.make_mesh(jax.devices()[:4])
  shipped = evaluate.Evaluator(
    tiny.TinyModel(),
    tiny.ALPHABET,
    evaluator._rendered,
    mesh,
    deploy=deploy,
  )
  turned = state.replace(
    ema_params=jax.tree.map(lambda p: -p, state.ema_params)
  )
  expected = [line.reading for line in evaluator.rendered(turned, 16)]
  found = [line.reading for line in shipped.rendered(state, 16)]
  assert found == expected
  assert given == [(state.ema_params, state.ema_collections)]


def real_lines(widths):
  rng = np.random.default_rng(0)
  items = tuple(
    real.RealLine(
      path=f"{i}.png",
      label="abc"[i % 3],
      ids=np.array([i % 3 + 1], np.int32),
      pixels=rng.integers(0, 256, (tiny.HEIGHT, width), np.uint8),
    )
    for i, width in enumerate(widths)
  )
  other = dataclasses.replace(items[0], refused=real.OUTSIDE)
  dropped = {real.OUTSIDE: 1, "unreadable": 2}
  return real.RealLines(
    "t.tsv", items, len(items) + 3, dropped, {}, (*items, other)
  )


def test_real_lines_come_back_in_order(run):
  state, evaluator = run
  lines = real_lines([90, 20, 70, 33, 64] * 4)
  results = evaluator.real(state, lines)
  assert [r.truth for r in results] == [item.label for item in lines.items]
  for line, item in zip(results, lines.items, strict=True):
    assert line.source == "real"
    np.testing.assert_array_equal(line.image, item.pixels)
    assert all(c.x1 <= item.pixels.shape[1] for c in line.reading.characters)


def test_figures_of_real_lines():
  files = [real_lines([20, 30]), real_lines([40])]
  results = [result("a", "a", "real"), result("b", "a", "real")]
  figures = evaluate.real_figures(results, files)
  assert figures["n"] == 2
  assert figures["read"] == 5 + 4
  assert figures["dropped"] == {real.OUTSIDE: 2, "unreadable": 4}
  assert figures["line_accuracy"] == 0.5
  # Two lines more could be read, but not as they are labelled.
  assert figures["n_all"] == 5 and figures["line_accuracy_all"] == 1 / 5
  assert {"cer", "ned", "str36"} <= figures.keys()
