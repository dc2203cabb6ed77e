"""What a step watches and gives away, what a run begins from, and what its clock counts."""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from qsnet_jax import model
from qsnet_jax.data import batches, sets, sources
from qsnet_jax.training import checkpoint, log, parallel, train
from qsnet_jax.weights import checks, files

pytestmark = pytest.mark.usefixtures('lenient_promotion')


@pytest.fixture
def batch(tiny_config):
    return batches.deal(sets.open_training(tiny_config.data, sources.Cache(1e9)), tiny_config.data, 0)[0]


def test_the_rate_follows_the_whole_loss(tiny_config, batch):
    """Not a term of it, which may fall while the loss rises."""
    tiny_config.train.update({'schedule': 'previous', 'plateau_window': 3})
    tiny_config.loss.auxiliary = 10.0
    network = model.from_config(tiny_config.model)
    step = functools.partial(train.train_step, network=network, settings=tiny_config.train, weights=tiny_config.loss)
    state, metrics = jax.jit(step)(train.init_state(tiny_config), batch)
    assert float(state.opt_state[-1].total) == pytest.approx(float(metrics['total']), rel=1e-6)
    assert float(metrics['total']) > 2 * float(metrics['content'])


def test_a_step_gives_the_old_state_s_memory_to_the_new_one(tiny_config, batch):
    """Or parameters and Adam's moments would lie in memory twice."""
    mesh = parallel.make_mesh(jax.devices()[:1])
    batch = parallel.shard(batch, mesh)
    state = parallel.replicate(train.init_state(tiny_config), mesh)
    train.compile_step(tiny_config, state, batch)(state, batch)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))


def test_a_step_that_jax_may_not_compile_is_left_as_it_is(tiny_config, batch, capsys):
    """As with JAX_DISABLE_JIT=1, to look into it: no program of it can be made beforehand."""
    state = train.init_state(tiny_config)
    with jax.disable_jit():
        step = train.compile_step(tiny_config, state, batch)
    assert 'JAX_DISABLE_JIT is set' in capsys.readouterr().out and step.func is train.train_step


def test_rain_gain_scales_what_decodes_rain_alone(tiny_config):
    """The kernels of C_1, ..., C_K and of the main decoder, and nothing else."""
    tiny_config.train.rain_gain = 1.0
    whole = checks.flat(train.export(train.init_state(tiny_config)))
    tiny_config.train.rain_gain = 0.5
    half = checks.flat(train.export(train.init_state(tiny_config)))
    changed = {name for name in whole if not np.array_equal(whole[name], half[name])}
    assert changed == {name for name in whole if name.endswith('rain/kernel')}
    assert len(changed) == len(tiny_config.model.rates) + 2
    for name in changed:
        np.testing.assert_array_equal(half[name], 0.5 * whole[name])


def test_averages_begin_at_the_weights_that_a_run_goes_on_from(tiny_config, tmp_path):
    """Not at the initial ones."""
    other = model.initialize(model.from_config(tiny_config.model), seed=7)
    files.save_weights(tmp_path / 'a.safetensors', other, model.current(tiny_config.model), {})
    tiny_config.train.update({'average': 0.9, 'start_from': str(tmp_path / 'a.safetensors')})
    begun, other = checks.flat(train.export(train.start_state(tiny_config))), checks.flat(other)
    assert begun.keys() == other.keys()
    for name, value in other.items():
        np.testing.assert_array_equal(begun[name], value, err_msg=name)


def test_the_clock_stands_while_a_run_is_scored_and_saved(tiny_config, tmp_path, monkeypatch):
    """Seconds are those of training, here one a step."""
    now = [0.0]

    def lasting(seconds, function):
        def wrapped(*arguments, **options):
            now[0] += seconds
            return function(*arguments, **options)

        return wrapped

    monkeypatch.setattr(log.time, 'perf_counter', lambda: now[0])
    monkeypatch.setattr(log.Log, 'add', lasting(1.0, log.Log.add))
    monkeypatch.setattr(train.Watch, 'score', lasting(100.0, train.Watch.score))
    monkeypatch.setattr(checkpoint.Checkpoints, 'save', lasting(1000.0, checkpoint.Checkpoints.save))
    train.train(tiny_config, tmp_path, parallel.make_mesh(jax.devices()[:1]))
    lines = [json.loads(line) for line in (tmp_path / 'metrics.jsonl').read_text().splitlines()]
    assert now[0] > 1200 and [line['seconds'] for line in lines] == [float(line['step']) for line in lines]


@pytest.mark.parametrize('name', ['adam', 'muon'])
def test_a_checkpoint_is_read_whatever_precision_jax_has(tiny_config, tmp_path, name):
    """JAX_ENABLE_X64 is no part of a config, so that what it changes would read as damage."""
    tiny_config.train.update({'schedule': 'previous', 'plateau_window': 2, 'optimizer': name})
    with jax.enable_x64(True), checkpoint.Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, train.init_state(tiny_config))
        checkpoints.wait()
    with checkpoint.Checkpoints(tmp_path, read_only=True) as checkpoints:
        state = checkpoints.restore(1, train.init_state(tiny_config))
    assert float(state.opt_state[-1].scale) == 1


@pytest.mark.parametrize('name', ['adam', 'muon'])
def test_every_product_of_a_step_has_the_precision_of_the_config(tiny_config, name):
    """Those of the optimiser too, or a GPU would round them to 10 bits in a run that calls itself float32."""
    tiny_config.train.optimizer = name
    network = model.from_config(tiny_config.model)
    images = jnp.zeros((1, 24, 24, 3), jnp.uint8)
    step = functools.partial(train.train_step, network=network, settings=tiny_config.train, weights=tiny_config.loss)
    made = jax.make_jaxpr(step)(train.init_state(tiny_config), {'rainy': images, 'clean': images})
    found = list(precisions(made.jaxpr))
    assert len(found) > 50 and None not in found


def precisions(jaxpr):
    """Of every product and convolution, also within what it calls."""
    for equation in jaxpr.eqns:
        if equation.primitive.name in ('dot_general', 'conv_general_dilated'):
            yield equation.params['precision']
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda value: hasattr(value, 'eqns')):
            inner = getattr(inner, 'jaxpr', inner)
            if hasattr(inner, 'eqns'):
                yield from precisions(inner)
