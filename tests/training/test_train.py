"""The step, the loop, and what happens when it is interrupted."""

import functools
import json
import math
import shutil
import signal

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from qsnet_jax import UserError, model
from qsnet_jax.data import batches, sets, sources
from qsnet_jax.evidence import evaluate
from qsnet_jax.training import checkpoint, folder, log, optimiser, parallel, settings, train
from qsnet_jax.weights import files

pytestmark = pytest.mark.usefixtures('lenient_promotion')


@pytest.fixture
def mesh():
    """One of the four CPU devices."""
    return parallel.make_mesh(jax.devices()[:1])


def flat(tree):
    return flax.traverse_util.flatten_dict(tree, sep='/')


def assert_equal(first, second):
    """Bit for bit, every parameter and running statistic."""
    first, second = flat(train.export(first)), flat(train.export(second))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name], err_msg=name)


def lines(workdir):
    return [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]


def interrupt(monkeypatch, step, action):
    """Calls `action` when the loop is about to log `step`."""
    flush = log.Log.flush

    def wrapped(log, at, batch):
        if at == step:
            action()
        return flush(log, at, batch)

    monkeypatch.setattr(log.Log, 'flush', wrapped)


def crash():
    raise RuntimeError('crash')


def first_batches(config):
    return batches.deal(sets.open_training(config.data, sources.Cache(1e9)), config.data, 0)


def test_loss_falls_on_one_batch(tiny_config, mesh):
    """Thirty steps on one batch at least halve the content loss."""
    tiny_config.train.learning_rate = 1e-2
    tiny_config.train.schedule = 'constant'
    batch = parallel.shard(first_batches(tiny_config)[0], mesh)
    state = parallel.replicate(train.init_state(tiny_config), mesh)
    step = train.compile_step(tiny_config, state, batch)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics['content']))
    assert losses[-1] < 0.5 * losses[0]
    assert int(state.step) == 30


@pytest.mark.parametrize('name', ['adam', pytest.param('muon', marks=pytest.mark.slow)])
def test_one_device_equals_four(tiny_config, name):
    """The update of a global batch does not depend on how many devices share it, up to the order of sums."""
    tiny_config.train.optimizer = name
    tiny_config.model.dtype = 'float64'  # so that a difference in rounding cannot hide one in what is computed
    results = []
    with jax.enable_x64(True):
        for count in (1, 4):
            mesh = parallel.make_mesh(jax.devices()[:count])
            training = first_batches(tiny_config)
            state = parallel.replicate(train.init_state(tiny_config), mesh)
            step = train.compile_step(tiny_config, state, parallel.shard(training[0], mesh))
            for number in range(3):
                state, metrics = step(state, parallel.shard(training[number], mesh))
            results.append({**flat(train.export(state)), **jax.device_get(metrics)})
    assert results[0]['params/C_1/conv/kernel'].dtype == np.float64
    for name, value in results[0].items():
        # Nearly all agree to 1e-12; where |x| in the loss meets x = 0 but for rounding, a pixel's slope may differ.
        np.testing.assert_allclose(value, results[1][name], rtol=1e-8, atol=1e-6, err_msg=name)


@pytest.mark.slow
def test_validation_on_several_sets_is_their_mean(tiny_config, tmp_path, mesh, monkeypatch):
    """Each set's PSNR stands beside the mean of as many sets as asked for, by which the best checkpoint is chosen."""
    given = {5: {'pairs': 30.0, 'pairs/train': 20.0}, 10: {'pairs': 31.0, 'pairs/train': 10.0}}
    asked = []

    def validate(_, source, count):
        asked.append(len(source.names))
        scores = given[5 if len(asked) <= 2 else 10]
        return scores['pairs' if len(source.names) == 3 else 'pairs/train']

    monkeypatch.setattr(evaluate, 'validate', validate)
    tiny_config.train.eval_sets = 2
    tiny_config.data.validation = 'pairs,pairs/train,drawn_light'
    train.train(tiny_config, tmp_path, mesh)
    found = [line for line in lines(tmp_path) if 'validation_psnr' in line]
    assert [line['validation_psnr'] for line in found] == [25.0, 20.5]
    assert [line['validation_psnr/pairs/train'] for line in found] == [20.0, 10.0]
    assert asked == [3, 6, 3, 6]
    with checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.find('best') == 5


@pytest.mark.parametrize(
    ('section', 'field', 'value'),
    [
        *(('data', 'vary_layers', 0.5), ('data', 'brightness', 1.0), ('data', 'hold_out', -1)),
        *(('train', 'eval_sets', 0), ('train', 'plateau_patience', 0), ('train', 'plateau_factor', 1.0)),
    ],
)
def test_numbers_that_no_run_can_use_are_refused(tiny_config, section, field, value):
    """By name, before anything is read."""
    tiny_config[section][field] = value
    with pytest.raises(UserError, match=f'{section}.{field} is {value}'):
        settings.check_fields(tiny_config)


@pytest.mark.slow
def test_training_goes_on_from_weights(tiny_config, tmp_path, mesh):
    """Exactly from these, under a new optimiser; whose they are stays in the record, also after the file is gone."""
    tiny_config.train.steps = 2
    state, first = train.train(tiny_config, tmp_path / 'first', mesh)
    tiny_config.train.start_from = str(tmp_path / 'first/weights.safetensors')
    start = train.start_state(tiny_config)
    assert int(start.step) == 0 and not np.any(start.opt_state[0][0].mu['main']['rain']['kernel'])
    jax.tree.map(np.testing.assert_array_equal, train.export(start), train.export(state))
    tuned, record = train.train(tiny_config, tmp_path / 'second', mesh)
    assert not np.array_equal(tuned.params['main']['rain']['kernel'], state.params['main']['rain']['kernel'])
    assert record['start_from']['record']['date'] == first['date'] and len(record['start_from']['sha256']) == 64
    (tmp_path / 'first/weights.safetensors').unlink()
    _, again = train.train(tiny_config, tmp_path / 'second', mesh)
    assert again == json.loads(json.dumps(record))  # this start made no step: the weights are still those of the first
    _, settings, restored = train.restore_variables(tiny_config, tmp_path / 'second', 'latest')
    assert restored['start_from'] == record['start_from']


@pytest.mark.slow
def test_a_start_that_left_no_checkpoint_is_forgotten(tiny_config, tmp_path, mesh, monkeypatch):
    """A run begun anew with other weights to start from, and resumed, tells of these alone."""
    tiny_config.train.steps = 6
    train.train(tiny_config, tmp_path / 'first', mesh)
    with monkeypatch.context() as patch:
        interrupt(patch, 2, crash)
        with pytest.raises(RuntimeError, match='crash'):
            train.train(tiny_config, tmp_path / 'second', mesh)
    tiny_config.train.start_from = str(tmp_path / 'first/weights.safetensors')
    with monkeypatch.context() as patch:
        interrupt(patch, 6, crash)
        with pytest.raises(RuntimeError, match='crash'):
            train.train(tiny_config, tmp_path / 'second', mesh)
    _, record = train.train(tiny_config, tmp_path / 'second', mesh)
    assert [start['step'] for start in record['starts']] == [0, 5]
    assert record['start_from']['record']['step'] == 6


def test_a_run_does_not_go_on_with_other_images(tiny_config, pairs_root, tmp_path, mesh):
    """The folder is the same, its files are not; a finished run keeps its fingerprints too."""
    root = tmp_path / 'root'
    shutil.copytree(pairs_root, root)
    tiny_config.data.root = str(root)
    tiny_config.train.steps = 2
    train.train(tiny_config, tmp_path / 'run', mesh)
    for name in ('rain', 'norain'):
        (root / f'train/{name}-0.png').unlink()
    with pytest.raises(UserError, match=r'on other training images of pairs \(5 images then, 4 now\)'):
        train.train(tiny_config, tmp_path / 'run', mesh)


def test_weights_of_another_network_are_no_start(tiny_config):
    """Every field that differs is named, but for the precision of the computation."""
    tiny_config.train.start_from = 'default'
    with pytest.raises(UserError, match=r'channels is 132 there and 12 here; .*rates is \(1, 2, 4, 6\) there'):
        train.start_state(tiny_config)


def test_an_undisturbed_run_writes_what_it_promises(tiny_config, tmp_path, mesh):
    """Config, run record, every loss term per line, checkpoints, TensorBoard events and weights."""
    state, _ = train.train(tiny_config, tmp_path, mesh)
    logged = lines(tmp_path)
    terms = {'content', 'quasi_sparsity', 'detail', 'auxiliary', 'total', 'gradient_norm', 'learning_rate', 'psnr'}
    assert [line['step'] for line in logged if 'total' in line] == [2, 4, 5, 6, 8, 10]
    assert all(terms <= line.keys() for line in logged if 'total' in line)
    assert [line['step'] for line in logged if 'validation_psnr' in line] == [5, 10]
    assert json.loads((tmp_path / 'config.json').read_text())['data']['crop'] == 24
    record = json.loads((tmp_path / 'run.json').read_text())['starts'][0]
    assert {'commit', 'command', 'versions', 'device', 'precision', 'seed', 'training_data'} <= record.keys()
    assert list((tmp_path / 'tensorboard').glob('events*'))
    variables, settings = files.load_weights(tmp_path / 'weights.safetensors')
    assert settings['channels'] == 12
    for name, value in flat(train.export(state)).items():
        np.testing.assert_array_equal(value, flat(variables)[name])


@pytest.mark.parametrize('name', ['adam', 'muon'])
def test_resume_is_bit_exact(name, tiny_config, tmp_path, mesh, monkeypatch):
    """Ten steps equal six steps, a crash that loses two of them, a restart, and six more; averaged weights too."""
    tiny_config.train.update({'average': 0.9, 'optimizer': name})
    whole, _ = train.train(tiny_config, tmp_path / 'whole', mesh)
    with monkeypatch.context() as patch:
        interrupt(patch, 6, crash)
        with pytest.raises(RuntimeError, match='crash'):
            train.train(tiny_config, tmp_path / 'parts', mesh)
    assert lines(tmp_path / 'parts')[-1]['step'] == 5
    with (tmp_path / 'parts/metrics.jsonl').open('a') as file:
        file.write('{"step": 6, "tot')  # a line that a kill cut off
    resumed, _ = train.train(tiny_config, tmp_path / 'parts', mesh)
    assert_equal(whole, resumed)
    jax.tree.map(np.testing.assert_array_equal, (whole.params, whole.opt_state), (resumed.params, resumed.opt_state))
    assert not np.array_equal(whole.average['params']['main']['rain']['kernel'], whole.params['main']['rain']['kernel'])
    steps = [line['step'] for line in lines(tmp_path / 'parts')]
    assert steps == sorted(steps) == [line['step'] for line in lines(tmp_path / 'whole')]
    assert len(json.loads((tmp_path / 'parts/run.json').read_text())['starts']) == 2


@pytest.mark.parametrize('signum', [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops(tiny_config, tmp_path, mesh, monkeypatch, signum):
    """After SIGTERM or SIGINT the current step is on disk, the exception says so, and the handlers are restored."""
    before = signal.getsignal(signum)
    tiny_config.train.checkpoint_every = tiny_config.train.eval_every = 100
    interrupt(monkeypatch, 2, lambda: signal.raise_signal(signum))  # while step 2 is logged: step 3 sees it
    with pytest.raises(train.Stopped, match=f'{signal.Signals(signum).name} after step 3'):
        train.train(tiny_config, tmp_path, mesh)
    assert signal.getsignal(signum) == before
    with checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        assert checkpoints.find('latest') == 3


def test_a_signal_in_the_last_scores_stops_the_run(tiny_config, tmp_path, mesh, monkeypatch):
    """No step comes after it, but scores of every set do, and in a study other runs; the last step is on disk."""
    tiny_config.train.steps = 2

    def score(*_):
        signal.raise_signal(signal.SIGTERM)
        return {'pairs': 30.0}

    monkeypatch.setattr(train.Watch, 'score', score)
    with pytest.raises(train.Stopped, match='SIGTERM after step 2'):
        train.train(tiny_config, tmp_path, mesh)
    assert checkpoint.steps_in(tmp_path / 'checkpoints') == [2]


@pytest.mark.slow
def test_a_loss_that_is_not_finite_stops_the_run(tiny_config, tmp_path, mesh):
    """The message gives the interval of steps, and what was saved before is finite."""
    tiny_config.train.learning_rate = 1e30
    with pytest.raises(UserError, match=r'not finite between steps \d+ and \d+'):
        train.train(tiny_config, tmp_path, mesh)
    with checkpoint.Checkpoints(tmp_path / 'checkpoints', read_only=True) as checkpoints:
        for step in checkpoints.steps():
            state = checkpoints.restore(step, parallel.replicate(train.init_state(tiny_config), mesh))
            assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_a_network_that_is_not_finite_stops_the_run(tiny_config, tmp_path, mesh):
    """After one step whose loss was finite: nothing of it is saved."""
    tiny_config.train.update({'learning_rate': 1e30, 'steps': 1})
    with pytest.raises(log.Diverged, match='network is not finite after step 1'):
        train.train(tiny_config, tmp_path, mesh)
    assert not checkpoint.steps_in(tmp_path / 'checkpoints')


def save_a_checkpoint(config, workdir):
    """A workdir as a run leaves it after step 5, without running."""
    folder.write_config(config, workdir)
    with checkpoint.Checkpoints(workdir / 'checkpoints') as checkpoints:
        checkpoints.save(5, train.init_state(config))
        checkpoints.wait()


def test_another_config_is_refused(tiny_config, tmp_path, mesh):
    """The differing fields are named with both values."""
    save_a_checkpoint(tiny_config, tmp_path)
    tiny_config.train.learning_rate = 0.5
    tiny_config.loss.filters = 'sobel'
    with pytest.raises(UserError, match=r"(?s)filters is 'derivative' there and 'sobel'.*learning_rate is 0.001 there"):
        train.train(tiny_config, tmp_path, mesh)


def test_a_mistake_does_not_claim_the_workdir(tiny_config, tmp_path, mesh):
    """A command that fails before its first checkpoint can be corrected and given again."""
    root, tiny_config.data.root = tiny_config.data.root, None
    with pytest.raises(UserError, match='data.root'):
        train.train(tiny_config, tmp_path, mesh)
    assert not (tmp_path / 'config.json').exists()
    tiny_config.data.root = root
    tiny_config.train.steps = 1
    train.train(tiny_config, tmp_path, mesh)


@pytest.mark.parametrize(
    ('field', 'value', 'message'),
    [
        ('train.eval_every', 0, 'train.eval_every is 0'),
        ('data.crop', -1, 'data.crop is -1'),
        ('seed', -1, 'seed is -1'),
        ('data.eval', 'pairs,drwan_heavy', 'drwan_heavy'),
        ('model.channels', 25, 'channels is 25'),
        ('model.groups', 0, 'groups'),
    ],
)
def test_mistakes_show_before_any_work(tiny_config, tmp_path, mesh, monkeypatch, field, value, message):
    """Fields without sense, and a misspelt evaluation set, stop the run before it compiles."""
    monkeypatch.setattr(train, 'compile_step', None)
    tiny_config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=message):
        train.train(tiny_config, tmp_path, mesh)


def test_an_unwritable_workdir_is_said(tiny_config, tmp_path, mesh):
    """A file where the folder should be."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'):
        train.train(tiny_config, tmp_path / 'file', mesh)


@pytest.mark.parametrize('where', ['save', 'wait_until_finished'])
@pytest.mark.parametrize('kind', [OSError, ValueError])
def test_a_full_disk_is_said(tiny_config, tmp_path, mesh, monkeypatch, where, kind):
    """A checkpoint that cannot be written, at once or in the background, ends the run with the remedy.

    TensorStore's threads report it as a ValueError.
    """

    def fail(*_, **__):
        raise kind('RESOURCE_EXHAUSTED: Failed to write: No space left on device')

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, where, fail)
    scalars = dict.fromkeys(('total', 'gradient_norm', 'learning_rate', 'psnr'), 1.0)
    monkeypatch.setattr(train, 'compile_step', lambda *_: lambda state, _: (state, scalars))
    with pytest.raises(UserError, match='No space left.*Free some space'):
        train.train(tiny_config, tmp_path, mesh)


def test_a_second_process_is_refused(tiny_config, tmp_path, mesh):
    """One workdir, one training process."""
    with folder.claimed(tmp_path), pytest.raises(UserError, match='Another process'):
        train.train(tiny_config, tmp_path, mesh)


def test_a_batch_that_devices_cannot_share_is_refused(tiny_config, tmp_path):
    """Six images on four devices."""
    tiny_config.data.batch = 6
    with pytest.raises(UserError, match='6 and there are 4 devices'):
        train.train(tiny_config, tmp_path)


def rates(settings, values):
    """Learning rates that a scalar parameter's updates see when the losses are `values`."""
    optimizer = optimiser.make_optimizer(settings)
    params = jnp.zeros(())
    opt_state = optimizer.init(params)
    found = []
    for step, value in enumerate(values):
        updates, opt_state = optimizer.update(jnp.ones(()), opt_state, params, value=jnp.float32(value))
        found.append(float(optimiser.learning_rate(jnp.int32(step), opt_state, settings)))
        assert abs(float(updates)) == pytest.approx(found[-1], rel=1e-3, abs=1e-12)  # Adam: all gradients are equal
    return found


def test_plateau_rule_divides_by_ten_when_windows_stop_improving(tiny_config):
    """Falling means keep the rate; two windows without improvement multiply it by the paper's 0.1."""
    settings = tiny_config.train
    settings.plateau_patience = 2
    assert rates(settings, np.linspace(1, 0.5, 12))[-1] == pytest.approx(1e-3)
    stalled = rates(settings, [0.3] * 12)
    assert stalled[0] == pytest.approx(1e-3)
    assert sorted(set(np.round(np.log10(stalled)))) == [-5, -4, -3]


def plain_rules(schedule, losses, window, patience, factor, floor):
    """The rate's factor after each step, by both rules as a reader of the papers would write them."""
    scale, kept, bad, found = 1.0, math.inf, 0, []
    for end in range(1, len(losses) + 1):
        if end % window == 0:
            mean = sum(losses[end - window : end]) / window
            is_better = mean < kept - 1e-6 if schedule == 'plateau' else mean <= kept - 1e-6
            bad = 0 if is_better else bad + 1
            if bad == (patience if schedule == 'plateau' else 1):
                scale, bad = max(scale * factor, floor), 0
            kept = mean if is_better or schedule == 'previous' else kept
        found.append(scale)
    return found


@pytest.mark.parametrize('schedule', ['plateau', 'previous'])
@pytest.mark.parametrize('seed', [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 4))])
def test_rules_for_the_rate_equal_plain_ones(tiny_config, schedule, seed):
    """On noisy losses that fall, stall and rise, every step has the rate of the rule written out in plain Python."""
    generator = np.random.default_rng(seed)
    losses = np.concatenate([np.linspace(1, 0.6, 20), np.full(20, 0.6), np.linspace(0.6, 0.7, 20)])
    losses = np.float32(losses + generator.normal(0, 0.02, 60)).tolist()
    settings = tiny_config.train
    settings.update({'schedule': schedule, 'plateau_window': 3, 'plateau_patience': 2, 'plateau_factor': 0.5})
    expected = plain_rules(schedule, losses, 3, 2, 0.5, settings.plateau_floor)
    assert len(set(expected)) > 3
    np.testing.assert_allclose(rates(settings, losses), 1e-3 * np.array(expected), rtol=1e-5)


def test_the_rules_differ_where_losses_rise_and_fall_again(tiny_config):
    """A window better than the one before, but not than the best, counts for the sibling's rule alone."""
    losses = [1.0] * 2 + [0.5] * 2 + [0.9] * 2 + [0.8] * 2 + [0.7] * 2
    tiny_config.train.update({'plateau_patience': 3, 'schedule': 'previous'})
    previous = rates(tiny_config.train, losses)
    assert previous[-1] == pytest.approx(1e-4) and previous[4] == pytest.approx(1e-3)
    tiny_config.train.schedule = 'plateau'
    assert rates(tiny_config.train, losses)[8] == pytest.approx(1e-3)


def test_averaged_weights_are_the_stated_mean(tiny_config):
    """After each step the mean moves by 1 - decay, at first faster; it is what is exported and scored."""
    tiny_config.train.average = 0.5
    network = model.from_config(tiny_config.model)
    parts = {'network': network, 'settings': tiny_config.train, 'weights': tiny_config.loss}
    state, step = train.init_state(tiny_config), jax.jit(functools.partial(train.train_step, **parts))
    generator = np.random.default_rng(0)
    path = ('params', 'main', 'rain', 'kernel')
    mean = functools.reduce(dict.__getitem__, path, train.export(state))
    statistics = flat(train.export(state)['batch_stats'])
    for number in range(3):
        batch = {side: generator.integers(255, size=(4, 24, 24, 3), dtype=np.uint8) for side in ('rainy', 'clean')}
        state, _ = step(state, batch)
        new = np.asarray(state.params['main']['rain']['kernel'])
        kept = min(0.5, (1 + number) / (10 + number))
        mean = kept * mean + (1 - kept) * new
        running = flat(state.batch_stats)
        statistics = {name: kept * value + (1 - kept) * running[name] for name, value in statistics.items()}
        np.testing.assert_allclose(functools.reduce(dict.__getitem__, path, train.export(state)), mean, atol=1e-6)
        assert np.abs(mean - new).max() > 1e-5
    assert train.export(state)['batch_stats'].keys() == state.batch_stats.keys()
    found = flat(train.export(state)['batch_stats'])
    for name, expected in statistics.items():
        np.testing.assert_allclose(found[name], expected, rtol=1e-5, atol=1e-6, err_msg=name)
        assert not np.array_equal(expected, flat(state.batch_stats)[name])


def test_gradients_are_clipped_to_their_norm(tiny_config):
    """A hundredth of the norm of the first gradient gives updates of Adam on the scaled gradient, and the same rate."""
    tiny_config.train.clip = 0.25
    optimizer = optimiser.make_optimizer(tiny_config.train)
    params = {'a': jnp.zeros(3), 'b': jnp.zeros(2)}
    gradients = {'a': jnp.array([3.0, 0.0, 4.0]), 'b': jnp.array([0.0, 12.0])}  # norm 13
    _, state = optimizer.update(gradients, optimizer.init(params), params, value=jnp.float32(1))
    moments = [leaf for leaf in jax.tree.leaves(state) if leaf.shape == (3,)]
    np.testing.assert_allclose(moments[0], 0.1 * 0.25 / 13 * np.array([3.0, 0.0, 4.0]), rtol=1e-5)
    rate = optimiser.learning_rate(jnp.int32(0), state, tiny_config.train)
    assert float(rate) == pytest.approx(tiny_config.train.learning_rate)


def test_muon_turns_kernels_into_matrices_of_like_singular_values(tiny_config):
    """Their RMS is about .2 times the rate; norms, depthwise kernels and rain layers have Adam with such momentum."""
    params = train.init_state(tiny_config).params
    generator = np.random.default_rng(0)

    def noise(value):
        drawn = generator.normal(size=value.shape) * np.arange(1, value.shape[-1] + 1)
        return drawn.astype(np.float32)

    gradients = jax.tree.map(noise, params)
    tiny_config.train.optimizer = 'muon'
    rate, optimizer = tiny_config.train.learning_rate, optimiser.make_optimizer(tiny_config.train)
    found, _ = optimizer.update(gradients, optimizer.init(params), params, value=jnp.float32(1))
    adam = optax.nadam(rate)
    expected, _ = adam.update(gradients, adam.init(params), params)
    found, expected = flat(found), flat(expected)
    matrices = ('stem_2/conv/kernel', 'main/conv_1/conv/kernel', 'C_1/conv/kernel', 'A_2/conv_1/conv/kernel')
    for name in matrices:
        value = np.asarray(found[name])
        assert 0.15 * rate < np.sqrt(np.mean(value**2)) < 0.21 * rate
        sizes, before = (
            np.linalg.svd(np.reshape(each, (-1, each.shape[3])), compute_uv=False)
            for each in (value, flat(gradients)[name])
        )
        assert sizes[0] / sizes[-1] < 3 < before[0] / before[-1]
    others = ('unit_1/depthwise/conv/kernel', 'A_1/rain/kernel', 'main/rain/bias', 'C_1/norm/batch/scale')
    for name in others:
        np.testing.assert_allclose(found[name], expected[name], rtol=1e-5)


def test_cosine_schedule_falls_to_zero(tiny_config):
    """From the full rate at the first step, by half in the middle."""
    tiny_config.train.schedule = 'cosine'
    found = rates(tiny_config.train, [1.0] * 11)
    assert found[0] == pytest.approx(1e-3) and found[5] == pytest.approx(5e-4) and found[10] == pytest.approx(0.0)


def test_unknown_schedule_is_refused(tiny_config):
    """The message lists the known ones."""
    tiny_config.train.schedule = 'linear'
    with pytest.raises(UserError, match='plateau'):
        optimiser.make_optimizer(tiny_config.train)
    tiny_config.train.update({'schedule': 'cosine', 'optimizer': 'sgd'})
    with pytest.raises(UserError, match="train.optimizer is 'sgd'; it must be 'adam' or 'muon'"):
        optimiser.make_optimizer(tiny_config.train)


def test_initial_parameters_follow_the_seed(tiny_config):
    """Same seed, same parameters; another seed, others."""
    first, second = (train.init_state(tiny_config) for _ in range(2))
    assert_equal(first, second)
    tiny_config.seed = 1
    other = train.init_state(tiny_config)
    assert not np.array_equal(first.params['C_1']['conv']['kernel'], other.params['C_1']['conv']['kernel'])


def test_none_is_the_best_where_none_was_validated(tiny_config, tmp_path):
    """Or a record would say that it was chosen by scores that never were."""
    with checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(4, train.init_state(tiny_config))
        checkpoints.wait()
        with pytest.raises(UserError, match=r"none is the best; give 'latest' or one of the steps \[4\]"):
            checkpoints.find('best')


def test_best_checkpoint_is_the_one_with_the_highest_validation(tiny_config, tmp_path):
    """The best outlives the latest, and both are found by name."""
    state = train.init_state(tiny_config)
    with checkpoint.Checkpoints(tmp_path, keep=1) as checkpoints:
        for step, psnr in ((1, 20.0), (2, 30.0), (3, None), (4, 25.0)):
            checkpoints.save(step, state, psnr)
        checkpoints.wait()
        assert set(checkpoints.steps()) == {2, 4}
        assert checkpoints.find('best') == 2
        assert checkpoints.find('latest') == 4
        assert checkpoints.find('2') == checkpoints.find(2) == 2
        with pytest.raises(UserError, match=r'\[2, 4\]'):
            checkpoints.find('3')
