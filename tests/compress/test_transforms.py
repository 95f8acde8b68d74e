"""optax transforms for latent weights."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxocr.compress import transforms


def test_clip_keeps_the_updated_weight_inside():
  tx = transforms.clip_latent(1.0)
  params = {"w": jnp.array([0.9, -0.9, 0.0, 1.0])}
  updates = {"w": jnp.array([0.5, -0.5, 0.25, -0.5])}
  updates, _ = tx.update(updates, tx.init(params), params)
  new = optax.apply_updates(params, updates)
  np.testing.assert_allclose(new["w"], [1.0, -1.0, 0.25, 0.5], atol=1e-7)


def test_clip_needs_params_and_a_positive_limit():
  tx = transforms.clip_latent(1.0)
  with pytest.raises(ValueError, match="needs params"):
    tx.update({"w": jnp.ones(1)}, tx.init({"w": jnp.ones(1)}))
  with pytest.raises(ValueError, match="limit=0"):
    transforms.clip_latent(0)
