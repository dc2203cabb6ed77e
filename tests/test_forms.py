"""Every form of the network computes the same as the plain one, with units computed anew and with prepared weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import blocks, model

TINY = {'channels': 12, 'units': 1, 'scale_channels': 6}


def random_images(height, width, batch=1):
    return jax.random.uniform(jax.random.key(1), (batch, height, width, 3), 'float64')


@pytest.fixture(autouse=True)
def doubles(lenient_promotion, compiled_quickly):
    """In float64, where rounding turns no ReLU over: in float32 that changes gradients by up to a hundredth."""
    with jax.enable_x64(True):
        yield


def compute(variables, images, targets, train, **settings):
    """Gradients, output and running statistics."""
    network = model.QSNet(**{**TINY, 'dtype': 'float64', **settings})

    def loss(params):
        output, updates = network.apply({**variables, 'params': params}, images, train, mutable=['batch_stats'])
        errors = [jnp.mean(jnp.square(rain - targets)) for rain in (output.rain, *output.aux_rain)]
        return sum(errors), (output, updates)

    return jax.jit(jax.grad(loss, has_aux=True))(variables['params'])


def assert_close(found, expected):
    """To rounding."""
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-10), found[1], expected[1])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9 * largest), found[0], expected[0])


FORM_CASES = [
    {'rates': (1, 3)},
    {'norm': 'instance', 'share_groups': False, 'share_scales': 'none', 'rates': (1, 3)},
    {'norm': 'none', 'rates': (2, 3)},
    {'channels': 60, 'scale_channels': 54, 'units': 2},  # groups wide enough to be kept apart
    {'channels': 60, 'scale_channels': 54, 'units': 2, 'share_groups': False, 'rates': (1, 3)},
    {'channels': 60, 'scale_channels': 54, 'encoder_stride': 2, 'share_scales': 'none'},
    {'channels': 60, 'scale_channels': 54, 'share_scales': 'all'},
    {'channels': 60, 'scale_channels': 54, 'encoder_stride': 2, 'decoder_groups': 1, 'rates': (1, 3)},
    {'channels': 24, 'scale_channels': 18, 'encoder_stride': 4, 'rates': (1, 3)},
    {'channels': 108, 'scale_channels': 48, 'rates': (2,)},  # wide enough for that in the dense form too
    {'channels': 108, 'scale_channels': 48, 'rates': (2,), 'share_scales': 'none', 'decoder_groups': 1},
    {'channels': 16, 'scale_channels': 12, 'groups': 2, 'rates': (1,)},
]


@pytest.mark.parametrize(
    ('settings', 'train'),
    [
        pytest.param(settings, train, marks=() if train and number == 0 else pytest.mark.slow)
        for number, settings in enumerate(FORM_CASES)
        for train in (False, True)
    ],
)
def test_every_form_computes_the_same(settings, train):
    """Outputs, running statistics and gradients of the fast forms are those of the plain one."""
    stride = settings.get('encoder_stride', 1)
    images, targets = (random_images(9 * stride, 11 * stride, batch=2) for _ in range(2))
    variables = model.initialize(model.QSNet(**{**TINY, 'dtype': 'float64', **settings}), seed=3)

    expected = compute(variables, images, targets, train, **settings, form='plain')
    for form in ('split', 'dense'):
        assert_close(compute(variables, images, targets, train, **settings, form=form), expected)


@pytest.mark.parametrize(
    'settings', [{'form': 'dense'}, pytest.param({'form': 'split', 'units': 3}, marks=pytest.mark.slow)]
)
def test_units_computed_anew_give_the_same(settings):
    """`remat` changes neither variables nor outputs, statistics and gradients."""
    images, targets = random_images(9, 11, batch=2), random_images(9, 11, batch=2)
    network = model.QSNet(**{**TINY, 'dtype': 'float64', **settings})
    variables = model.initialize(network, seed=3)
    assert jax.tree.all(jax.tree.map(np.array_equal, variables, model.initialize(network.clone(remat=True), seed=3)))
    expected, found = (compute(variables, images, targets, True, **settings, remat=remat) for remat in (False, True))
    assert_close(found, expected)


@pytest.mark.parametrize(
    'settings',
    [
        {'form': 'dense'},
        {'norm': 'instance'},
        pytest.param({'form': 'dense', 'channels': 108, 'scale_channels': 48}, marks=pytest.mark.slow),
        pytest.param({'form': 'dense', 'norm': 'none', 'encoder_stride': 2}, marks=pytest.mark.slow),
        pytest.param({'form': 'dense', 'norm': 'instance', 'encoder_stride': 4}, marks=pytest.mark.slow),
        pytest.param({'form': 'dense', 'decoder_groups': 1, 'share_scales': 'none'}, marks=pytest.mark.slow),
        pytest.param({'form': 'split', 'share_scales': 'all'}, marks=pytest.mark.slow),
        pytest.param({'form': 'plain'}, marks=pytest.mark.slow),
    ],
)
def test_prepared_weights_compute_the_same(settings):
    """Kernels that were folded and laid out beforehand give the network's output, bit for bit, on any size."""
    network = model.QSNet(**{**TINY, 'rates': (2,), 'dtype': 'float64', **settings})
    variables = model.initialize(network, seed=3)
    variables['batch_stats'] = jax.tree.map(lambda value: value + 0.3, variables.get('batch_stats', {}))
    prepared = model.prepare(network, variables)
    assert 'batch_stats' not in prepared
    apply = jax.jit(network.apply)
    images = random_images(20, 12, batch=2)
    jax.tree.map(np.testing.assert_array_equal, apply(prepared, images), apply(variables, images))


@pytest.mark.parametrize('form', ['plain', 'split', 'dense'])
def test_where_a_sum_is_zero_no_form_has_a_gradient(form):
    """As relu's: pixels that no unit has touched are zero to the bit, and many."""
    x = jnp.zeros((1, 2, 2, 6))
    total = jax.grad(lambda x: blocks.add_and_rectify(blocks.of(x, form), blocks.of(x, form)).array().sum())(x)
    assert not total.any()
