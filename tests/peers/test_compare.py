"""Both frameworks trained side by side: what is written, and that they start as one."""

import csv
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

torch = pytest.importorskip('torch')
torch.set_num_threads(1)  # waiting threads would take the cores from JAX's

from qsnet_jax import UserError, storage  # noqa: E402
from qsnet_jax.peers import compare  # noqa: E402


@pytest.mark.parametrize(
    ('schedule', 'dtype'), [('plateau', 'float32'), pytest.param('cosine', 'float64', marks=pytest.mark.slow)]
)
def test_comparison_writes_steps_row_and_figure(schedule, dtype, tiny_config, tmp_path, capsys, lenient_promotion):
    """Six steps of both: equal losses to rounding, the row with its record, a picture, a line that says the result."""
    tiny_config.train.update({'steps': 6, 'eval_every': 3, 'schedule': schedule})
    tiny_config.model.dtype = dtype
    with jax.enable_x64(dtype == 'float64'):
        row = compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    with (tmp_path / 'run/compare/steps.csv').open() as file:
        steps = list(csv.DictReader(file))
    assert [step['step'] for step in steps] == list('123456')
    first = {name: float(value) for name, value in steps[0].items() if value and name != 'largest_in'}
    tolerance = 1e-12 if dtype == 'float64' else 1e-5
    assert first['jax_loss'] == pytest.approx(first['torch_loss'], rel=tolerance)
    assert first['jax_psnr'] == pytest.approx(first['torch_psnr'], rel=tolerance)
    assert [bool(step['torch_validation']) for step in steps] == [False, False, True] * 2
    assert json.loads((tmp_path / 'results/rows/compare-run.json').read_text()) == json.loads(json.dumps(row))
    assert row['steps'] == 6 and row['count'] == 2 and row['provenance']['versions']['torch']
    assert row['loss_difference']['first'] < tolerance <= 1e-5
    if dtype == 'float64':
        names = ('loss_difference', 'parameter_difference', 'largest_deviation')
        assert max(row[name]['largest'] for name in names) < 1e-4  # rounding, after Adam has divided by it
        assert row['validation_psnr']['jax'] == pytest.approx(row['validation_psnr']['torch'], abs=1e-3)
    assert (tmp_path / 'results/figures/compare-run.png').read_bytes().startswith(b'\x89PNG')
    assert 'after 6 steps: validation PSNR' in capsys.readouterr().out


def test_both_sides_clip_and_neither_is_averaged(tiny_config, tmp_path, capsys, lenient_promotion):
    """Clipped so far that Adam's epsilon outweighs the gradients, parameters would differ by half a step otherwise."""
    tiny_config.train.update({'steps': 2, 'clip': 1e-7, 'average': 0.9})
    row = compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    assert row['largest_deviation']['largest'] < 1e-5
    assert row['provenance']['config']['train']['average'] == 0 and tiny_config.train.average == 0.9
    assert 'train.average is left out' in capsys.readouterr().out


@pytest.mark.parametrize('largest', [0.5, 100.0])
def test_gradients_are_clipped_as_optax_does(largest):
    """To the norm itself where theirs is larger, and not at all where it is not."""
    network = torch.nn.Linear(3, 2)
    expected = {}
    for name, parameter in network.named_parameters():
        parameter.grad = torch.arange(1.0, 1 + parameter.numel()).reshape(parameter.shape)
        expected[name] = jnp.asarray(parameter.grad.numpy())
    expected, _ = optax.clip_by_global_norm(largest).update(expected, optax.EmptyState())
    compare._clip(network, largest)
    for name, parameter in network.named_parameters():
        np.testing.assert_allclose(parameter.grad.numpy(), expected[name], rtol=1e-6)  # rounding


def test_what_would_be_lost_is_refused_before_any_step(tiny_config, pairs_root, tmp_path, monkeypatch):
    """A row of that name of other settings or images, and pictures that are cut off; the same may be made anew."""
    monkeypatch.setattr(compare, '_Twin', None)  # nothing is trained
    path = tmp_path / 'results/rows/compare-run.json'
    claim, made = compare.provenance.claim, []
    monkeypatch.setattr(compare.provenance, 'claim', lambda *given: made.append(given[2]) or claim(*given))
    with pytest.raises(TypeError):
        compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    storage.write_json(path, made[0])
    with pytest.raises(TypeError):
        compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    made[0]['provenance']['config']['train']['steps'] = 7
    made[0]['provenance']['training_data']['pairs']['sha256'] = 'a' * 64
    storage.write_json(path, made[0])
    words = r"train\.steps is 7 there and 10 here; training set pairs is 'aaaaaaaaaaaa' there .*give --workdir=FOLDER"
    with pytest.raises(UserError, match=words):
        compare.compare(tiny_config, tmp_path / 'x/run', tmp_path / 'results')
    shutil.copytree(pairs_root, tmp_path / 'pairs')
    tiny_config.data.root = str(tmp_path / 'pairs')
    for broken in (tmp_path / f'pairs/train/rain-{number}.png' for number in (4, 5)):  # one may be held out
        broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(UserError, match=r'files of data set pairs cannot be read: .*rain-'):
        compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'more')


def test_deviation_finds_the_worst_tensor():
    """One running mean moved by 0.5: found by name; the distance counts parameters only."""
    from qsnet_jax.configs import default

    from qsnet_jax import model
    from qsnet_jax.peers import torch_twin

    settings = {**default.get_config().model.to_dict(), 'channels': 12, 'units': 1, 'scale_channels': 6}
    variables = model.initialize(model.from_config(settings), 0)
    state = torch_twin.to_torch(variables)
    equal = {'parameter_difference': 0.0, 'largest_deviation': 0.0}
    assert compare.deviation(variables, state).items() >= equal.items()
    state['stem_2.norm.running_mean'][1] += 0.5
    found = compare.deviation(variables, state)
    assert found == {'parameter_difference': 0.0, 'largest_deviation': 0.5, 'largest_in': 'stem_2.norm.running_mean'}
    state['main.rain.bias'][0] += 2.0
    found = compare.deviation(variables, state)
    assert found['largest_in'] == 'main.rain.bias' and found['parameter_difference'] > 0.01


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_it(tiny_config, tmp_path, lenient_promotion):
    """It says which framework and which step, and no row is written."""
    tiny_config.train.update({'steps': 6, 'learning_rate': 1e30, 'schedule': 'constant'})
    with pytest.raises(UserError, match=r'The loss of (JAX|PyTorch) is (nan|inf) at step [2-6]'):
        compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    assert not list(tmp_path.glob('results/rows/*'))


def test_an_optimiser_that_the_twin_has_not_is_refused(tiny_config, tmp_path):
    """Or the two would be of different recipes."""
    tiny_config.train.optimizer = 'muon'
    with pytest.raises(UserError, match="train.optimizer is 'muon'; the twin has 'adam' alone"):
        compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')


def test_the_sides_are_told_apart_without_colours():
    """In every panel by dash or by mark, the validations too."""
    names = ('loss', 'psnr', 'seconds', 'validation')
    row = {f'{side}_{name}': 1.0 for side in ('jax', 'torch') for name in names}
    rows = [{**row, 'step': step, 'loss_difference': 1e-7, 'parameter_difference': 1e-7} for step in (1, 2)]
    for axis in compare.draw(rows).axes:
        styles = [(line.get_marker(), line.get_linestyle(), line._dash_pattern) for line in axis.lines]
        assert len(styles) == len(set(map(str, styles))) >= 2
