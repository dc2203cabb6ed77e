"""What would run on a card, on a machine without one: the forms as they are lowered, and as XLA compiles them."""

import json
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest
from jax import export
from qsnet_jax.configs import bench as bench_config

from qsnet_jax import UserError, fields
from qsnet_jax.evidence import shapes
from qsnet_jax.peers import bench, cards, compiled, hlo

TINY = {'channels': 12, 'units': 1, 'scale_channels': 6, 'rates': (1,)}
WIDE = {'channels': 108, 'units': 1, 'scale_channels': 48, 'rates': (2,)}


def config(networks, **settings):
    """The smallest config that compiles something for a card."""
    result = bench_config.get_config('h100')
    result.bench.models = networks
    shapes = {'sizes': (16,), 'batches': (1,), 'training': ((2, 16),)}
    result.bench.update({**shapes, 'precisions': ('bfloat16',), **settings})
    return result


@pytest.fixture
def card():
    """A card that XLA compiles for; skips without its compiler, the extra [aot]."""
    try:
        return compiled.described(cards.CARDS['h100'])
    except UserError as error:
        pytest.skip(str(error))


@pytest.mark.usefixtures('lenient_promotion')
@pytest.mark.parametrize('is_training', [False, True])
@pytest.mark.parametrize('network', [TINY, pytest.param(WIDE, marks=pytest.mark.slow)])
def test_the_form_of_cards_is_convolutions_and_nothing_slow(network, is_training):
    """Lowered for CUDA, without it: no grouped convolution, no loop, no call that only one backend knows."""
    case = {'model': 'one', 'form': 'dense', 'precision': 'bfloat16', 'training': is_training, 'remat': False}
    program = compiled.program(config({'one': network}), {**case, 'batch': 2, 'size': 16})
    text = export.export(program.function, platforms=['cuda'])(*program.arguments).mlir_module()
    groups = [int(number) for number in re.findall(r'feature_group_count = (\d+)', text)]
    assert len(groups) > 10 and set(groups) == {1}
    assert set(map(int, re.findall(r'batch_group_count = (\d+)', text))) == {1}
    assert 'stablehlo.while' not in text and 'stablehlo.custom_call' not in text


@pytest.mark.slow
@pytest.mark.usefixtures('lenient_promotion')
def test_compiled_for_a_card_everything_is_fused(card, tmp_path):
    """Inference: one library call a convolution, with norm and ReLU in it, and nothing that prepares weights."""
    path = bench.bench(config({'one': TINY}, forms=('dense',)), tmp_path)
    report = json.loads(path.read_text())
    inference, training, again = report['cases']
    assert [case['training'] for case in report['cases']] == [False, True, True]
    assert 0 < inference['launches'] < 40 < training['launches'] < again['launches']
    assert all(case[name] > 0 for case in report['cases'] for name in ('bytes', 'operations', 'memory_mib'))
    assert all(case['model_ms_per_image'] > 0 < case['floor_ms_per_image'] for case in report['cases'])
    assert 'one, training, remat, 2 x 16 x 16' in path.with_suffix('.md').read_text()
    case = {**inference, 'size': 32}
    text = compiled._compile(compiled.program(config({'one': TINY}), case, card).lower()).as_text()
    kinds = [launch.kind for launch in hlo.launches(text)]
    assert kinds.count('__cudnn$convBiasActivationForward') >= 13


@pytest.mark.slow
def test_what_cannot_be_compiled_is_named(tmp_path, monkeypatch):
    """The other programs are counted all the same, and the command fails at its end."""
    whole = compiled.count

    def count(lowered, card, case):
        if case['form'] == 'fused':
            raise RuntimeError('no such\nbackend')
        return {**whole(lowered, card, case), 'launches': 3}

    monkeypatch.setattr(compiled, 'described', lambda card: jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    monkeypatch.setattr(compiled, '_compile', lambda lowered: lowered.compile())
    monkeypatch.setattr(compiled, 'count', count)
    with pytest.raises(UserError, match='the table says why: one, inference, 1 x 16 x 16, bfloat16, fused'):
        bench.bench(config({'one': TINY}, forms=('dense', 'fused'), training=()), tmp_path)
    page = (tmp_path / 'compiled-h100.md').read_text()
    assert 'fused | could not be compiled: no such backend |' in page
    assert 'one, inference, 1 x 16 x 16, bfloat16, dense | 3 |' in page
    assert shapes.faults({**json.loads((tmp_path / 'compiled-h100.json').read_text()), 'kind': 'compiled'}) == []


def test_an_unknown_card_is_refused(tmp_path):
    """With the names of those that are known."""
    with pytest.raises(UserError, match='h100, a100, rtx4090'):
        bench.bench(config({'one': TINY}, card='h1000'), tmp_path)
    with pytest.raises(ValueError, match=':h100, :a100, :rtx4090'):
        bench_config.get_config('h1000')


@pytest.mark.parametrize('name', cards.CARDS)
def test_cards_are_described(name):
    """Every line is `field: value` or `message { ... }`, and braces close."""
    text = cards.target(cards.CARDS[name])
    assert text.count('{') == text.count('}')
    assert all(re.match(r'^\s*(\w+(: \S.*| \{.*)|\})$', line) for line in text.splitlines())
    assert cards.CARDS[name].flops['bfloat16'] > cards.CARDS[name].flops['float32'] / 2


PROGRAM = """HloModule jit_f

%fused (param_0: bf16[8,4,4,16], param_1: bf16[8,4,4,8]) -> bf16[8,4,4,8] {
  %param_0 = bf16[8,4,4,16]{3,2,1,0} parameter(0)
  %slice.1 = bf16[8,4,4,8]{3,2,1,0} slice(%param_0), slice={[0:8], [0:4], [0:4], [0:8]}
  %param_1 = bf16[8,4,4,8]{3,2,1,0} parameter(1)
  ROOT %add.1 = bf16[8,4,4,8]{3,2,1,0} add(%slice.1, %param_1)
}

ENTRY %main (x: bf16[8,4,4,16], k: bf16[8,3,3,8]) -> bf16[8,4,4,8] {
  %x = bf16[8,4,4,16]{3,2,1,0} parameter(0)
  %k = bf16[8,3,3,8]{3,2,1,0} parameter(1)
  %y = bf16[8,4,4,8]{3,2,1,0} slice(%x), slice={[0:8], [0:4], [0:4], [8:16]}
  %conv.1 = (bf16[8,4,4,8]{3,2,1,0}, u8[0]{0}) custom-call(%y, %k), window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward", metadata={op_name="jit(f)/conv"}
  %result = bf16[8,4,4,8]{3,2,1,0} get-tuple-element(%conv.1), index=0
  ROOT %add_fusion.7 = bf16[8,4,4,8]{3,2,1,0} fusion(%x, %result), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/add"}, backend_config={"reification_cost":[{"end_to_end_cycles":10,"exec_time_us":2.5}]}
}
"""  # noqa: E501


def test_launches_are_counted_from_the_text():
    """By hand: 2048 bytes a map of 8 channels; a fusion reads of an array what it slices; a convolution's products."""
    slicing, convolution, sum_ = hlo.launches(PROGRAM)
    assert (slicing.kind, slicing.bytes) == ('slice', 4096 + 2048)
    assert convolution.kind == '__cudnn$convForward' and convolution.source == 'jit(f)/conv'
    assert convolution.bytes == 2048 + 2 * 8 * 9 * 8 + 2048
    assert convolution.operations == 2 * (8 * 4 * 4 * 8) * 9 * 8
    assert (sum_.kind, sum_.bytes, sum_.operations) == ('add_fusion', 3 * 2048, 0)
    assert sum_.estimate == pytest.approx(2.5e-6)


@pytest.mark.slow
def test_gradients_cost_as_much_as_what_they_are_of(card):
    """Of a convolution of 16 -> 8 channels, for input and kernel, as many operations each as forward."""

    def forward(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), 'SAME', dimension_numbers=('NHWC', 'OHWI', 'NHWC'))

    x, kernel = (jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=card) for shape in ((2, 64, 64, 16), (8, 3, 3, 16)))
    operations = []
    for function in (forward, jax.grad(lambda *given: jnp.sin(forward(*given)).sum(), (0, 1))):
        text = compiled._compile(jax.jit(function).lower(x, kernel)).as_text()
        operations.append(sum(launch.operations for launch in hlo.launches(text)))
    assert operations[0] == 2 * (2 * 64 * 64 * 8) * 9 * 16
    assert operations[1] == pytest.approx(3 * operations[0])


@pytest.mark.parametrize(
    'where, name',
    [
        *((card, f'compiled-{card}') for card in bench_config.CARDS),
        *(('cpu', 'cpu-2-cores'), ('sharing', 'sharing-cpu-2-cores')),
    ],
)
def test_published_reports_can_be_made_anew(where, name):
    """By the command that the page prints, also those that are older than some settings."""
    path = pathlib.Path(__file__).parents[2] / f'results/bench/{name}.json'
    before = compiled.told(json.loads(path.read_text()))
    config = json.loads(bench_config.get_config(where).to_json())
    now = compiled.told({'provenance': {'config': config, 'processor': before['processor']}})
    assert not fields.differences(before, now, ('data.root',))
    now['bench']['rounds'] = 3
    assert fields.differences(before, now, ('data.root',)) == ['bench.rounds is 7 there and 3 here']
