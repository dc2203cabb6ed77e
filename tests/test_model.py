"""Size, shapes, wiring and receptive field of the network."""

import re

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import UserError, blocks, derain, model

TINY = {'channels': 12, 'units': 1, 'scale_channels': 6}


def shapes(settings):
    """Variables of a network as shapes, by path."""
    return flax.traverse_util.flatten_dict(model.shapes(model.QSNet(**settings)), sep='/')


def run(settings, images, train=False, seed=0):
    """Output of a freshly initialised network."""
    network = model.QSNet(**settings)
    variables = model.initialize(network, seed)
    if train:
        return jax.jit(lambda images: network.apply(variables, images, train=True, mutable=['batch_stats'])[0])(images)
    return jax.jit(network.apply)(variables, images)


def random_images(height, width, batch=1):
    return jax.random.uniform(jax.random.key(1), (batch, height, width, 3))


def full_size_weights():
    """Kernel sizes of the full-size network, part by part, written out from the table of the architecture."""
    stem = 9 * 9 * 3 * 33 + 3 * 3 * 33 * 66 + 3 * 3 * 66 * 132
    unit = 132 * 33 // 3 + 3 * 3 * 33 + 33 * 132 // 3
    scales = 132 * 66 // 3 + 4 * (3 * 3 * 132 * 66 // 3)
    auxiliary = 3 * 3 * 66 * 66 // 3 + 3 * 3 * 66 * 33 // 3 + 3 * 3 * 33 * 3
    main = 3 * 3 * 345 * 132 // 3 + 3 * 3 * 132 * 66 // 3 + 3 * 3 * 66 * 33 // 3 + 3 * 3 * 33 * 3
    return stem + 12 * unit + scales + 5 * auxiliary + main


def test_parameter_count_at_full_size():
    """0.53 M: kernels, a scale and a bias per normalised channel, and a bias per channel of the six rain layers."""
    norms = 2 * (33 + 66 + 132) + 12 * 2 * (33 + 33 + 132) + 5 * 2 * 66 + 5 * 2 * (66 + 33) + 2 * (132 + 66 + 33)
    count = sum(int(np.prod(value.shape)) for name, value in shapes({}).items() if name.startswith('params/'))
    assert count == full_size_weights() + norms + 6 * 3 == 531_879


@pytest.mark.parametrize(('stride', 'gmac'), [(1, 137.5), (2, 38.2), (4, 14.3)])
def test_multiply_adds(stride, gmac):
    """137 GMAC at 512x512, where every kernel weight meets every pixel.

    With a stride s the part after the stem's first convolution has 1 / s**2 of the pixels (its second 1 / 4), but each
    rain layer and restored image has s**2 times the channels: by hand 38.2 and 14.3 GMAC.
    """
    found = model.multiply_adds(model.QSNet(encoder_stride=stride), 512, 512)
    assert found / 1e9 == pytest.approx(gmac, abs=0.05)
    if stride == 1:
        assert found == full_size_weights() * 512 * 512


def test_parameter_names_are_stable():
    """Published weights are found by these paths."""
    names = set(shapes({}))
    expected = {
        'params/stem_1/conv/kernel',
        'params/stem_3/norm/batch/scale',
        'params/unit_12/reduce/conv/kernel',
        'params/unit_12/depthwise/conv/kernel',
        'params/unit_12/expand/norm/batch/bias',
        'params/C_5/conv/kernel',
        'params/A_5/conv_2/conv/kernel',
        'params/A_5/rain/bias',
        'params/main/conv_3/conv/kernel',
        'params/main/rain/kernel',
        'batch_stats/main/conv_3/norm/batch/var',
    }
    assert expected <= names
    assert {name.split('/')[1] for name in names} == (
        {f'stem_{i}' for i in range(1, 4)}
        | {f'unit_{i}' for i in range(1, 13)}
        | {f'{letter}_{i}' for letter in 'CA' for i in range(1, 6)}
        | {'main'}
    )


@pytest.mark.parametrize(('norm', 'size'), [('batch', (7, 13)), ('instance', (1, 1)), ('none', (24, 36))])
def test_output_has_the_size_of_the_input(size, norm):
    """One main and five auxiliary rain layers of the input's size, odd ones included."""
    output = run({**TINY, 'norm': norm}, random_images(*size, batch=2))
    assert output.rain.shape == (2, *size, 3)
    assert [rain.shape for rain in output.aux_rain] == [(2, *size, 3)] * 5


@pytest.mark.parametrize('stride', [2, 4])
def test_strides_keep_the_size(stride):
    """Decoders come back to full size."""
    output = run({**TINY, 'encoder_stride': stride}, random_images(12, 20))
    assert output.rain.shape == output.aux_rain[4].shape == (1, 12, 20, 3)


@pytest.mark.parametrize(
    ('settings', 'message'),
    [
        ({'channels': 20}, 'multiple of 4 x groups'),
        ({'scale_channels': 9}, 'multiple of 2 x groups'),
        ({'encoder_stride': 3}, '1, 2 or 4'),
        ({'norm': 'layer'}, 'layer'),
        ({'units': 0, 'norm': 'instance'}, "a network without units is built with norm='batch'"),
        ({'dtype': 'float16'}, 'float16'),
        ({'share_scales': 'some'}, 'features, all, none'),
        ({'decoder_groups': 2}, 'must divide'),
        ({'decoder_groups': 0}, 'must divide'),
        ({'dtype': 'float64'}, 'JAX_ENABLE_X64'),
    ],
)
def test_settings_that_cannot_be_built_are_refused(settings, message):
    """The message says what the setting must be."""
    with pytest.raises(ValueError, match=message):
        run({**TINY, **settings}, random_images(12, 12))


def test_sizes_that_do_not_suit_the_stride_are_refused():
    """10 is no multiple of 4."""
    with pytest.raises(ValueError, match='multiples of encoder_stride = 4'):
        run({**TINY, 'encoder_stride': 4}, random_images(12, 10))


def test_bytes_are_refused():
    """Images must already be floats in [0, 1]."""
    with pytest.raises(ValueError, match='uint8'):
        run(TINY, jnp.zeros((1, 8, 8, 3), jnp.uint8))


@pytest.mark.parametrize('shape', [(0, 8, 8, 3), (1, 0, 8, 3), (8, 8, 3), (1, 8, 8, 4)])
def test_other_shapes_are_refused(shape):
    """An empty batch too, and images without pixels."""
    network = model.from_config(TINY)
    with pytest.raises(UserError, match=re.escape(f'images are float32 {shape}; expected floats in [0, 1] of (B, ')):
        jax.eval_shape(lambda images: network.init(jax.random.key(0), images), jnp.zeros(shape))


@pytest.mark.parametrize(
    ('stride', 'units', 'rates'),
    [
        (1, 1, (1, 2)),
        (4, 1, (1,)),
        pytest.param(1, 2, (3,), marks=pytest.mark.slow),
        pytest.param(2, 1, (1, 2), marks=pytest.mark.slow),
    ],
)
def test_receptive_radius_is_exact(stride, units, rates):
    """Gradients reach as far as `receptive_radius` says, and no farther; exact at stride 1, a bound with strides."""
    settings = {**TINY, 'units': units, 'rates': rates, 'encoder_stride': stride}
    network = model.QSNet(**settings)
    radius = model.receptive_radius(network)
    size = (2 * radius + 9) // 4 * 4 + 4
    images = random_images(size, size)
    # No ReLU may cut a path: with positive kernels and negative auxiliary rain all features are positive.
    variables = jax.tree.map(jnp.abs, model.initialize(network, 0))
    for number in range(len(rates) + 1):
        rain = variables['params'][f'A_{number + 1}']['rain']
        rain['kernel'] = -rain['kernel']
    centre = size // 2
    gradient = jax.jit(jax.grad(lambda x: network.apply(variables, x + 10.0).rain[0, centre, centre, 0]))(images)
    reached = np.argwhere(np.abs(gradient[0]).max(axis=-1) > 0)
    farthest = np.abs(reached - centre).max()
    assert farthest <= radius
    assert farthest == radius if stride == 1 else farthest > radius - 2 * stride


def test_receptive_radius_of_the_full_network():
    """4 + 1 + 1 of the stem, 12 units, rate 6, 3 of an auxiliary and 4 of the main decoder."""
    assert model.receptive_radius(model.QSNet()) == 31


def test_instance_norm_has_no_receptive_radius():
    """Its statistics are those of the whole image."""
    with pytest.raises(ValueError, match='whole image'):
        model.receptive_radius(model.QSNet(norm='instance'))


@pytest.mark.parametrize(
    'change',
    [
        {'share_groups': False},
        {'share_scales': 'none'},
        pytest.param({'share_scales': 'all'}, marks=pytest.mark.slow),
    ],
    ids=lambda each: str(each),
)
def test_sharing_changes_the_output_but_no_parameter(change):
    """Without sharing the same parameters give another result, through the decoders alone."""
    images = random_images(12, 12)
    shared, separate = TINY, {**TINY, **change}
    assert shapes(shared).keys() == shapes(separate).keys()
    difference = jnp.abs(run(shared, images).rain - run(separate, images).rain).max()
    assert difference > 1e-4


def test_without_sharing_scales_stay_apart_from_auxiliary_outputs():
    """The exchange between scales comes after the auxiliary decoders, whose output it leaves alone."""
    images = random_images(12, 12)
    shared, separate = (run({**TINY, 'share_scales': kind}, images) for kind in ('features', 'none'))
    for first, second in zip(shared.aux_rain, separate.aux_rain, strict=True):
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize(('stride', 'groups'), [(1, 3), (2, 3), (2, 2), (1, 1)])
def test_every_group_of_the_main_decoder_has_its_share(stride, groups):
    """With 'features' each group gets as many channels of each scale's features, and of each scale's image, as others.

    With three groups it is one colour of every restored image.
    """
    scales, width, depth = 5, 6, 3 * stride**2
    features = [blocks.of(jnp.full((1, 1, 1, width), 100.0 + scale)) for scale in range(scales)]
    restored = [
        blocks.of((1000.0 * scale + jnp.arange(1.0 * depth)).reshape(1, 1, 1, depth)) for scale in range(scales)
    ]
    restored = [x.map(lambda part: -part - 1) for x in restored]
    merged = np.asarray(model.exchange(features, restored, 'features', groups).array()).ravel()
    for part in np.split(merged, groups):
        for scale in range(scales):
            assert (part == 100.0 + scale).sum() == width // groups
            own = -part[part < 0] - 1
            own = own[own // 1000 == scale] % 1000
            assert len(own) == depth // groups or depth % groups
            assert groups != 3 or len(set(own % 3)) == 1
    assert len(set(merged[merged < 0])) == scales * depth


def test_exchanges_of_features_interleave_the_scales():
    """Channel j of scale F_i is at 5 j + i of what the groups share, as after a shuffle of five blocks."""
    features = [blocks.of(jnp.arange(6.0).reshape(1, 1, 1, 6) + 10 * scale) for scale in range(5)]
    restored = [blocks.of(jnp.full((1, 1, 1, 3), -1.0)) for _ in range(5)]
    merged = np.asarray(model.exchange(features, restored, 'features', 1).array()).ravel()
    np.testing.assert_array_equal(merged[:30], [10 * scale + j for j in range(6) for scale in range(5)])


def test_the_former_exchange_puts_all_images_into_the_last_group():
    """'all' is what weights from before the other exchanges were trained with: 15 image channels at the end."""
    features = [blocks.of(jnp.ones((1, 1, 1, 6))) for _ in range(5)]
    restored = [blocks.of(jnp.full((1, 1, 1, 3), -1.0)) for _ in range(5)]
    merged = np.asarray(model.exchange(features, restored, 'all', 3).array()).ravel()
    np.testing.assert_array_equal(merged, [1] * 30 + [-1] * 15)


@pytest.mark.parametrize(('flag', 'meaning'), [(True, 'all'), (False, 'none')])
def test_settings_stored_before_there_were_several_exchanges_are_read(flag, meaning):
    """A flag of old files and configs means what it did; their decoders have the groups of all else."""
    old = {'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1}
    old |= {'norm': 'batch', 'share_groups': True, 'share_scales': flag, 'dtype': 'float32'}
    network = model.from_config(old)
    assert (network.share_scales, network.decoder_groups, network.rates) == (meaning, None, (1, 2))


def test_settings_that_are_not_given_are_the_defaults():
    """Of a network and of its twin's alike; a misspelt name ends in one line that says which there are."""
    assert model.from_config({}) == model.QSNet() and model.from_config({'units': 4}).units == 4
    network = derain.Derainer({}, {'channels': 48, 'form': 'plain'}).network
    assert (network.channels, network.units, network.form) == (48, 12, 'plain')
    with pytest.raises(UserError, match='The network has no setting chanels, parent; it has channels, groups, units,'):
        model.from_config({'chanels': 48, 'units': 4, 'parent': None})
    for nothing in (None, 'settings'):
        with pytest.raises(UserError, match=f'settings of {type(nothing).__name__}; expected a mapping'):
            model.from_config(nothing)
    with pytest.raises(UserError, match="channels is '48'; expected a whole number"):
        derain.Derainer({}, {'channels': '48'})


def test_decoders_without_groups_have_nothing_to_share():
    """With decoder_groups=1 kernels are dense, and shuffles between groups are the identity."""
    settings = {**TINY, 'decoder_groups': 1}
    assert shapes(settings)['params/main/conv_1/conv/kernel'].shape == (3, 3, 45, 12)
    images = random_images(8, 8)
    shared, separate = (run({**settings, 'share_groups': flag}, images) for flag in (True, False))
    np.testing.assert_array_equal(shared.rain, separate.rain)


@pytest.mark.parametrize(('dtype', 'precision'), [('float32', 'HIGHEST'), ('tf32', 'HIGH'), ('bfloat16', 'DEFAULT')])
@pytest.mark.parametrize('form', ['dense', 'split'])
@pytest.mark.usefixtures('lenient_promotion')
def test_precision_reaches_every_product(dtype, precision, form):
    """Each convolution and matrix product of forward and backward pass is lowered with the precision of `dtype`."""
    network = model.QSNet(**TINY, dtype=dtype, form=form)
    variables, images = model.initialize(network, 0), random_images(8, 8)

    def loss(params):
        return network.apply({**variables, 'params': params}, images, True, mutable=['batch_stats'])[0].rain.sum()

    text = jax.jit(jax.grad(loss)).lower(variables['params']).as_text()
    products = [line for line in text.splitlines() if 'stablehlo.convolution' in line or 'dot_general' in line]
    assert len(products) > 50
    assert all({*re.findall(r'HIGHEST|HIGH|DEFAULT', line)} <= {precision} for line in products)
    assert precision == 'DEFAULT' or all(precision in line for line in products)


def test_without_group_sharing_a_group_sees_only_itself():
    """With no shuffle, the first group of a decoder's second convolution depends on the first input channels alone."""
    decoder = model.Decoder((6, 6), 3, 1, 'batch', share_groups=False, dtype=jnp.dtype('float32'))
    x = random_images(6, 6).repeat(2, axis=-1)
    variables = decoder.init(jax.random.key(0), blocks.of(x), False)
    _, state = decoder.apply(variables, blocks.of(x), False, capture_intermediates=True)
    _, changed = decoder.apply(variables, blocks.of(x.at[..., 2:].set(0.0)), False, capture_intermediates=True)
    first, second = (s['intermediates']['conv_2']['__call__'][0].array()[..., :2] for s in (state, changed))
    np.testing.assert_array_equal(first, second)


def test_training_mode_updates_statistics_and_inference_does_not_need_the_batch():
    """An image's result at inference is the same alone and in a batch."""
    network = model.QSNet(**TINY)
    images = random_images(12, 12, batch=3)
    variables = model.initialize(network, 0)
    apply = jax.jit(network.apply)
    updates = jax.jit(lambda images: network.apply(variables, images, train=True, mutable=['batch_stats'])[1])(images)
    assert not np.array_equal(
        updates['batch_stats']['stem_1']['norm']['batch']['mean'],
        variables['batch_stats']['stem_1']['norm']['batch']['mean'],
    )
    together, alone = apply(variables, images).rain[:1], apply(variables, images[:1]).rain
    np.testing.assert_allclose(together, alone, atol=1e-5)


@pytest.mark.usefixtures('lenient_promotion')
def test_half_precision_is_close_and_comes_out_as_float32():
    """bfloat16 computes the same network to its three digits, with float32 parameters."""
    images = random_images(16, 16)
    full, half = (run({**TINY, 'dtype': dtype}, images) for dtype in ('float32', 'bfloat16'))
    assert half.rain.dtype == jnp.float32
    assert jnp.abs(full.rain - half.rain).max() < 0.05 * jnp.abs(full.rain).max()
    assert all(value.dtype == jnp.float32 for value in shapes({**TINY, 'dtype': 'bfloat16'}).values())


def test_rates_set_the_number_of_scales():
    """One pointwise scale and one per rate, each with its decoder."""
    assert len(run({**TINY, 'rates': (3,)}, random_images(8, 8)).aux_rain) == 2


@pytest.mark.slow
@pytest.mark.usefixtures('lenient_promotion')
def test_double_precision_is_double_throughout():
    """With float64 parameters, statistics and outputs are float64, and equal float32 to its rounding."""
    images = random_images(12, 12)
    single = run(TINY, images, train=True).rain
    with jax.enable_x64(True):
        network = model.QSNet(**TINY | {'dtype': 'float64'})
        assert all(value.dtype == np.float64 for value in jax.tree.leaves(model.initialize(network, 0)))
        variables = jax.tree.map(jnp.float64, model.initialize(model.QSNet(**TINY), 0))
        output, updates = network.apply(variables, jnp.float64(images), train=True, mutable=['batch_stats'])
        assert all(value.dtype == jnp.float64 for value in jax.tree.leaves((output, updates)))
        np.testing.assert_allclose(output.rain, single, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures('lenient_promotion')
@pytest.mark.parametrize('settings', [{}, {**TINY, 'norm': 'instance'}, {**TINY, 'norm': 'none', 'dtype': 'bfloat16'}])
def test_initial_values_are_distributed_as_those_of_init(settings):
    """Same tree, same constants, kernels uniform within Xavier's bounds."""
    network = model.QSNet(**{**settings, 'units': 1, 'rates': (2,)})
    ours = flax.traverse_util.flatten_dict(model.initialize(network, 3), sep='/')
    plain = network.init(jax.random.key(3), jnp.zeros((1, 8, 8, 3)))
    theirs = flax.traverse_util.flatten_dict(dict(plain), sep='/')
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        assert ours[name].dtype == value.dtype and ours[name].shape == value.shape
        if not name.endswith('kernel'):
            np.testing.assert_array_equal(ours[name], value)
        elif value.size > 1000:
            np.testing.assert_allclose(ours[name].std(), value.std(), rtol=0.1)
            np.testing.assert_allclose(np.abs(ours[name]).max(), jnp.abs(value).max(), rtol=0.02)
            assert abs(ours[name].mean()) < 0.1 * ours[name].std()


def test_blocks_of_ones_own_are_initialized():
    """A layer of another kind in a subclass: its kernel has two axes, and the variance of Xavier."""

    class Gated(model.QSNet):
        @nn.compact
        def __call__(self, rainy, train=False):
            gate = nn.Dense(300, name='gate')(rainy.mean((1, 2)))
            output = super().__call__(rainy, train)
            return output._replace(rain=output.rain + gate.mean())

    network = Gated(channels=12, units=1, scale_channels=6, rates=(2,))
    kernel = model.initialize(network, 0)['params']['gate']['kernel']
    assert kernel.shape == (3, 300) and kernel.std() == pytest.approx(np.sqrt(2 / 303), rel=0.1)


def test_a_parameter_is_the_same_in_every_network_that_has_it():
    """Fewer units or other rates change no other kernel; another seed or path does."""
    small, large = (model.initialize(model.QSNet(**{**TINY, 'units': units}), 5)['params'] for units in (1, 3))
    np.testing.assert_array_equal(small['stem_2']['conv']['kernel'], large['stem_2']['conv']['kernel'])
    assert not np.array_equal(large['unit_1']['reduce']['conv']['kernel'], large['unit_2']['reduce']['conv']['kernel'])
    other = model.initialize(model.QSNet(**TINY), 6)['params']
    assert not np.array_equal(small['stem_2']['conv']['kernel'], other['stem_2']['conv']['kernel'])
