"""The kernel of a card computes the units, interpreted here, and is lowered for cards without one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import blocks, fused, layers, model

SETTINGS = {'channels': 24, 'units': 2, 'scale_channels': 12, 'rates': (1,)}


def prepared(**settings):
    """A network and its prepared weights, whose norms do something."""
    network = model.QSNet(**{**SETTINGS, 'form': 'dense', **settings})
    variables = model.initialize(network, seed=0)
    generator = np.random.default_rng(0)
    variables['params'] = jax.tree.map(
        lambda value: (value + generator.normal(0, 0.1, value.shape)).astype(np.float32), variables['params']
    )
    return network, model.prepare(network, variables)


@pytest.mark.parametrize(
    ('channels', 'groups', 'size'),
    [
        (24, 3, (5, 64)),
        pytest.param(132, 3, (3, 70), marks=pytest.mark.slow),
        pytest.param(24, 3, (1, 1), marks=pytest.mark.slow),
        pytest.param(64, 1, (2, 30), marks=pytest.mark.slow),
    ],
)
def test_the_kernel_is_the_units(channels, groups, size):
    """To float32 rounding, for rows shorter and longer than a block and widths that are no power of two."""
    network, weights = prepared(channels=channels, groups=groups, decoder_groups=1)
    units = [weights['prepared'][f'unit_{number}'] for number in (1, 2)]
    width = units[0]['expand']['conv']['addends'][0].shape[-1]
    x = jax.random.normal(jax.random.key(1), (2, *size, width)).at[..., channels:].set(0)
    expected = blocks.Blocks((x,), ((*range(channels), *[blocks.PAD] * (width - channels)),), 'dense')
    for unit in units:
        expected = layers.ShuffleUnit(groups).apply({'prepared': unit}, expected, False)
    found = fused.units(x, units)
    assert not jnp.allclose(found, x, atol=0.1)
    np.testing.assert_allclose(found, expected.parts[0], atol=1e-5)


@pytest.mark.slow
@pytest.mark.usefixtures('lenient_promotion')
@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_the_network_takes_it_where_weights_are_prepared(dtype, monkeypatch):
    """Outputs are those of the dense form; without prepared weights, and in training, the form is that one."""
    calls, units = [], fused.units
    monkeypatch.setattr(fused, 'units', lambda *given: calls.append(1) or units(*given))
    network, weights = prepared(dtype=dtype)
    images = jax.random.uniform(jax.random.key(0), (1, 9, 70, 3))
    expected = jax.jit(network.apply)(weights, images)
    found = jax.jit(network.clone(form='fused').apply)(weights, images)
    assert calls == [1]
    scale = float(jnp.abs(expected.rain).max())
    atol = scale * (1e-5 if dtype == 'float32' else 0.05)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=atol), found, expected)
    variables = model.initialize(network, 0)
    for train in (False, True):
        apply = functools.partial(network.clone(form='fused').apply, train=train, mutable=['batch_stats'])
        jax.eval_shape(apply, variables, images)
    assert calls == [1]


@pytest.mark.parametrize(('channels', 'groups'), [(384, 3), (256, 2)])
def test_wide_groups_stay_in_the_dense_form(channels, groups, monkeypatch):
    """Their kernels are several, which one launch does not take."""
    monkeypatch.setattr(fused, 'units', lambda *_: pytest.fail('launched'))
    network = model.QSNet(**{**SETTINGS, 'channels': channels, 'groups': groups, 'form': 'fused'})
    weights = jax.eval_shape(functools.partial(model.prepare, network), model.initialize(network, seed=0))
    assert len(weights['prepared']['unit_1']['reduce']['conv']['kernels']) == groups
    images = jnp.zeros((1, 8, 8, 3))
    assert jax.eval_shape(network.apply, weights, images).rain.shape == images.shape


@pytest.mark.usefixtures('lenient_promotion')
def test_it_is_lowered_for_cards():
    """One call of Triton a unit, on a machine without CUDA."""
    network, weights = prepared(form='fused', dtype='bfloat16')
    lowered = jax.jit(network.apply).trace(weights, jnp.zeros((1, 8, 64, 3))).lower(lowering_platforms=('cuda',))
    assert lowered.as_text().count('xla.gpu.triton') == 2
