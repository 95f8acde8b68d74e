"""One-bit values with surrogate gradients.

Every function is exact in the forward pass and keeps the dtype of its input.
sign(0) is +1 throughout: a bit has no zero. Gradients are `jax.custom_vjp`
rules rather than `x + stop_gradient(q - x)`, which is not exact in float32 for
scaled weights.
"""

import jax
import jax.numpy as jnp


def hard_sign(x: jax.Array) -> jax.Array:
  """Returns +1 where x >= 0, else -1; same shape and dtype, no gradient."""
  return jnp.where(x >= 0, 1, -1).astype(x.dtype)


@jax.custom_vjp
def sign_ste(x: jax.Array) -> jax.Array:
  """Sign with the clipped straight-through gradient.

  dy/dx = 1 where abs(x) <= 1, else 0 (Hubara et al. 2016, eq. 4; the bound is
  inclusive).

  Args:
    x: Any float array.

  Returns:
    +1 or -1, shape and dtype of `x`.
  """
  return hard_sign(x)


def _sign_ste_forward(x):
  return hard_sign(x), x


def _sign_ste_backward(x, cotangent):
  return (jnp.where(jnp.abs(x) <= 1, cotangent, jnp.zeros_like(cotangent)),)


sign_ste.defvjp(_sign_ste_forward, _sign_ste_backward)


@jax.custom_vjp
def approx_sign(x: jax.Array, hardness: jax.Array | float = 1.0) -> jax.Array:
  """Sign with the gradient of a piecewise quadratic (ApproxSign).

  dy/dx = 2 - 2 abs(x) where abs(x) <= 1, else 0 (Liu et al. 2018, Bi-Real Net,
  eq. 7). The quadratic itself, F(x) = x (2 - abs(x)) within [-1, 1], is what
  the forward pass gives at hardness 0; between, it is mixed with the sign. A
  network that starts soft learns to align its frames before it loses its
  precision; the gradient is the same throughout.

  Args:
    x: Any float array.
    hardness: Scalar in [0, 1], or left out for the sign itself.

  Returns:
    Shape and dtype of `x`, within [-1, 1]; +1 or -1 at hardness 1.
  """
  return _approx_sign_forward(x, hardness)[0]


def _approx_sign_forward(x, hardness=1.0):
  hardness = jnp.asarray(hardness, x.dtype)
  inside = jnp.clip(x, -1, 1)
  soft = inside * (2 - jnp.abs(inside))
  # Written so that hardness 1 leaves exactly the sign.
  return hardness * hard_sign(x) + (1 - hardness) * soft, x


def _approx_sign_backward(x, cotangent):
  slope = jnp.maximum(2 - 2 * jnp.abs(x), 0).astype(x.dtype)
  return slope * cotangent, None


approx_sign.defvjp(_approx_sign_forward, _approx_sign_backward)


@jax.custom_vjp
def binarise_kernel(
  kernel: jax.Array, hardness: jax.Array | float = 1.0
) -> jax.Array:
  """Scaled sign of a kernel: alpha * sign(w), alpha per output channel.

  alpha = mean abs(w) over all axes but the last (Rastegari et al. 2016,
  XNOR-Net, eq. 6). The gradient is straight-through with alpha held constant,
  as the layer that follows normalises its scale: dL/dw = dL/dy where
  abs(w) <= 1, else 0.

  Args:
    kernel: Latent weights [..., C_out].
    hardness: Scalar in [0, 1]: how far from `kernel` itself (0) to its
      binarised form (1).

  Returns:
    Array of the same shape and dtype; two values per output channel at
    hardness 1.
  """
  return _binarise_kernel_forward(kernel, hardness)[0]


def kernel_scale(kernel: jax.Array) -> jax.Array:
  """Returns alpha of `binarise_kernel`, shape [C_out], dtype of `kernel`."""
  axes = tuple(range(kernel.ndim - 1))
  wide = kernel.astype(jnp.float32)
  return jnp.mean(jnp.abs(wide), axis=axes).astype(kernel.dtype)


def _binarise_kernel_forward(kernel, hardness=1.0):
  hardness = jnp.asarray(hardness, kernel.dtype)
  scale = kernel_scale(kernel)
  scale = scale.reshape((1,) * (kernel.ndim - 1) + scale.shape)
  binary = jnp.where(kernel >= 0, scale, -scale)
  return hardness * binary + (1 - hardness) * kernel, kernel


def _binarise_kernel_backward(kernel, cotangent):
  passed = jnp.where(jnp.abs(kernel) <= 1, cotangent, jnp.zeros_like(cotangent))
  return passed, None


binarise_kernel.defvjp(_binarise_kernel_forward, _binarise_kernel_backward)
