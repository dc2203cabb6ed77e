"""Every form of a convolution against a plain loop, shuffle against its definition."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import blocks


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
    (3, 3, 33, 6, 2, 1, 'zeros'),
]


def random_case(case, dtype):
    size, groups, depth, features = case[:4]
    generator = np.random.default_rng(0)
    x = generator.normal(size=(2, 14, 18, groups * depth)).astype(dtype)
    return x, generator.normal(size=(size, size, depth, features)).astype(dtype)


FORMS = ('plain', 'split', 'dense')


def scattered(x, generator, form='split'):
    """The feature map in two parts, its channels in random order with zeros between, as shuffles leave it."""
    order = generator.permutation([*range(x.shape[-1]), blocks.PAD, blocks.PAD])
    parts, channels = [], []
    for held in np.split(order, [3]):
        parts.append(np.where(held == blocks.PAD, 0, x[..., held]).astype(x.dtype))
        channels.append(tuple(int(channel) for channel in held))
    return blocks.Blocks(tuple(jnp.asarray(part) for part in parts), tuple(channels), form)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', CASES)
def test_convolution_equals_its_definition(case, form):
    """Every form computes the definition, to float32 rounding, however its input lies in memory."""
    _, groups, _, _, rate, stride, padding = case
    x, kernel = random_case(case, np.float32)
    expected = reference_convolution(x.astype(np.float64), kernel.astype(np.float64), groups, rate, stride, padding)
    for given in (blocks.of(jnp.asarray(x), form), scattered(x, np.random.default_rng(1), form)):
        y = blocks.convolve(given, jnp.asarray(kernel), groups=groups, rate=rate, stride=stride, padding=padding)
        found = y.array()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, atol=2e-5 * np.abs(expected).max())


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('case', CASES)
def test_padding_stays_zero(case, form):
    """What an array holds beyond its channels is zero: it is summed over by the next convolution."""
    _, groups, _, _, rate, stride, padding = case
    x, kernel = (jnp.asarray(value) for value in random_case(case, np.float32))
    y = blocks.convolve(blocks.of(x, form), kernel, groups=groups, rate=rate, stride=stride, padding=padding)
    assert sorted(channel for held in y.channels for channel in held if channel != blocks.PAD) == list(range(y.width))
    for part, held in zip(y.parts, y.channels, strict=True):
        assert part.shape[-1] == len(held)
        assert not np.asarray(part)[..., np.asarray(held) == blocks.PAD].any()
    if form != 'plain' and case[:3] != (3, 6, 1):  # depthwise kernels keep the layout that they find
        assert all(part.shape[-1] % blocks.MULTIPLES[form] == 0 for part in y.parts)


@pytest.mark.parametrize(('groups', 'depth', 'parts'), [(3, 33, 3), (3, 20, 1), (1, 99, 1)])
def test_dense_form_keeps_deep_groups_apart(groups, depth, parts):
    """So many channels a group are convolved one by one; once apart, already fewer are."""
    x = blocks.of(jnp.ones((1, 4, 4, groups * depth)), 'dense')
    y = blocks.convolve(x, jnp.ones((3, 3, depth, 60)), groups=groups)
    assert len(y.parts) == parts
    assert len(blocks.convolve(y, jnp.ones((3, 3, 60 // 3, 9)), groups=3).parts) == parts


def test_joined_maps_leave_their_padding_behind():
    """Three maps of 6 channels, each rounded up to 8, are one of 18, rounded up to 24, for the next convolution."""
    kernel = jnp.ones((1, 1, 6, 6))
    maps = [blocks.convolve(blocks.of(jnp.ones((1, 2, 2, 6)), 'dense'), kernel) for _ in range(3)]
    assert maps[0].parts[0].shape[-1] == 8
    seen = jax.make_jaxpr(lambda: blocks.convolve(blocks.concatenate(maps), jnp.ones((3, 3, 18, 6))).parts)()
    (convolution,) = [line for line in seen.eqns if line.primitive.name == 'conv_general_dilated']
    assert convolution.invars[0].aval.shape[-1] == 24


@pytest.mark.parametrize('rate', [1, 6])
@pytest.mark.parametrize(('depth', 'features'), [(3, 5), (20, 24), (24, 4), (24, 20)])
def test_kernel_gradient_of_images_smaller_than_the_kernel(depth, features, rate):
    """Taps that see only padding have gradient zero, whichever way the products are made."""
    generator = np.random.default_rng(0)
    x = jnp.asarray(generator.normal(size=(2, 4, 5, depth)).astype(np.float32))
    kernel = jnp.asarray(generator.normal(size=(3, 3, depth, features)).astype(np.float32))

    def loss(kernel, form):
        return jnp.sum(jnp.sin(blocks.convolve(blocks.of(x, form), kernel, rate=rate).array()))

    found, expected = (jax.jit(jax.grad(loss), static_argnums=1)(kernel, form) for form in ('split', 'plain'))
    np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


WIDE = [
    (3, 1, 20, 24, 1, 1, 'zeros'),
    (3, 1, 24, 6, 2, 1, 'zeros'),
    (3, 1, 24, 20, 1, 1, 'reflect'),
    (3, 3, 16, 48, 6, 1, 'zeros'),
]


@pytest.mark.parametrize('form', ['split', 'dense'])
@pytest.mark.parametrize('case', [*CASES, *WIDE])
def test_gradients_equal_those_of_the_plain_form(case, form):
    """Gradients for input and kernel are those of XLA's own grouped convolution."""
    _, groups, _, _, rate, stride, padding = case
    x, kernel = (jnp.asarray(value) for value in random_case(case, np.float32))

    def loss(x, kernel, form):
        y = blocks.convolve(blocks.of(x, form), kernel, groups=groups, rate=rate, stride=stride, padding=padding)
        return jnp.sum(jnp.sin(y.array()))

    differentiate = jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)
    for found, expected in zip(differentiate(x, kernel, form), differentiate(x, kernel, 'plain'), strict=True):
        np.testing.assert_allclose(found, expected, atol=2e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize('form', FORMS)
def test_what_is_added_may_lie_anywhere(form):
    """relu(x + y) adds channel to channel, whatever the order and the padding of either."""
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(1, 3, 4, 6)).astype(np.float32) for _ in range(2))
    for first in (blocks.of(jnp.asarray(x), form), scattered(x, generator, form)):
        for second in (blocks.of(jnp.asarray(y), form), scattered(y, generator, form)):
            np.testing.assert_array_equal(blocks.add_and_rectify(first, second).array(), np.maximum(x + y, 0))


def test_convolution_refuses_widths_that_do_not_divide():
    """Channels that do not fit the groups are an error that names them."""
    with pytest.raises(ValueError, match='7 input and 6 output channels'):
        blocks.convolve(blocks.of(jnp.zeros((1, 4, 4, 7))), jnp.zeros((3, 3, 2, 6)), groups=3)


def test_unknown_form_is_refused():
    """A name that is none of the three is an error, not a default."""
    with pytest.raises(ValueError, match='fast'):
        blocks.of(jnp.zeros((1, 4, 4, 6)), 'fast')


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize(('channels', 'groups'), [(12, 3), (33, 3), (345, 5), (6, 1)])
def test_shuffle_is_its_definition(channels, groups, form):
    """Channel g * n + j goes to j * groups + g, for every channel."""
    x = blocks.of(jnp.arange(channels).reshape(1, 1, 1, channels), form)
    found = np.asarray(blocks.channel_shuffle(x, groups).array()).ravel()
    size = channels // groups
    for g, j in itertools.product(range(groups), range(size)):
        assert found[j * groups + g] == g * size + j


@pytest.mark.parametrize('form', FORMS)
def test_shuffle_by_the_cofactor_undoes_it(form):
    """Shuffling by C / groups restores the order."""
    x = jnp.arange(24).reshape(1, 1, 2, 12)
    twice = blocks.channel_shuffle(blocks.channel_shuffle(blocks.of(x, form), 3), 4)
    np.testing.assert_array_equal(twice.array(), x)


def test_shuffle_refuses_a_remainder():
    """Seven channels have no three equal groups."""
    with pytest.raises(ValueError, match='7 channels'):
        blocks.channel_shuffle(blocks.of(jnp.zeros((1, 1, 1, 7))), 3)


def test_concatenation_counts_on():
    """The channels of the second map follow those of the first, wherever either lies."""
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(1, 2, 2, width)).astype(np.float32) for width in (5, 4))
    found = blocks.concatenate([scattered(x, generator), scattered(y, generator)])
    assert found.width == 9
    np.testing.assert_array_equal(found.array(), np.concatenate([x, y], axis=-1))


@pytest.mark.parametrize('form', FORMS)
def test_concatenation_by_groups_gives_each_its_share(form):
    """The g-th third of every map, one after the other, is the g-th third of the result."""
    generator = np.random.default_rng(0)
    x, y = (generator.normal(size=(1, 2, 2, width)).astype(np.float32) for width in (6, 9))
    found = blocks.concatenate([scattered(x, generator, form), scattered(y, generator, form)], groups=3)
    expected = [piece for g in range(3) for piece in (x[..., 2 * g : 2 * g + 2], y[..., 3 * g : 3 * g + 3])]
    np.testing.assert_array_equal(found.array(), np.concatenate(expected, axis=-1))
    with pytest.raises(ValueError, match='6 channels'):
        blocks.concatenate([blocks.of(jnp.asarray(x), form)], groups=4)
