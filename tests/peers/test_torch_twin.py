"""The PyTorch twin computes what the linen network computes: forward, gradients, training; and files go both ways."""

import fractions
import functools
import json

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip('torch')
torch.set_num_threads(1)  # the networks are small, and waiting threads would take the cores from JAX's

from qsnet_jax.configs import default, quickstart  # noqa: E402

from qsnet_jax import UserError, derain, model  # noqa: E402
from qsnet_jax.data import sets, sources  # noqa: E402
from qsnet_jax.peers import torch_twin  # noqa: E402
from qsnet_jax.training import study, train  # noqa: E402
from qsnet_jax.weights import files  # noqa: E402

FULL = default.get_config().model.to_dict()
QUICK = quickstart.get_config().model.to_dict()
SMALL = {**FULL, 'channels': 24, 'units': 2, 'scale_channels': 12}
CHANGES = {
    'as it is': {},
    'stride 2': {'encoder_stride': 2},
    'stride 4': {'encoder_stride': 4},
    'instance': {'norm': 'instance'},
    'no norm': {'norm': 'none'},
    'nothing shared': {'share_groups': False, 'share_scales': 'none'},
    'groups not shared': {'share_groups': False},
    'scales not shared': {'share_scales': 'none'},
    'images exchanged': {'share_scales': 'all'},
    'no groups in decoders': {'decoder_groups': 1},
    'no groups, stride 2': {'decoder_groups': 1, 'encoder_stride': 2, 'share_scales': 'none'},
    'images exchanged, stride 4': {'share_scales': 'all', 'encoder_stride': 4},
}
# Every setting at full size, which compiles for long, and in a small network; the quickstart's. Each value of a setting
# is in the fast tier once, but for norm='none' and share_groups=False, which leave something out.
FAST = ('as it is', 'instance', 'no groups, stride 2', 'images exchanged, stride 4')
FULL_CASES = [
    pytest.param({**FULL, **change}, id=f'full, {name}', marks=pytest.mark.slow) for name, change in CHANGES.items()
]
CASES = [
    *FULL_CASES,
    *(
        pytest.param({**SMALL, **change}, id=f'small, {name}', marks=() if name in FAST else pytest.mark.slow)
        for name, change in CHANGES.items()
    ),
    pytest.param(QUICK, id='quickstart'),
]
VARIANTS = {
    'V1': {'quasi_sparsity': 0.0, 'detail': 0.0, 'auxiliary': 0.0},
    'V2': {'detail': 0.0, 'auxiliary': 0.0},
    'V3': {'auxiliary': 0.0},
    'V4': {},
    'V4, Sobel': {'filters': 'sobel'},
    'V4, 0..255': {'pixel_range': 255.0},
    'V4, threshold': {'detail_threshold': 8 / 255},
}


pytestmark = pytest.mark.usefixtures('lenient_promotion')


@pytest.fixture
def double(compiled_quickly):
    with jax.enable_x64(True):
        yield


def make(settings, seed=0):
    """Network, variables with no value at its default, and the twin that holds them."""
    network, variables = _drawn(tuple(settings.items()), seed)
    twin = torch_twin.QSNet(settings)
    twin.load_state_dict(torch_twin.to_torch(variables))
    return network, variables, twin


@functools.lru_cache(maxsize=1)
def _drawn(settings, seed):
    """Network and variables, kept for the next test."""
    network = model.from_config(dict(settings))
    generator = np.random.default_rng(seed)

    def draw(path, value):
        if path[-1] in ('scale', 'var'):
            value = generator.uniform(0.5, 1.5, value.shape).astype(value.dtype)
        elif path[-1] in ('bias', 'mean'):
            value = generator.normal(0, 0.2, value.shape).astype(value.dtype)
        return jnp.asarray(value)

    return network, flax.traverse_util.path_aware_map(draw, model.initialize(network, seed))


def images(height, width, dtype, seed=1, batch=2):
    """Random 8-bit images in [0, 1], (B, H, W, 3), and as PyTorch takes them."""
    levels = np.random.default_rng(seed).integers(256, size=(batch, height, width, 3))
    array = (levels / 255).astype(dtype)
    return array, torch.from_numpy(array.transpose(0, 3, 1, 2).copy())


def run(settings, height, width, is_training, seed=0):
    """(array of all outputs, running statistics) of both."""
    network, variables, twin = make(settings, seed)
    ours, theirs = images(height, width, 'float64' if settings['dtype'] == 'float64' else 'float32')
    apply = jax.jit(lambda v, x: network.apply(v, x, train=is_training, mutable=['batch_stats']))
    output, updates = apply(variables, ours)
    twin.train(is_training)
    with torch.no_grad():
        twin_output = twin(theirs)
    state = {name: value.numpy() for name, value in twin.state_dict().items() if 'running' in name}
    expected = torch_twin.to_torch(updates) if updates else {}
    statistics = [(expected[name].numpy(), state[name]) for name in state]
    mine = np.stack([output.rain, *output.aux_rain])
    its = np.stack([rain.numpy().transpose(0, 2, 3, 1) for rain in (twin_output.rain, *twin_output.aux_rain)])
    return mine, its, statistics


def relative(first, second, floor=0.0):
    """Largest difference over the largest entry, or over `floor` where all entries are smaller."""
    return float(np.abs(first - second).max() / max(np.abs(second).max(), floor))


def apart(first, second):
    """Worst of the outputs."""
    return max(relative(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize(
    'size', [pytest.param((12, 14), id='even', marks=pytest.mark.slow), pytest.param((11, 9), id='odd')]
)
@pytest.mark.parametrize(
    'is_training', [pytest.param(False, id='inference', marks=pytest.mark.slow), pytest.param(True, id='training')]
)
@pytest.mark.parametrize('settings', CASES)
def test_forward_parity_in_double(settings, is_training, size, double):
    """Each output and running statistic agrees to 1e-12, at sizes even and odd where the encoder runs."""
    settings = {**settings, 'dtype': 'float64'}
    mine, its, statistics = run(settings, *(extent * settings['encoder_stride'] for extent in size), is_training)
    assert apart(mine, its) < 1e-12
    assert all(relative(first, second) < 1e-12 for first, second in statistics)
    assert mine.dtype == np.float64 and (len(statistics) > 0 or settings['norm'] != 'batch')


@pytest.mark.parametrize('is_training', [False, True], ids=['inference', 'training'])
@pytest.mark.parametrize('settings', [FULL_CASES[0], FULL_CASES[2], FULL_CASES[3], CASES[-1]])
def test_forward_parity_in_single(settings, is_training):
    """The same at 1e-5 in float32."""
    stride = settings['encoder_stride']
    mine, its, statistics = run(settings, 33 // stride * stride, 27 // stride * stride, is_training)
    assert apart(mine, its) < 1e-5
    assert all(relative(first, second) < 1e-5 for first, second in statistics)


@pytest.mark.parametrize('is_training', [False, True], ids=['inference', 'training'])
def test_half_precision_is_close(is_training):
    """Both in bfloat16, from float32 parameters: within its rounding of one another, and not float32 in disguise."""
    settings = {**SMALL, 'dtype': 'bfloat16'}
    mine, its, _ = run(settings, 24, 28, is_training)
    assert mine.dtype == its.dtype == np.float32
    assert 1e-4 < apart(mine, its) < 0.06
    _, _, twin = make(settings)
    seen = []
    twin.C_2.conv.register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    assert twin(images(24, 28, 'float32')[1]).rain.dtype == torch.float32
    assert seen == [torch.bfloat16]


@functools.lru_cache(maxsize=1)
def differentiated(size):
    """Parameters, the twin, and what gives (outputs, gradients) of parameters and the outputs' cotangents.

    It is compiled once for the losses of all variants.
    """
    network, variables, twin = make({**dict(size), 'dtype': 'float64'})
    rainy, _ = images(20, 24, 'float64')

    def forward(params):
        output, _ = network.apply({**variables, 'params': params}, rainy, train=True, mutable=['batch_stats'])
        return output.rain, output.aux_rain

    def both(params, cotangents):
        outputs, pull = jax.vjp(forward, params)
        return outputs, pull(cotangents)[0]

    return variables['params'], twin, jax.jit(both), jax.eval_shape(forward, variables['params'])


@pytest.mark.parametrize(
    ('variant', 'size'),
    [
        pytest.param(variant, size, id=f'{variant}-{name}', marks=() if is_fast else pytest.mark.slow)
        for name, size in (('full', FULL), ('small', SMALL))
        for variant in VARIANTS
        for is_fast in [(variant, name) == ('V4', 'small')]
    ],
)
def test_gradient_parity(variant, size, double):
    """Gradients of the total loss of each variant agree to 1e-9 for every parameter; so do the terms."""
    from qsnet_jax import losses

    config = default.get_config()
    config.loss.update(VARIANTS[variant])
    params, twin, both, shapes = differentiated(tuple(size.items()))
    rainy, rainy_theirs = images(20, 24, 'float64')
    clean, clean_theirs = images(20, 24, 'float64', seed=2)

    @functools.partial(jax.value_and_grad, has_aux=True)
    def loss_fn(outputs):
        return losses.total(*outputs, rainy, clean, config.loss)

    outputs, _ = both(params, jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes))
    (loss, terms), cotangents = jax.jit(loss_fn)(outputs)
    _, gradients = both(params, cotangents)
    twin.zero_grad()
    twin.train()
    loss_theirs, terms_theirs = torch_twin.total_loss(twin(rainy_theirs), rainy_theirs, clean_theirs, config.loss)
    loss_theirs.backward()
    assert float(loss) == pytest.approx(loss_theirs.item(), rel=1e-12)
    for name in losses.TERMS:
        assert float(terms[name]) == pytest.approx(terms_theirs[name].item(), rel=1e-12, abs=1e-300)
    found = {name: parameter.grad for name, parameter in twin.named_parameters()}
    expected = {name: value for name, value in torch_twin.to_torch({'params': gradients}).items() if name in found}
    assert expected.keys() == found.keys()
    # Biases between depthwise convolution and the next norm have no effect: their gradient is 0 but for rounding.
    floor = 1e-6 * max(value.abs().max().item() for value in expected.values())
    for name, value in expected.items():
        assert found[name] is not None, name
        assert relative(value.numpy(), found[name].numpy(), floor) < 1e-9, name


@pytest.mark.slow
def test_fifty_adam_steps_agree(double):
    """From the same start on the same batches: parameters and running statistics within 1e-7."""
    config = default.get_config()
    config.model.update({**SMALL, 'dtype': 'float64'})
    config.train.update({'schedule': 'cosine', 'steps': 50})
    config.data.update({'crop': 16, 'batch': 2})
    state = train.init_state(config)
    twin = torch_twin.QSNet(config.model.to_dict())
    twin.load_state_dict(torch_twin.to_torch(train.export(state)))
    twin.train()
    optimizer = torch.optim.Adam(twin.parameters(), lr=config.train.learning_rate)
    network = model.from_config(config.model)
    step_fn = jax.jit(functools.partial(train.train_step, network=network, settings=config.train, weights=config.loss))
    generator = np.random.default_rng(0)
    for _ in range(50):
        clean = generator.integers(0, 200, (2, 16, 16, 3), dtype=np.uint8)
        batch = {'rainy': clean + generator.integers(0, 55, (2, 16, 16, 1), dtype=np.uint8), 'clean': clean}
        state, metrics = step_fn(state, batch)
        rainy, clean = (torch.from_numpy(batch[side].transpose(0, 3, 1, 2) / 255) for side in ('rainy', 'clean'))
        optimizer.param_groups[0]['lr'] = float(metrics['learning_rate'])
        optimizer.zero_grad()
        loss, _ = torch_twin.total_loss(twin(rainy), rainy, clean, config.loss)
        loss.backward()
        optimizer.step()
        assert loss.item() == pytest.approx(float(metrics['total']), rel=1e-7)
    start = torch_twin.to_torch(train.export(train.init_state(config)))
    moved = []
    for name, value in torch_twin.to_torch(train.export(state)).items():
        if 'num_batches' not in name:
            # 1e-3, the size of one step: biases without effect stay at rounding errors of 0, and so do means they add.
            assert relative(value.numpy(), twin.state_dict()[name].numpy(), floor=1e-3) < 1e-7, name
            if value.dim() == 4:
                moved.append(relative(start[name].numpy(), value.numpy()))
    assert min(moved) > 0.005  # every kernel did train


def break_group(state):
    """Two groups of one convolution's kernel exchanged."""
    weight = state['unit_1.reduce.conv.weight']
    third = weight.shape[0] // 3
    state['unit_1.reduce.conv.weight'] = torch.cat([weight[third : 2 * third], weight[:third], weight[2 * third :]])


def test_a_swapped_group_breaks_parity():
    """The comparison would notice groups in another order."""
    network, variables, twin = make(SMALL)
    ours, theirs = images(24, 28, 'float32')
    expected = np.asarray(network.apply(variables, ours).rain).transpose(0, 3, 1, 2)
    assert relative(twin.eval()(theirs).rain.detach().numpy(), expected) < 1e-5
    state = twin.state_dict()
    break_group(state)
    twin.load_state_dict(state)
    assert relative(twin(theirs).rain.detach().numpy(), expected) > 1e-3


@pytest.mark.parametrize('place', ['unit_1', 'A_3', 'main', 'scales'])
def test_a_missing_shuffle_breaks_parity(place):
    """The comparison would notice a shuffle left out of a unit, a decoder, or between the scales."""
    network, variables, twin = make(SMALL)
    ours, theirs = images(24, 28, 'float32')
    output = network.apply(variables, ours)
    expected = np.stack([output.rain, *output.aux_rain]).transpose(0, 1, 4, 2, 3)
    if place == 'scales':
        twin.share_scales = 'none'
    elif place == 'unit_1':
        twin.unit_1.groups = 1
    else:
        twin.get_submodule(place).share = False
    found = twin.eval()(theirs)
    found = np.stack([rain.detach().numpy() for rain in (found.rain, *found.aux_rain)])
    assert relative(found, expected) > 1e-3


@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', '.pt'])
@pytest.mark.parametrize('norm', ['batch', 'instance', 'none'])
def test_round_trip_is_exact(norm, suffix, tmp_path):
    """linen -> torch -> file -> linen returns every bit, the settings and the record; eval and derain read it too."""
    settings = {**SMALL, 'norm': norm}
    _, variables, twin = make(settings)
    path = tmp_path / f'weights{suffix}'
    torch_twin.save_weights(path, variables, settings, {'commit': 'abc'})
    for read in (torch_twin.load_weights, files.load_weights):
        found, found_settings = read(path)
        assert found_settings == settings
        flat, expected = (flax.traverse_util.flatten_dict(tree, sep='/') for tree in (found, variables))
        assert flat.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_array_equal(flat[key], value, err_msg=key)
    assert files.load_record(path) == {'commit': 'abc'}
    loaded = torch_twin.load(path)
    for key, value in twin.state_dict().items():
        assert torch.equal(loaded.state_dict()[key], value), key
    assert not loaded.training


def test_the_network_loads_from_our_own_files(tmp_path):
    """torch_twin.load reads what training writes, and restores an image as the Derainer does, to one level."""
    _, variables, _ = make(SMALL)
    files.save_weights(tmp_path / 'weights.safetensors', variables, SMALL)
    image = np.random.default_rng(0).integers(256, size=(50, 41, 3), dtype=np.uint8)
    theirs = torch_twin.Derainer(torch_twin.load(tmp_path / 'weights.safetensors'))(image)
    ours = derain.Derainer(variables, SMALL)(image)
    assert theirs.shape == image.shape and theirs.dtype == np.uint8
    difference = np.abs(theirs.astype(int) - ours)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3  # ties of rounding


@pytest.mark.parametrize(('size', 'stride'), [((1, 1), 1), ((3, 4), 1), ((1, 9), 4)])
def test_small_images_come_out_as_with_jax(size, stride):
    """Also where the stem's margin is wider than they are."""
    settings = {**SMALL, 'encoder_stride': stride}
    _, variables, twin = make(settings)
    image = np.random.default_rng(0).integers(256, size=(*size, 3), dtype=np.uint8)
    theirs = torch_twin.Derainer(twin).restore(image, scales=True)
    assert theirs.shape == (6, *size, 3)
    assert np.abs(theirs.astype(int) - derain.Derainer(variables, settings).restore(image, scales=True)).max() <= 1


@pytest.mark.parametrize('image', [np.zeros((1, 8, 8, 3), np.uint8), np.zeros((8, 8), np.uint8), None])
def test_the_twin_refuses_what_is_no_image(image):
    """In the words of the other Derainer."""
    with pytest.raises(UserError, match='expected uint8'):
        torch_twin.Derainer(make(SMALL)[2])(image)


def test_every_reader_takes_the_files_of_both(tmp_path):
    """By names of the package too; settings that are given count where a file holds none."""
    expected = files.load_weights('default')
    for settings in (None, expected[1], SMALL):
        variables, found = torch_twin.load_weights('default', settings)
        assert found == expected[1]
        jax.tree.map(np.testing.assert_array_equal, variables, expected[0])
    assert torch_twin.load_record('default') == files.load_record('default')
    assert torch_twin.load('default', SMALL).fields == model.from_config(expected[1])
    torch_twin.save_weights(tmp_path / 'theirs.pth', *expected)
    assert torch_twin.load(tmp_path / 'theirs.pth', SMALL).fields == model.from_config(expected[1])


def test_both_restore_with_the_weights_of_the_package_alike():
    """Of drawn heavy rain, the result and every scale's own, to one level at ties of rounding."""
    rain = sets.open_source('drawn_heavy', default.get_config().data, 'eval', sources.Cache(0))
    image = rain.load(0)[0][:150, :170]
    ours, theirs = (
        each.restore(image, scales=True) for each in (derain.load(), torch_twin.Derainer(torch_twin.load('default')))
    )
    assert theirs.shape == ours.shape == (6, 150, 170, 3)
    difference = np.abs(theirs.astype(int) - ours)
    assert difference.max() <= 1 and (difference > 0).mean() < 1e-3
    assert np.abs(ours[0].astype(int) - image).mean() > 5  # and rain is what they removed


def test_scores_of_the_twin_are_those_of_the_network(tiny_config, tmp_path):
    """eval with either framework: the same tables to a thousandth of a decibel, of the result and of every scale."""
    variables, settings = files.load_weights('default')
    results = [
        study.score(tiny_config, tmp_path / name, derainer, {'commit': 'abc'}, {'framework': name})['pairs']
        for name, derainer in (
            ('jax', derain.Derainer(variables, settings)),
            ('torch', torch_twin.Derainer(torch_twin.build(variables, settings))),
        )
    ]
    assert [each['provenance']['framework'] for each in results] == ['jax', 'torch']
    for protocol in ('rgb', 'y'):
        for ours, theirs in zip(*([each, *each['scales'].values()] for each in results), strict=True):
            assert ours[protocol]['psnr'] == pytest.approx(theirs[protocol]['psnr'], abs=1e-3)
            assert ours[protocol]['ssim'] == pytest.approx(theirs[protocol]['ssim'], abs=1e-5)


def test_a_twin_goes_back_by_its_own_settings(tmp_path):
    """What was trained in PyTorch is read here; settings of another network end in one line."""
    _, variables, twin = make(SMALL)
    back = torch_twin.from_torch(twin.state_dict(), twin.settings)
    jax.tree.map(np.testing.assert_array_equal, back, variables)
    few = torch_twin.QSNet({'channels': 12, 'units': 1, 'scale_channels': 6})
    torch_twin.save_weights(tmp_path / 'few.pth', torch_twin.from_torch(few.state_dict(), few.settings), few.settings)
    assert torch_twin.load_weights(tmp_path / 'few.pth')[1] == few.settings
    with pytest.raises(UserError, match='The variables are not those of a network of these settings: '):
        torch_twin.build(variables, {})


def test_foreign_files_are_refused_with_what_is_wrong(tmp_path):
    """Missing, extra and wrongly shaped entries by name; no settings; no state_dict; a pickle; nothing there."""
    _, variables, twin = make(SMALL)
    path = tmp_path / 'weights.pth'
    state = twin.state_dict()
    torch.save(state, path)
    assert torch_twin.load_weights(path, SMALL)[1] == SMALL
    with pytest.raises(UserError, match='holds no settings'):
        torch_twin.load_weights(path)
    state['other'] = state.pop('unit_1.reduce.conv.weight')
    state['main.rain.bias'] = torch.zeros(4)
    torch.save(state, path)
    message = r'1 missing: unit_1\.reduce\.conv\.weight; 1 extra: other; 1 wrong shape: main\.rain\.bias is \(4,\), exp'
    with pytest.raises(UserError, match=message):
        torch_twin.load(path, SMALL)
    torch.save([1, 2], path)
    with pytest.raises(UserError, match='holds no state_dict'):
        torch_twin.load_weights(path, SMALL)
    torch.save({'a': 1}, path)
    with pytest.raises(UserError, match='holds no state_dict'):
        torch_twin.load_weights(path, SMALL)
    torch.save({'a': fractions.Fraction(1, 2)}, path)  # an object of a class: would run code when read
    with pytest.raises(UserError, match='not a readable state_dict'):
        torch_twin.load_weights(path, SMALL)
    state = twin.state_dict()
    state['main.rain.bias'][0] = torch.nan
    torch.save(state, path)
    with pytest.raises(UserError, match=r'values that are not finite: main\.rain\.bias'):
        torch_twin.load_weights(path, SMALL)
    torch.save({3: torch.zeros(1)}, path)
    with pytest.raises(UserError, match='the tensors make 0'):
        torch_twin.load_weights(path, SMALL)
    for broken in ({'other': 1}, {**SMALL, 'channels': '24'}, [1], {}):
        torch_twin.save_weights(path, variables, SMALL)
        content = torch.load(path, weights_only=True)
        torch.save({**content, 'settings': json.dumps(broken)}, path)
        with pytest.raises(UserError):
            files.load_weights(path)
    path.write_bytes(b'nothing')
    with pytest.raises(UserError, match='not a readable state_dict'):
        torch_twin.load_weights(path, SMALL)
    with pytest.raises(UserError, match='does not exist'):
        torch_twin.load_weights(tmp_path / 'none.pth', SMALL)
    with pytest.raises(UserError, match=r'must end in \.safetensors'):
        torch_twin.save_weights(tmp_path / 'weights.bin', variables, SMALL)


def test_half_precision_files_become_single(tmp_path):
    """Weights that somebody stored in bfloat16 are read as float32."""
    _, variables, twin = make(SMALL)
    torch.save({name: value.to(torch.bfloat16) for name, value in twin.state_dict().items()}, tmp_path / 'half.pth')
    found, _ = torch_twin.load_weights(tmp_path / 'half.pth', SMALL)
    assert {value.dtype for value in jax.tree.leaves(found)} == {jnp.dtype('float32')}


def test_settings_and_sizes_that_do_not_fit_are_refused():
    """By the same rules as the linen network."""
    with pytest.raises(UserError, match='multiple of 4 x groups'):
        torch_twin.QSNet({**FULL, 'channels': 100})
    with pytest.raises(UserError, match='multiples of encoder_stride = 2'):
        torch_twin.QSNet({**SMALL, 'encoder_stride': 2})(torch.zeros(1, 3, 9, 8))


@pytest.mark.parametrize('dtype', ['float32', 'tf32', 'bfloat16'])
def test_images_are_restored_in_the_precision_of_the_network(dtype):
    """On a card, TF32 for 'tf32' alone, whatever was set; afterwards it is set as before."""
    places, seen = (torch.backends.cudnn, torch.backends.cuda.matmul), []
    _, _, twin = make({**SMALL, 'dtype': dtype})
    twin.main.register_forward_hook(lambda *_: seen.append([place.allow_tf32 for place in places]))
    for before in (False, True):
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = before
        torch_twin.Derainer(twin)(np.zeros((8, 9, 3), np.uint8))
        assert seen.pop() == [dtype == 'tf32'] * 2
        assert [place.allow_tf32 for place in places] == [before] * 2
    torch.backends.cuda.matmul.allow_tf32 = False


def test_the_callers_autocast_is_respected():
    """A float32 network inside somebody's own autocast computes in bfloat16."""
    _, _, twin = make(SMALL)
    rainy = images(24, 28, 'float32')[1]
    plain = twin.eval()(rainy).rain
    with torch.autocast('cpu', torch.bfloat16):
        assert not torch.equal(twin(rainy).rain, plain)


def test_the_package_works_without_torch():
    """In a process without PyTorch everything else imports, and the twin says how to get it."""
    import subprocess
    import sys

    program = (
        "import sys; sys.modules['torch'] = None\n"
        'from qsnet_jax import UserError, derain, main\n'
        'from qsnet_jax.data import prepare\nfrom qsnet_jax.evidence import evaluate\n'
        'from qsnet_jax.training import train\nfrom qsnet_jax.weights import files\n'
        'try:\n    from qsnet_jax.peers import compare\n'
        "except UserError as error:\n    print('said:', error)\n"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'said: The PyTorch twin needs PyTorch: pip install torch' in done.stdout
