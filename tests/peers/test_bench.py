"""What the harness reports adds up, and peers that cannot run are named."""

import json
import logging
import pathlib
import re
import time

import numpy as np
import pytest
from qsnet_jax.configs import bench as bench_config

from qsnet_jax import UserError, model, storage
from qsnet_jax.peers import bench, bench_page, choices, contenders, machine

pytestmark = pytest.mark.usefixtures('lenient_promotion')
TINY = {'channels': 12, 'units': 1, 'scale_channels': 6, 'rates': (1,)}


def tiny(**settings):
    """The smallest config that times something."""
    config = bench_config.get_config('small')
    config.bench.models = {'tiny': TINY}
    config.bench.update({'sizes': (16, 32), 'batches': (1,), 'training': ((2, 16),), 'rounds': 3, 'peers': False})
    config.bench.update(settings)
    return config


@pytest.mark.slow
def test_report_holds_every_case_and_adds_up(tmp_path):
    """Rates follow from the times, ours has ratio 1, parts are there, and all three files are written."""
    path = bench.bench(tiny(), tmp_path)
    report = json.loads(path.read_text())
    cases = report['cases']
    assert [(case['size'], case['training']) for case in cases] == [(16, False), (32, False), (16, True)]
    for case in cases:
        ours = case['peers']['JAX']
        assert ours['ratio'] == 1
        assert ours['seconds']['lowest'] <= ours['seconds']['median'] <= ours['seconds']['highest']
        assert ours['images_per_second'] == pytest.approx(case['batch'] / ours['seconds']['median'])
        assert ours['megapixels_per_second'] == pytest.approx(ours['images_per_second'] * case['size'] ** 2 / 1e6)
        assert ours['memory_mib'] > 0
        assert case['gmac'] > 0
    assert cases[1]['gmac'] == pytest.approx(4 * cases[0]['gmac'])
    parts = {'stem', 'encoder', 'scales', 'auxiliary decoders', 'main decoder'}
    assert parts <= set(cases[0]['parts']) and not cases[1]['parts']  # where they are: at the first size alone
    assert parts | {'loss', 'gradients and optimiser'} <= set(cases[2]['parts'])
    assert set(cases[0]['peers']) == {'JAX', 'JAX plain'}
    assert report['ceilings']['float32']['tflops'] > 0
    assert report['provenance']['config']['bench']['rounds'] == 3
    assert path.with_suffix('.png').stat().st_size > 0
    assert 'tiny, training, 2 x 16 x 16' in path.with_suffix('.md').read_text()


@pytest.mark.slow
def test_peers_run_or_are_named(tmp_path):
    """Every peer has either a time or a reason; the twin, which the tests install, has times."""
    pytest.importorskip('torch')
    path = bench.bench(tiny(peers=True, sizes=(16,), rounds=1), tmp_path)
    inference, training = json.loads(path.read_text())['cases']
    names = {'JAX', 'JAX plain', 'PyTorch NCHW', 'PyTorch NHWC', 'torch.compile', 'ONNX Runtime', 'OpenVINO'}
    assert set(inference['peers']) | set(inference['absent']) == names
    assert {'PyTorch NCHW', 'PyTorch NHWC'} <= set(inference['peers'])
    assert set(training['peers']) == {'JAX', 'PyTorch NCHW', 'PyTorch NHWC'}
    assert all(reason for reason in inference['absent'].values())


@pytest.mark.parametrize(
    'name, value, message',
    [
        ('training', (2, 32), 'expected pairs of images and side'),
        ('training', ((2, 0),), 'expected pairs of images and side'),
        ('beside', 'foo', "bench.beside is 'foo'; expected one of tiny, or none"),
        ('precisions', (), 'bench.precisions is empty'),
        ('sizes', (64.5,), 'whole numbers from 1'),
        ('sizes', (0, 32), 'whole numbers from 1'),
        ('batches', (0,), 'whole numbers from 1'),
        ('precisions', ('float8',), "bench.precisions holds 'float8'"),
        ('rounds', 0, 'at least 1'),
    ],
)
def test_what_cannot_be_timed_is_refused(tmp_path, monkeypatch, name, value, message):
    """Before anything is."""
    monkeypatch.setattr(bench, '_measure', lambda *_: pytest.fail('a case was timed'))
    with pytest.raises(UserError, match=re.escape(message)):
        bench.bench(tiny(**{name: value}), tmp_path)
    assert not list(tmp_path.iterdir())


def test_notes_in_the_place_of_the_page_stay(tmp_path):
    """Neither a page nor a plot that no record of ours stands beside is replaced."""
    config = tiny()
    path = (tmp_path / bench._name(config.bench)).with_suffix('.md')
    path.write_text('my notes')
    with pytest.raises(UserError, match=r'\.md would be replaced, and no .*json beside it says that this'):
        bench.bench(config, tmp_path)
    assert path.read_text() == 'my notes'


def test_the_first_network_or_every_one_takes_all_shapes():
    """The others one of inference and one of training."""
    settings = tiny(batches=(1, 2), training=((2, 16), (4, 16))).bench
    settings.models = {'a': {}, 'b': {}}
    assert [case['model'] for case in bench._cases(settings)] == ['a'] * 6 + ['b'] * 2
    settings.every = True
    found = [(case['batch'], case['size'], case['training']) for case in bench._cases(settings)]
    inference = [(1, 16, False), (2, 16, False), (1, 32, False), (2, 32, False)]
    assert found == [*inference, (2, 16, True), (4, 16, True)] * 2


def test_everybody_takes_a_turn_in_every_round():
    """A round runs all, in changing order; calls that last are not repeated."""
    order = []

    def make(name):
        def call():
            order.append(name)
            time.sleep(0.03)

        return call

    times = machine.take_turns({name: make(name) for name in 'abc'}, 4)
    rounds = [order[start : start + 3] for start in range(0, len(order), 3)]
    assert [sorted(names) for names in rounds] == [list('abc')] * 5  # one before, for how long they take
    assert len({tuple(names) for names in rounds}) > 1
    assert all(len(found) == 4 and min(found) >= 0.03 for found in times.values())


@pytest.mark.slow
def test_failures_are_findings(tmp_path, monkeypatch):
    """One that cannot start is named with its reason, ours included, and the rest goes on."""

    def broken(*_):
        raise MemoryError('no | room\nleft')

    monkeypatch.setattr(contenders, 'parts', lambda *_: {})
    monkeypatch.setattr(contenders, 'training', lambda *_: iter([('JAX', broken), ('other', broken)]))
    with pytest.raises(ValueError, match='training.*no / room left'):
        bench.bench(tiny(sizes=(16,)), tmp_path)
    (path,) = tmp_path.glob('*.json')
    inference, training = json.loads(path.read_text())['cases']
    assert inference['peers']['JAX']['ratio'] == 1
    assert training['peers'] == {}
    assert training['absent']['other'] == 'no / room left'


def test_a_first_try_replaces_no_timings(tmp_path, monkeypatch):
    """It has a name of its own; other settings or another processor under one name are refused, before any case."""
    names = [bench._name(bench_config.get_config(where).bench) for where in ('cpu', 'small', 'choices', 'sharing')]
    assert [name.split('-')[0] for name in names] == ['cpu', 'small', 'choices', 'sharing']
    monkeypatch.setattr(machine, 'ceilings', lambda _: {})
    stem = tmp_path / names[1]
    storage.write_json(stem.with_suffix('.json'), bench._begin(tiny(), stem))
    assert bench._begin(tiny(), stem)['cases'] == []
    words = r'bench\.rounds is 3 there and 5 here\. Remove it, or give --config\.bench\.name'
    with pytest.raises(UserError, match=words):
        bench.bench(tiny(rounds=5), tmp_path)
    monkeypatch.setattr(machine, 'processor', lambda: 'another one')
    with pytest.raises(UserError, match="processor is '.*' there and 'another one' here"):
        bench.bench(tiny(), tmp_path)


def test_the_weights_of_the_package_run_as_runtime_runs_them(monkeypatch):
    """On the bytes of an image; every other network as a graph of its shape, and its exporter tells nothing."""
    config = bench_config.get_config('choices')
    config.bench.models = {'default, light': TINY}
    config.bench.sizes = (16,)
    asked, ran = [], set()

    def take(image):
        ran.add((image.dtype.name, image.shape))

    monkeypatch.setattr(contenders.runtimes, 'load', lambda *given: asked.append(given) or take)
    monkeypatch.setattr(contenders, 'parts', lambda *_: {})
    inference = contenders.inference
    monkeypatch.setattr(contenders, 'inference', lambda *given: [*inference(*given)][-2:])
    (case,) = bench._cases(config.bench)
    found = bench._measure(config, case)
    assert set(found['peers']) == {'ONNX Runtime', 'OpenVINO'} and not found['absent']
    assert asked == [('default', 'onnxruntime'), ('default', 'openvino')]
    assert ran == {('uint8', (1, 16, 16, 3))}


def test_a_graph_is_exported_without_a_word(monkeypatch, capfd, caplog):
    """Of packages that it does not need; what comes out is run on floats of its shape."""
    torch = pytest.importorskip('torch')

    class Program:
        class model_proto:
            SerializeToString = staticmethod(lambda: b'graph')

    def export(network, arguments, **options):
        print('torchvision is not installed')
        logging.getLogger('torch.onnx._internal').warning('torchvision is not installed')
        assert network(*arguments).shape == (1, 3, 16, 16) and options['input_names'] == ['rainy']
        return Program

    ran = []
    monkeypatch.setattr(torch.onnx, 'export', export)
    monkeypatch.setattr(torch, 'set_num_threads', lambda _: None)  # of other tests
    monkeypatch.setattr(contenders.runtimes, 'need', lambda _: None)
    monkeypatch.setattr(contenders.runtimes, 'session', lambda *given: lambda image: ran.append((given, image)))
    config = tiny()
    config.model.update(TINY)
    variables = model.initialize(model.from_config(config.model), 0)
    contenders._runtime_call(config, np.zeros((1, 16, 16, 3), np.uint8), variables, 'openvino')[0]()
    ((given, image),) = ran
    assert given == ('openvino', b'graph') and image.shape == (1, 3, 16, 16) and image.dtype == np.float32
    assert capfd.readouterr() == ('', '') and not caplog.records


def test_other_configs_are_refused():
    """A config without a bench section says which ones have one."""
    config = tiny()
    del config['bench']
    with pytest.raises(ValueError, match='configs/bench.py'):
        bench.bench(config, None)


def test_what_is_short_is_repeated_and_told_of_one_call():
    """A call of 2 ms lasts 2 ms, though a round runs it until it has lasted 20."""
    times = machine.take_turns({'short': lambda: time.sleep(0.002)}, 3)['short']
    assert 0.002 <= min(times) < 0.015


@pytest.mark.parametrize('is_training, passes', [(False, 1), (True, 3)])
def test_operations_are_those_of_the_median(is_training, passes):
    """Two for each multiplication with its addition; training counts three passes."""
    case = {'batch': 2, 'size': 10, 'training': is_training}
    found = bench._speed(case, 5.0, [1.0, 4.0, 2.0], {contenders.OURS: [2.0, 2.0, 2.0]})
    assert found['tflops'] == pytest.approx(passes * 2 * 5e9 / 2.0 / 1e12)
    assert (found['ratio'], found['images_per_second'], found['megapixels_per_second']) == (1.0, 1.0, 1e-4)


@pytest.mark.slow
def test_choices_are_the_trained_networks_with_their_scores(tmp_path):
    """Every weights file of the package has a line for each runtime, with the score that it holds."""
    config = bench_config.get_config('choices')
    config.bench.update({'sizes': (32,), 'rounds': 1, 'peers': False})
    path = bench.bench(config, tmp_path)
    assert path.name.startswith('choices-')
    lines = path.with_suffix('.md').read_text().splitlines()
    for name in ('default', 'narrow', 'light', 'heavy', 'narrow-light', 'narrow-heavy'):
        scores = choices.quality(name)
        assert scores['psnr'] > scores['input'] or name in ('heavy', 'narrow-heavy')
        (line,) = [line for line in lines if line.startswith(f'| `{name}` | JAX |')]
        assert f'| {scores["psnr"]:.2f} | {scores["ssim"]:.3f} |' in line
    assert path.with_suffix('.png').stat().st_size > 0


@pytest.mark.slow
def test_networks_are_timed_in_the_same_rounds(tmp_path):
    """Each beside the one that is named, here the faster one by far; the parts are left out."""
    more = {'channels': 96, 'units': 6, 'scale_channels': 48, 'rates': (1, 2)}
    path = bench.bench(
        tiny(name='sharing', models={'more': more}, beside='tiny', sizes=(64,), training=(), rounds=9), tmp_path
    )
    cases = {case['model']: case for case in json.loads(path.read_text())['cases']}
    assert path.stem.startswith('sharing-') and set(cases) == {'tiny', 'more'}
    assert path.with_suffix('.md').exists() and not path.with_suffix('.png').exists()
    for case in cases.values():
        assert not case['parts'] and set(case['peers']) == {'JAX', 'JAX, tiny'}
    assert cases['more']['peers']['JAX, tiny']['ratio'] < 0.3


def test_readings_of_the_paper_are_timed_beside_the_network():
    """All that evidence reads, as the config has them."""
    config = bench_config.get_config('sharing').bench
    assert config.beside in config.models and not config.models[config.beside].to_dict()
    assert sum('decoder_groups' in settings for settings in config.models.values()) == 1


def test_memory_in_a_call_is_how_far_it_grows():
    """And not known of what keeps its memory."""
    if not pathlib.Path('/proc/self/clear_refs').exists():
        pytest.skip('only Linux tells')
    assert 60 < machine.peak(lambda: np.ones(2**23)) < 90
    assert machine.peak(lambda: None) is None


def test_memory_on_a_card_is_that_of_the_call_alone(monkeypatch):
    """What the networks before it keep there does not count."""
    gib = 2**30

    class Cuda:
        held, peak = 3 * gib, 3 * gib

        def memory_allocated(self):
            return self.held

        def reset_peak_memory_stats(self):
            self.peak = self.held

        def max_memory_allocated(self):
            return self.peak

    class Torch:
        cuda = Cuda()

    def call():
        Torch.cuda.peak = Torch.cuda.held + gib

    monkeypatch.setattr(contenders.jax, 'default_backend', lambda: 'gpu')
    assert contenders._cuda_peak(Torch, call) == 1024


def test_times_are_told_apart_without_colours(monkeypatch):
    """Each runtime has its mark in both plots of time and in that of the choices, also where one is missing."""
    monkeypatch.setattr(choices, 'quality', lambda _: {'psnr': 30.0, 'ssim': 0.9, 'input': 25.0})
    names = [contenders.OURS, *(f'runtime {number}' for number in range(11))]
    seconds = {'median': 1.0, 'lowest': 0.9, 'highest': 1.1}
    case = {'model': 'net', 'batch': 1, 'size': 32, 'precision': 'float32', 'training': False, 'gmac': 1.0}
    peers = {name: {'seconds': seconds, 'memory_mib': 1.0, 'ratio': 1.0} for name in names}
    fewer = {name: peers[name] for name in names[1:]}
    varied = {'peers': peers}, {'size': 64, 'peers': fewer}, {'batch': 2, 'peers': fewer}
    cases = [{**case, **each} for each in varied]
    pixels, images, ratios = bench_page.draw({'cases': [*cases, {**case, 'model': 'other', 'peers': peers}]}).axes
    for axis in (pixels, images):
        lines = {bar.get_label(): bar.lines[0] for bar in axis.containers}
        looks = {(line.get_marker(), str(line._dash_pattern)) for line in lines.values()}
        assert len(looks) == len(lines) == len(names)
        of_ratios = {line.get_label(): line.get_marker() for line in ratios.lines}
        assert {name: line.get_marker() for name, line in lines.items()} == of_ratios
    (alone,) = bench_page.draw({'cases': cases[:1]}).axes  # nothing varies
    assert len(alone.containers) == len(names)
    (axis,) = choices.draw({'cases': [{**case, 'peers': dict(list(peers.items())[:7])}]}).axes
    assert len({each.get_paths()[0].vertices.tobytes() for each in axis.collections}) == 7
