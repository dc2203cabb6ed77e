import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import priors

KERNELS = [(name, index) for name, kernels in priors.FILTERS.items() for index in range(len(kernels))]


def _images(*shape, seed=0):
    """Random float64 images in [0, 1]."""
    return np.random.default_rng(seed).random(shape)


def _plain_response(images, kernel):
    """Correlation of (B, H, W, C) on valid positions, one output pixel at a time."""
    batch, height, width, channels = images.shape
    rows, columns = kernel.shape
    response = np.zeros((batch, height - rows + 1, width - columns + 1, channels))
    for b, i, j, c in np.ndindex(*response.shape):
        response[b, i, j, c] = (images[b, i : i + rows, j : j + columns, c] * kernel).sum()
    return response


def test_derivative_filters_are_those_of_levin_and_weiss():
    """The default set is the first and the second derivative along either axis, and nothing else."""
    expected = [[[1, -1]], [[1], [-1]], [[-1, 2, -1]], [[-1], [2], [-1]]]
    assert [kernel.tolist() for kernel in priors.FILTERS['derivative']] == expected


@pytest.mark.parametrize('name', priors.FILTERS)
def test_filters_come_in_both_orientations(name):
    """With every filter a set holds its transpose, so no streak direction is preferred."""
    kernels = [kernel.tolist() for kernel in priors.FILTERS[name]]
    assert sorted(kernels) == sorted(kernel.T.tolist() for kernel in priors.FILTERS[name])


@pytest.mark.parametrize('name, index', KERNELS)
def test_filters_cannot_be_changed_by_accident(name, index):
    """Writing into the shared filters fails."""
    with pytest.raises(ValueError, match='read-only'):
        priors.FILTERS[name][index][0, 0] = 5


@pytest.mark.parametrize('name, index', KERNELS)
def test_response_equals_a_loop_over_pixels(name, index):
    """Shifted slices give the plain correlation on valid positions, exactly up to the order of at most six sums."""
    images, kernel = _images(2, 5, 6, 3), priors.FILTERS[name][index]
    np.testing.assert_allclose(priors.respond(images, kernel), _plain_response(images, kernel), rtol=0, atol=1e-14)


def test_response_to_an_asymmetric_kernel_is_not_flipped():
    """The tap in the upper left corner weighs the upper left pixel."""
    images, kernel = _images(1, 4, 5, 3), np.array([[1.0, 0.0, 0.0], [0.0, 0.0, 2.0]])
    np.testing.assert_array_equal(priors.respond(images, kernel), images[:, :-1, :-2] + 2 * images[:, 1:, 2:])


@pytest.mark.parametrize('name, index', KERNELS)
def test_flat_images_have_no_response(name, index):
    """A constant image has no response anywhere, so no edge is invented at the border."""
    response = priors.respond(np.full((1, 7, 8, 3), 0.25), priors.FILTERS[name][index])
    np.testing.assert_array_equal(response, 0)


@pytest.mark.parametrize('name, index, expected', [('derivative', 0, 1), ('derivative', 2, 0), ('sobel', 0, 8)])
def test_response_to_a_ramp(name, index, expected):
    """On a horizontal ramp of slope one the horizontal filters answer their known gains."""
    ramp = np.broadcast_to(np.arange(8.0)[None, None, :, None], (1, 7, 8, 3))
    np.testing.assert_array_equal(np.abs(priors.respond(ramp, priors.FILTERS[name][index])), expected)


@pytest.mark.parametrize('size', [(1, 1), (1, 9), (2, 2), (9, 1)])
@pytest.mark.parametrize('name, index', KERNELS)
def test_images_smaller_than_the_kernel_have_an_empty_response(name, index, size):
    """Where no position holds the whole kernel."""
    kernel = priors.FILTERS[name][index]
    response = priors.respond(_images(2, *size, 3), kernel)
    assert response.shape == (2, *(max(n - k + 1, 0) for n, k in zip(size, kernel.shape, strict=True)), 3)


def test_a_kernel_may_be_far_larger_than_the_image():
    """Five taps on three pixels have no position; negative ends of slices would count from the back."""
    assert priors.respond(_images(1, 3, 5, 3), np.ones((5, 1))).shape == (1, 0, 5, 3)


def test_empty_responses_have_no_gradient():
    """The gradient of a sum over no positions is zero, not NaN."""
    images = jnp.asarray(_images(2, 2, 2, 3), jnp.float32)
    for kernel in priors.FILTERS['sobel']:
        gradient = jax.grad(lambda x, kernel=kernel: jnp.sum(jnp.abs(priors.respond(x, kernel))))(images)
        np.testing.assert_array_equal(gradient, 0)


@pytest.mark.parametrize('dtype', [jnp.bfloat16, jnp.float32])
def test_response_keeps_the_dtype(dtype):
    """Filters are float64, yet the response is of the images' type."""
    images = jnp.ones((1, 4, 4, 3), dtype)
    assert {priors.respond(images, kernel).dtype for kernel in priors.FILTERS['sobel']} == {jnp.dtype(dtype)}


def test_numpy_and_jax_agree():
    """Statistics in NumPy and losses in JAX see the same responses."""
    images = _images(2, 9, 8, 3).astype(np.float32)
    for kernel in priors.FILTERS['derivative']:
        np.testing.assert_array_equal(priors.respond(images, kernel), priors.respond(jnp.asarray(images), kernel))


@pytest.mark.parametrize('weight, expected', [(0.5, 1.0), (0.4, 0.8), (1.0, 2.0)])
@pytest.mark.parametrize('scale', [0.01, 1.0])
def test_quasi_sparse_density_needs_a_weight_of_one_half(weight, expected, scale):
    """Eq. (2) integrates to 2 pi, so it is a density for pi = 1/2 only."""
    x = np.linspace(-40 * scale, 40 * scale, 160_001)
    integral = np.trapezoid(priors.quasi_sparse_density(x, scale, weight), x)
    assert integral == pytest.approx(expected, rel=1e-6)  # the trapezoidal rule at h = s / 2000
