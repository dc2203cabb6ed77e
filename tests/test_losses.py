import functools

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import pytest

from qsnet_jax import losses, priors

FILTERS = priors.FILTERS['derivative']


def _images(count, shape=(2, 6, 7, 3), seed=0):
    """`count` random 8-bit images as float32 in [0, 1]."""
    levels = np.random.default_rng(seed).integers(0, 256, (count, *shape))
    return [(image / 255).astype(np.float32) for image in levels]


def _example(shape=(2, 6, 7, 3)):
    """rain, aux_rain, rainy, clean such that errors of both signs occur; float32 of one shape."""
    rain, rainy, clean, *aux_rain = _images(8, shape)
    return rain - np.float32(0.5), tuple(aux_rain), rainy, clean


def _config(**changes):
    """The paper's weights, and `changes`."""
    defaults = {
        'content': 1.0,
        'quasi_sparsity': 1e-3,
        'detail': 1e-4,
        'auxiliary': 1e-2,
        'filters': 'derivative',
        'pixel_range': 1.0,
        'detail_threshold': 0.0,
    }
    return ml_collections.ConfigDict(defaults | changes)


@functools.cache
def _compiled(**changes):
    """losses.total(rain, aux_rain, rainy, clean) under a configuration, compiled once per configuration and shape."""
    return jax.jit(functools.partial(losses.total, config=_config(**changes)))


def _plain_derivatives(layer):
    """Sum of |d_x|, |d_y|, |d_xx|, |d_yy| of a (B, H, W, C) layer in float64, line by line."""
    layer = np.asarray(layer, np.float64)
    total = 0.0
    for taps in ([1, -1], [-1, 2, -1]):
        for axis in (1, 2):
            for line in np.moveaxis(layer, axis, -1).reshape(-1, layer.shape[axis]):
                total += np.abs(np.convolve(line, taps, mode='valid')).sum()
    return total


def _plain_sobel(layer):
    """Sum of the absolute Sobel responses of a (B, H, W, C) layer in float64, as smoothing after a difference."""
    layer = np.asarray(layer, np.float64)
    dx = layer[:, :, 2:] - layer[:, :, :-2]
    dy = layer[:, 2:] - layer[:, :-2]
    return (
        np.abs(dx[:, :-2] + 2 * dx[:, 1:-1] + dx[:, 2:]).sum()
        + np.abs(dy[:, :, :-2] + 2 * dy[:, :, 1:-1] + dy[:, :, 2:]).sum()
    )


def _plain_losses(rain, aux_rain, rainy, clean, scale=1.0):
    """All four terms in float64, pixel by pixel, for a threshold of 0."""
    rain, rainy, clean, *aux_rain = (scale * np.asarray(x, np.float64) for x in (rain, rainy, clean, *aux_rain))
    content = detail = auxiliary = 0.0
    for b, i, j in np.ndindex(*rain.shape[:3]):
        content += np.abs(rainy[b, i, j] - rain[b, i, j] - clean[b, i, j]).sum()
        if not any(rainy[b, i, j, c] > clean[b, i, j, c] for c in range(3)):
            detail += np.abs(rain[b, i, j]).sum()
        for layer in aux_rain:
            auxiliary += ((rainy[b, i, j] - layer[b, i, j] - clean[b, i, j]) ** 2).sum() / 5
    sums = {
        'content': content,
        'quasi_sparsity': _plain_derivatives(rain) + _plain_derivatives(rainy - rain),
        'detail': detail,
        'auxiliary': auxiliary,
    }
    return {name: value / rain.size for name, value in sums.items()}


# Sums of a few hundred float32 terms against float64.
FLOAT32 = {'rel': 1e-5}


@pytest.mark.parametrize('name, plain', [('derivative', _plain_derivatives), ('sobel', _plain_sobel)])
def test_quasi_sparsity_equals_eq_9(name, plain):
    """L_Q sums absolute responses of rain and background over pixels, channels and filters."""
    rain, _, rainy, _ = _example()
    expected = (plain(rain) + plain(rainy.astype(np.float64) - rain)) / rain.size
    assert float(losses.quasi_sparsity(rain, rainy, priors.FILTERS[name])) == pytest.approx(expected, **FLOAT32)


@pytest.mark.parametrize('name', losses.TERMS)
def test_terms_equal_their_equations(name):
    """Each term is what Eqs. (9) to (12) give in float64, over the common divisor."""
    example = _example()
    terms = _compiled()(*example)[1]
    assert float(terms[name]) == pytest.approx(_plain_losses(*example)[name], **FLOAT32)


def test_total_equals_eq_13():
    """The total is the sum with the paper's weights."""
    example = _example()
    plain = _plain_losses(*example)
    expected = 1e-3 * plain['quasi_sparsity'] + plain['content'] + 0.01 * plain['auxiliary'] + 1e-4 * plain['detail']
    total, terms = _compiled()(*example)
    assert float(total) == pytest.approx(expected, **FLOAT32)
    assert float(terms['total']) == float(total)


def test_content_of_known_images():
    """A restored image that is .25 off in one of three channels has a content loss of .25 / 3."""
    zeros = jnp.zeros((1, 2, 2, 3))
    rain = zeros.at[..., 1].set(-0.25)
    assert float(losses.content(rain, zeros, zeros)) == pytest.approx(0.25 / 3, rel=1e-6)


def test_auxiliary_of_known_images():
    """One of five decoders half a unit off in every pixel gives .5^2 / 5."""
    zeros = jnp.zeros((1, 2, 2, 3))
    aux_rain = [zeros, zeros, zeros + 0.5, zeros, zeros]
    assert float(losses.auxiliary(aux_rain, zeros, zeros)) == pytest.approx(0.05, rel=1e-6)


def test_auxiliary_takes_a_stacked_array():
    """Five layers in a tuple and the same five along a leading axis give one value."""
    _, aux_rain, rainy, clean = _example()
    assert losses.auxiliary(aux_rain, rainy, clean) == losses.auxiliary(jnp.stack(aux_rain), rainy, clean)


def test_true_rain_layer_costs_only_its_edges():
    """With R = I - B content and auxiliary loss vanish, as does the detail loss where rain only brightens."""
    clean = _images(1)[0] / 2
    rain = _images(1, seed=1)[0] / 2
    rainy = rain + clean
    terms = _compiled()(rain, (rain,) * 5, rainy, clean)[1]
    assert {name for name in losses.TERMS if float(terms[name]) > 1e-6} == {'quasi_sparsity'}


def test_removing_nothing_minimises_quasi_sparsity():
    """L_Q is at least the responses of the rainy image itself, and equal to them for R = 0."""
    rain, _, rainy, _ = _example()
    bound = _plain_derivatives(rainy) / rainy.size
    assert float(losses.quasi_sparsity(np.zeros_like(rainy), rainy, FILTERS)) == pytest.approx(bound, **FLOAT32)
    assert float(losses.quasi_sparsity(rain, rainy, FILTERS)) > 1.1 * bound


@pytest.mark.parametrize('scale, weight', [(0.5, 0.5), (2.0, 0.3)])
def test_quasi_sparsity_is_the_log_likelihood(scale, weight):
    """Minus s (log P_q - beta), from the product in Eq. (6) and the constant in Eq. (7), is L_q of Eq. (8)."""
    rain, rainy = _images(2, (1, 4, 3, 3))
    layers = [layer.astype(np.float64) for layer in (rain, rainy - rain)]
    responses = [
        sum(np.abs(priors.respond(layer, kernel)) for layer in layers) for kernel in FILTERS
    ]  # |w * R| + |w * B|
    likelihood = np.prod([np.prod(priors.quasi_sparse_density(r, scale, weight)) for r in responses])
    beta = sum(r.size for r in responses) * np.log(weight / scale)
    expected = -scale * (np.log(likelihood) - beta)
    assert float(losses.quasi_sparsity(rain, rainy, FILTERS)) * rain.size == pytest.approx(expected, **FLOAT32)


@pytest.mark.parametrize('name', losses.TERMS)
def test_values_do_not_depend_on_the_batch_size(name):
    """Repeating every image of the batch leaves each term."""
    rain, aux_rain, rainy, clean = _example()
    once = _compiled()(rain, aux_rain, rainy, clean)[1][name]
    rain, rainy, clean, *aux_rain = (np.concatenate([x, x]) for x in (rain, rainy, clean, *aux_rain))
    assert float(_compiled()(rain, aux_rain, rainy, clean)[1][name]) == pytest.approx(float(once), **FLOAT32)


@pytest.mark.parametrize('name', ['content', 'detail', 'auxiliary'])
def test_values_do_not_depend_on_the_image_size(name):
    """Tiling every image two by three leaves each term that looks at single pixels."""
    rain, aux_rain, rainy, clean = _example()
    once = _compiled()(rain, aux_rain, rainy, clean)[1][name]
    rain, rainy, clean, *aux_rain = (np.tile(x, (1, 2, 3, 1)) for x in (rain, rainy, clean, *aux_rain))
    assert float(_compiled()(rain, aux_rain, rainy, clean)[1][name]) == pytest.approx(float(once), **FLOAT32)


def test_quasi_sparsity_hardly_depends_on_the_image_size():
    """On checkerboards the value per pixel changes with the crop by the missing border positions only."""
    small, large = (
        np.tile((np.indices((n, n)).sum(0) % 2)[None, :, :, None], (1, 1, 1, 3)).astype(np.float32) for n in (32, 64)
    )
    loss_fn = jax.jit(functools.partial(losses.quasi_sparsity, filters=FILTERS))
    values = [float(loss_fn(np.zeros_like(x), x)) for x in (small, large)]
    # d_x and d_y answer 1, d_xx and d_yy answer 2 at a share (n - 1) / n and (n - 2) / n of the positions.
    assert values == pytest.approx([2 * (1 - 1 / n) + 4 * (1 - 2 / n) for n in (32, 64)], rel=1e-6)


@pytest.mark.parametrize('name', losses.TERMS)
def test_pixel_range_equals_losses_of_scaled_images(name):
    """A range of 255 is the loss of images in 0..255: absolute terms grow 255-fold, the squared one 255^2-fold."""
    example = _example()
    scaled = float(_compiled(pixel_range=255.0)(*example)[1][name])
    assert scaled == pytest.approx(_plain_losses(*example, scale=255.0)[name], **FLOAT32)
    unscaled = float(_compiled()(*example)[1][name])
    assert scaled / unscaled == pytest.approx(255.0**2 if name == 'auxiliary' else 255.0, rel=1e-6)


@pytest.mark.parametrize('pixel_range', [1.0, 255.0])
def test_detail_threshold_does_not_move_with_the_pixel_range(pixel_range):
    """The configured threshold is in [0, 1] units, so the same pixels count as rain in either range."""
    rain, aux_rain, rainy, clean = _example()
    changes = {'pixel_range': pixel_range, 'detail_threshold': 0.3}
    value = float(_compiled(**changes)(rain, aux_rain, rainy, clean)[1]['detail'])
    is_dry = (rainy - clean).max(axis=-1, keepdims=True) <= 0.3
    assert value == pytest.approx(pixel_range * np.abs(is_dry * rain).sum() / rain.size, **FLOAT32)


@pytest.mark.parametrize('level', [0, 1, 8, 254])
def test_rain_map_is_exact_at_every_level(level):
    """For all 256 x 256 pairs of 8-bit levels the map marks exactly those brightened by more than the threshold."""
    rainy, clean = np.meshgrid(np.arange(256), np.arange(256))
    images = [np.tile((x / 255).astype(np.float32)[None, :, :, None], (1, 1, 1, 3)) for x in (rainy, clean)]
    found = losses.rain_map(*images, level / 255)
    np.testing.assert_array_equal(found[0, :, :, 0], rainy - clean > level)


def test_rain_map_between_two_levels():
    """A threshold of 8.9 levels marks a brightening by nine and not one by eight."""
    rainy = np.array([8, 9], np.float32)[None, None, :, None] / np.float32(255)
    assert np.ravel(losses.rain_map(rainy, np.zeros_like(rainy), 8.9 / 255)).tolist() == [0, 1]


def test_rain_map_marks_a_pixel_for_any_channel():
    """One brightened channel is rain; darkened and unchanged ones are not."""
    rainy = np.zeros((1, 1, 5, 3), np.float32)
    for channel in range(3):
        rainy[0, 0, channel, channel] = 0.1
    rainy[0, 0, 3] = -0.1
    found = losses.rain_map(rainy, np.zeros_like(rainy), 0.0)
    assert found.shape == (1, 1, 5, 1)
    assert np.ravel(found).tolist() == [1, 1, 1, 0, 0]


@pytest.mark.parametrize('threshold', [-0.1, 1.0, 8])
def test_thresholds_outside_the_range_of_images_are_refused(threshold):
    """A threshold in 8-bit levels, which would mark no rain at all, is refused."""
    rain, _, rainy, clean = _example()
    with pytest.raises(ValueError, match=r'threshold must be in \[0, 1\)'):
        losses.detail(rain, rainy, clean, threshold)


def test_gradient_is_finite_where_nothing_is_removed():
    """At R = 0 and a flat image, where every absolute value has its kink, the gradient is finite."""
    flat = jnp.full((1, 5, 5, 3), 0.5)

    def loss_fn(rain, aux_rain):
        return _compiled()(rain, aux_rain, flat, flat)[0]

    gradients = jax.grad(loss_fn, argnums=(0, 1))(jnp.zeros_like(flat), (jnp.zeros_like(flat),) * 5)
    assert all(np.isfinite(gradient).all() for gradient in jax.tree.leaves(gradients))


def test_every_decoder_gets_a_gradient():
    """The main and all five auxiliary rain layers take part in the total."""
    rain, aux_rain, rainy, clean = _example()
    gradients = jax.grad(lambda *layers: _compiled()(*layers, rainy, clean)[0], argnums=(0, 1))(
        jnp.asarray(rain), tuple(map(jnp.asarray, aux_rain))
    )
    assert len(jax.tree.leaves(gradients)) == 6
    assert all(np.any(gradient) for gradient in jax.tree.leaves(gradients))


@pytest.mark.parametrize('name', losses.TERMS)
def test_a_term_of_weight_zero_is_reported_but_not_added(name):
    """Switching a term off removes it from the total and leaves its reported value."""
    example = _example()
    terms = _compiled()(*example)[1]
    total, without = _compiled(**{name: 0.0})(*example)
    assert float(without[name]) == float(terms[name]) > 0
    others = sum(getattr(_config(), other) * float(terms[other]) for other in losses.TERMS if other != name)
    assert float(total) == pytest.approx(others, rel=1e-6)


def test_a_broken_term_of_weight_zero_does_no_harm():
    """With the auxiliary loss off, auxiliary decoders that diverged leave the total finite."""
    rain, aux_rain, rainy, clean = _example()
    broken = (np.full_like(rain, np.inf), *aux_rain[1:])
    assert np.isfinite(_compiled(auxiliary=0.0)(rain, broken, rainy, clean)[0])


@pytest.mark.parametrize('shape', [(1, 1, 1, 3), (2, 1, 9, 3), (2, 2, 2, 3)])
def test_images_smaller_than_the_filters(shape):
    """Tiny images have finite losses under both filter sets."""
    for name in priors.FILTERS:
        assert np.isfinite(_compiled(filters=name)(*_example(shape))[0])


def test_half_precision_predictions_are_summed_in_float32():
    """Losses of a bfloat16 rain layer are those of the same numbers in float32."""
    rain, aux_rain, rainy, clean = _example()
    half = jax.tree.map(lambda x: jnp.asarray(x, jnp.bfloat16), (rain, aux_rain))
    single = jax.tree.map(lambda x: x.astype(jnp.float32), half)
    terms = _compiled()(*half, rainy, clean)[1]
    assert {value.dtype for value in terms.values()} == {jnp.dtype('float32')}
    assert terms == _compiled()(*single, rainy, clean)[1]


def test_double_precision_stays():
    """In 64-bit mode the losses of float64 images are float64 and equal the plain sums to 1e-12."""
    example = jax.tree.map(lambda x: x.astype(np.float64), _example())
    with jax.enable_x64(True):
        terms = {name: float(value) for name, value in _compiled()(*example)[1].items()}
    plain = _plain_losses(*example)
    assert {name: terms[name] for name in losses.TERMS} == pytest.approx(plain, rel=1e-12)


def test_compiled_losses_equal_eager_ones():
    """Under jit every value stays, up to the order of sums."""
    example = _example()
    eager = losses.total(*example, _config())[1]
    compiled = _compiled()(*example)[1]
    assert jax.tree.map(float, compiled) == pytest.approx(jax.tree.map(float, eager), **FLOAT32)


def test_8_bit_images_are_refused():
    """Integers, whose range would have to be guessed, are refused with the remedy."""
    rain, _, rainy, clean = _example()
    with pytest.raises(TypeError, match='rainy must be floating.*found uint8. Divide'):
        losses.content(rain, (255 * rainy).astype(np.uint8), clean)


def test_unequal_shapes_are_refused():
    """A grey rain layer or a missing batch axis is refused, not broadcast."""
    rain, aux_rain, rainy, clean = _example()
    with pytest.raises(ValueError, match=r"one shape \(B, H, W, 3\); found {'rain': \(2, 6, 7, 1\)"):
        losses.content(rain[..., :1], rainy, clean)
    with pytest.raises(ValueError, match='one shape'):
        losses.quasi_sparsity(rain[0], rainy[0], FILTERS)
    with pytest.raises(ValueError, match=r'aux_rain\[0\]'):
        losses.auxiliary(aux_rain[0], rainy, clean)  # one layer instead of a sequence of layers


def test_no_auxiliary_layers_are_refused():
    """The mean over no decoders is refused instead of dividing by zero."""
    _, _, rainy, clean = _example()
    with pytest.raises(ValueError, match='aux_rain is empty'):
        losses.auxiliary((), rainy, clean)


@pytest.mark.parametrize(
    'changes, message',
    [
        ({'filters': 'laplace'}, "Unknown loss.filters 'laplace'.*'derivative', 'sobel'"),
        ({'pixel_range': 2.0}, 'loss.pixel_range must be 1.0 or 255.0; found 2.0'),
        (dict.fromkeys(losses.TERMS, 0.0), 'All weights of the loss are 0'),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    """Settings without a meaning are refused with the choices."""
    with pytest.raises(ValueError, match=message):
        losses.total(*_example(), _config(**changes))
