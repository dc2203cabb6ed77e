"""Convolutions against a plain loop, shuffle and depth-to-space against their definitions."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from qsnet_jax import layers


def reference_convolution(x, kernel, groups, rate, stride, padding):
    """Grouped convolution as its definition, one output channel and tap at a time, in float64."""
    size, _, depth, features = kernel.shape
    margin = rate * (size // 2)
    mode = 'reflect' if padding == 'reflect' else 'constant'
    padded = np.pad(x, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode=mode)
    height, width = x.shape[1:3]
    full = np.zeros((x.shape[0], height, width, features))
    for feature, i, j, d in itertools.product(range(features), range(size), range(size), range(depth)):
        channel = feature // (features // groups) * depth + d
        shifted = padded[:, rate * i : rate * i + height, rate * j : rate * j + width, channel]
        full[..., feature] += shifted * kernel[i, j, d, feature]
    return full[:, ::stride, ::stride]


CASES = [
    # size, groups, depth, features, rate, stride, padding
    (3, 1, 4, 6, 1, 1, 'zeros'),
    (9, 1, 3, 5, 1, 1, 'reflect'),
    (3, 1, 4, 6, 1, 2, 'reflect'),
    (3, 3, 4, 6, 1, 1, 'zeros'),
    (3, 3, 2, 6, 4, 1, 'zeros'),
    (3, 3, 2, 6, 6, 1, 'zeros'),
    (3, 3, 14, 6, 2, 1, 'zeros'),
    (3, 3, 14, 6, 1, 2, 'reflect'),
    (1, 3, 4, 6, 1, 1, 'zeros'),
    (1, 1, 4, 6, 1, 1, 'zeros'),
    (3, 6, 1, 6, 1, 1, 'zeros'),
    (3, 6, 1, 6, 2, 2, 'zeros'),
    (3, 6, 1, 6, 2, 1, 'reflect'),
    (1, 3, 2, 6, 1, 2, 'zeros'),
]


def random_case(case, dtype):
    size, groups, depth, features = case[:4]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 14, 18, groups * depth)).astype(dtype)
    return x, generator.normal(size=(size, size, depth, features)).astype(dtype)


@pytest.mark.parametrize('case', CASES)
def test_convolution_equals_its_definition(case):
    """Every form that `convolve` may choose computes the definition, to float32 rounding."""
    _, groups, _, _, rate, stride, padding = case
    x, kernel = random_case(case, np.float32)
    expected = reference_convolution(x.astype(np.float64), kernel.astype(np.float64), groups, rate, stride, padding)
    found = layers.convolve(
        jnp.asarray(x), jnp.asarray(kernel), groups=groups, rate=rate, stride=stride, padding=padding
    )
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('case', [case for case in CASES if case[-1] == 'zeros'])
def test_gradients_equal_those_of_the_plain_form(case):
    """Gradients for input and kernel are those of XLA's own grouped convolution."""
    size, groups, _, _, rate, stride, _ = case
    x, kernel = (jnp.asarray(value) for value in random_case(case, np.float32))
    margin = rate * (size // 2)

    def plain(x, kernel):
        y = lax.conv_general_dilated(
            x, kernel, (stride, stride), ((margin, margin),) * 2, rhs_dilation=(rate, rate),
            dimension_numbers=('NHWC', 'HWIO', 'NHWC'), feature_group_count=groups,
        )  # fmt: skip
        return jnp.sum(jnp.sin(y))

    def ours(x, kernel):
        return jnp.sum(jnp.sin(layers.convolve(x, kernel, groups=groups, rate=rate, stride=stride)))

    for found, expected in zip(jax.grad(ours, (0, 1))(x, kernel), jax.grad(plain, (0, 1))(x, kernel), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


def test_convolution_refuses_widths_that_do_not_divide():
    """Channels that do not fit the groups are an error that names them."""
    with pytest.raises(ValueError, match='7 input and 6 output channels'):
        layers.convolve(jnp.zeros((1, 4, 4, 7)), jnp.zeros((3, 3, 2, 6)), groups=3)


@pytest.mark.parametrize(('channels', 'groups'), [(12, 3), (33, 3), (345, 5), (6, 1)])
def test_shuffle_is_its_definition(channels, groups):
    """Channel g * n + j goes to j * groups + g, for every channel."""
    found = np.asarray(layers.channel_shuffle(jnp.arange(channels).reshape(1, 1, 1, channels), groups)).ravel()
    size = channels // groups
    for g, j in itertools.product(range(groups), range(size)):
        assert found[j * groups + g] == g * size + j


def test_shuffle_by_the_cofactor_undoes_it():
    """Shuffling by C / groups restores the order."""
    x = jnp.arange(24).reshape(1, 1, 2, 12)
    np.testing.assert_array_equal(layers.channel_shuffle(layers.channel_shuffle(x, 3), 4), x)


def test_shuffle_refuses_a_remainder():
    """Seven channels have no three equal groups."""
    with pytest.raises(ValueError, match='7 channels'):
        layers.channel_shuffle(jnp.zeros((1, 1, 1, 7)), 3)


@pytest.mark.parametrize('stride', [1, 2, 4])
def test_depth_to_space_undoes_space_to_depth(stride):
    """Both are permutations of the same pixels, inverse to each other."""
    x = jnp.arange(2 * 8 * 12 * 3).reshape(2, 8, 12, 3)
    packed = layers.space_to_depth(x, stride)
    assert packed.shape == (2, 8 // stride, 12 // stride, 3 * stride**2)
    np.testing.assert_array_equal(layers.depth_to_space(packed, stride), x)


def test_space_to_depth_keeps_neighbours_together():
    """A packed pixel holds the stride x stride block that it stands for, rows first."""
    x = jnp.arange(4 * 4).reshape(1, 4, 4, 1)
    np.testing.assert_array_equal(layers.space_to_depth(x, 2)[0, 1, 0], [8, 9, 12, 13])


@pytest.mark.parametrize('kind', ['batch', 'instance'])
def test_norm_standardises_what_it_says(kind):
    """Mean 0 and variance 1 per channel, over the batch or over each image."""
    x = jax.random.normal(jax.random.key(0), (3, 16, 16, 4)) * 5.0 + 2.0
    norm = layers.Norm(kind)
    y, _ = norm.apply(norm.init(jax.random.key(0), x, True), x, True, mutable=['batch_stats'])
    axes = (0, 1, 2) if kind == 'batch' else (1, 2)
    np.testing.assert_allclose(y.mean(axis=axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(axis=axes), 1.0, atol=1e-3)  # epsilon is added to the variance


def test_running_statistics_follow_the_stated_rule():
    """running = 0.9 running + 0.1 batch, from 0 and 1."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)) + 1.0
    norm = layers.Norm('batch')
    variables = norm.init(jax.random.key(0), x, True)
    _, updates = norm.apply(variables, x, True, mutable=['batch_stats'])
    np.testing.assert_allclose(updates['batch_stats']['batch']['mean'], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(updates['batch_stats']['batch']['var'], 0.9 + 0.1 * x.var(axis=(0, 1, 2)), rtol=1e-5)


def test_unknown_norm_is_refused():
    """A name that is none of the three is an error, not a default."""
    with pytest.raises(ValueError, match='group'):
        layers.Norm('group').init(jax.random.key(0), jnp.zeros((1, 2, 2, 3)), False)
