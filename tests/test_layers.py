"""Norms and depth-to-space against their definitions."""

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import blocks, layers


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
    norm = layers.Norm(kind, 4)
    variables = norm.init(jax.random.key(0), blocks.of(x))
    y = norm.apply(variables, blocks.of(x), mutable=['batch_stats'])[0].array()
    axes = (0, 1, 2) if kind == 'batch' else (1, 2)
    np.testing.assert_allclose(y.mean(axis=axes), 0.0, atol=1e-5)
    np.testing.assert_allclose(y.var(axis=axes), 1.0, atol=1e-3)  # epsilon is added to the variance


def test_moments_of_half_precision_are_taken_in_single():
    """Means of squares of 8 +- .1 would lose the variance in bfloat16."""
    x = jnp.asarray(8 + 0.1 * np.random.default_rng(0).standard_normal((4, 32, 32, 2)), jnp.bfloat16)
    found = [np.asarray(each.array()).ravel() for each in layers._moments(blocks.of(x), (0, 1, 2))]
    exact = np.asarray(x, np.float64)
    np.testing.assert_allclose(found[0], exact.mean((0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(found[1], exact.var((0, 1, 2)), rtol=1e-2)


def test_running_statistics_follow_the_stated_rule():
    """running = 0.9 running + 0.1 batch, from 0 and 1."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3)) + 1.0
    norm = layers.Norm('batch', 3)
    variables = norm.init(jax.random.key(0), blocks.of(x))
    _, updates = norm.apply(variables, blocks.of(x), mutable=['batch_stats'])
    np.testing.assert_allclose(updates['batch_stats']['batch']['mean'], 0.1 * x.mean(axis=(0, 1, 2)), rtol=1e-5)
    np.testing.assert_allclose(updates['batch_stats']['batch']['var'], 0.9 + 0.1 * x.var(axis=(0, 1, 2)), rtol=1e-5)


def test_unknown_norm_is_refused():
    """A name that is none of the three is an error, not a default."""
    with pytest.raises(ValueError, match='group'):
        layers.Norm('group', 3).init(jax.random.key(0), blocks.of(jnp.zeros((1, 2, 2, 3))))


def test_units_add_what_lies_in_another_order():
    """A map whose channels are stored shuffled gives the same residual sum as one in natural order."""
    unit, x = layers.ShuffleUnit(3), jax.random.normal(jax.random.key(0), (1, 4, 4, 12))
    shuffled = blocks.channel_shuffle(blocks.of(x, 'split'), 3)
    variables = unit.init(jax.random.key(1), shuffled, False)
    natural = unit.apply(variables, blocks.of(shuffled.array(), 'split'), False)
    np.testing.assert_allclose(unit.apply(variables, shuffled, False).array(), natural.array(), atol=1e-6)


def test_parameters_that_are_given_are_not_begun_anew(monkeypatch):
    """Nothing is traced for their beginnings, and those of another shape are refused as Flax refuses them."""
    convolve, x = layers.Conv(6, size=1), blocks.of(jnp.zeros((1, 2, 2, 3)))
    variables = convolve.init(jax.random.key(0), x)

    def refuse(*_):
        raise AssertionError('traced')

    monkeypatch.setattr(layers, 'xavier_uniform', refuse)
    convolve.apply(variables, x)
    monkeypatch.undo()
    wrong = jax.tree.map(lambda value: value[..., :4], variables)
    with pytest.raises(flax.errors.ScopeParamShapeError):
        convolve.apply(wrong, x)
