"""What a run's folder survives: odd names, other places of the same data, lost and damaged files, no locks."""

import errno
import gc
import json
import logging
import os
import re
import shutil
import sys
import tempfile
import threading

import jax
import pytest
from tensorboardX import record_writer

from qsnet_jax import UserError, main, storage
from qsnet_jax.data import images
from qsnet_jax.training import checkpoint, folder, log, parallel, study, train

pytestmark = pytest.mark.usefixtures('lenient_promotion')


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Holds what a run leaves after steps 2, 4 and 5, once one was made."""
    return tmp_path_factory.mktemp('finished') / 'run'


@pytest.fixture
def run(tiny_config, finished, tmp_path, monkeypatch):
    """A folder as a run leaves it after steps 2, 4 and 5; steps are counted and not made, which takes no compiler."""
    scalars = dict.fromkeys(('total', 'gradient_norm', 'learning_rate', 'psnr'), 1.0)

    def compile_step(*_):
        return lambda state, _: (state.replace(step=state.step + 1), scalars)

    monkeypatch.setattr(train, 'compile_step', compile_step)
    monkeypatch.setattr(train.Watch, 'score', lambda *_: {'held': 20.0})
    tiny_config.train.steps = 5
    mesh = parallel.make_mesh(jax.devices()[:1])

    def go(workdir=tmp_path / 'run', **options):
        return train.train(tiny_config, workdir, mesh, **options)[1]

    if not finished.exists():
        go(finished)
    go.config, go.workdir = tiny_config, shutil.copytree(finished, tmp_path / 'run')
    return go


def test_any_name_of_a_folder(run, tmp_path):
    """Trained, gone on from, restored, below folders whose names mean something to shells, globs and URLs."""
    place = tmp_path / 'run [1]' / 'back\\slash' / 'a*b?c' / '100%' / '#1' / 'inner'
    run(place)
    assert checkpoint.steps_in(place / 'checkpoints') == [2, 4, 5]
    assert run(place)['step'] == 5
    assert train.restore_variables(run.config, place, '4')[2]['step'] == 4


def test_no_line_of_a_folder_reaches_the_terminal_as_a_command(run, tmp_path, capsys):
    """Lines about files that are missing, of a run, of a log and of a checkpoint."""
    place = run.workdir.rename(tmp_path / 'a\x1b[2Jb')
    (place / 'config.json').unlink()
    run(place)
    (place / 'run.json').unlink()
    (place / 'metrics.jsonl').unlink()
    run(place)
    (place / 'config.json').unlink()
    (place / 'run.json').unlink()
    train.restore_variables(run.config, place, 'latest')
    printed = capsys.readouterr().out
    assert '\x1b' not in printed and printed.count(r'a\x1b[2Jb') == 4


def test_the_link_to_an_odd_name_has_a_plain_one(run, tmp_path, monkeypatch):
    """Whatever $TMPDIR is called; where no other place is left, that is said before the first step."""
    place = tmp_path / 'run [1]'
    (tmp_path / 't[m]p').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 't[m]p'))
    run(place)
    assert train.restore_variables(run.config, place, '4')[2]['step'] == 4
    monkeypatch.setattr(checkpoint, '_PLACES', (str(tmp_path / 'none'),))
    with pytest.raises(UserError, match=r'other \[2\].* cannot hold checkpoints .* set TMPDIR'):
        run(tmp_path / 'other [2]')
    assert not (tmp_path / 'other [2]/config.json').exists()


def test_letters_go_through_a_link_where_files_have_names_of_another_encoding(run, tmp_path, monkeypatch):
    """TensorStore writes a name in UTF-8, whatever the locale says."""
    place = shutil.copytree(run.workdir, tmp_path / 'Läufe') / 'checkpoints'
    for encoding, is_itself in (('utf-8', True), ('iso8859-1', False)):
        monkeypatch.setattr(sys, 'getfilesystemencoding', lambda encoding=encoding: encoding)
        with checkpoint.Checkpoints(place, read_only=True) as checkpoints:
            assert (str(checkpoints._manager.directory) == str(place)) == is_itself
            assert str(checkpoints._manager.directory).isascii() != is_itself


def test_the_same_data_elsewhere_go_on(run, tmp_path, pairs_root):
    """A moved folder of the same files is no other run; one other picture is."""
    moved = shutil.copytree(pairs_root, tmp_path / 'moved')
    run.config.data.root = f'{moved}/'
    assert run()['step'] == 5
    for name in ('rain', 'norain'):
        images.save(moved / f'train/{name}-1.png', images.read(moved / f'train/{name}-2.png'))
    with pytest.raises(UserError, match='on other training images of pairs'):
        run()


def test_the_same_weights_elsewhere_go_on(run, tmp_path):
    """A run from weights goes on with a copy of them, and not with others."""
    weights = run.workdir / 'weights.safetensors'
    run.config.train.start_from = str(weights)
    other = tmp_path / 'other'
    run(other)
    run.config.train.start_from = str(shutil.copy(weights, tmp_path / 'copy.safetensors'))
    assert run(other)['step'] == 5
    run.config.train.start_from = 'default'
    with pytest.raises(UserError, match='not the same weights'):
        run(other)


def test_a_broken_picture_is_found_before_anything_is_done(run, tmp_path, pairs_root):
    """All of them at once; repaired, the run goes on."""
    root = shutil.copytree(pairs_root, tmp_path / 'root')
    run.config.data.root = str(root)
    kept = {}
    for name in ('train/rain-1.png', 'val/norain-7.png'):
        kept[name] = (root / name).read_bytes()
        (root / name).write_bytes(kept[name][:-300])
    with pytest.raises(UserError, match=r'cannot be read.*(rain-1|norain-7)\.png'):
        run(tmp_path / 'new')
    assert not (tmp_path / 'new/config.json').exists()
    for name, content in kept.items():
        (root / name).write_bytes(content)
    assert run(tmp_path / 'new')['step'] == 5


def damage(path, how):
    """Cut, emptied, or one bit turned."""
    content = bytearray(path.read_bytes())
    if how == 'bit':
        content[len(content) // 2] ^= 16
    path.write_bytes(bytes(content) if how == 'bit' else bytes(content[: len(content) // 2 if how == 'cut' else 0]))


@pytest.fixture
def unlogged():
    """Nothing is logged, for lines of a log hold what failed until the test has ended; then it is let go."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)
    gc.collect()


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')  # of Orbax's threads that failed
@pytest.mark.parametrize('how', ['cut', 'emptied', 'bit'])
def test_every_damage_to_a_checkpoint_is_named_or_harmless(run, unlogged, how):
    """No file of it can be hurt so that other values are restored, and none ends in a traceback."""
    place = run.workdir / 'checkpoints/5'
    like = parallel.replicate(train.init_state(run.config), parallel.make_mesh(jax.devices()[:1]))

    def restored():
        with checkpoint.Checkpoints(run.workdir / 'checkpoints', read_only=True) as checkpoints:
            return checkpoint.digest(checkpoints.restore(5, like))

    expected, refused = restored(), 0
    for path in sorted(path for path in place.rglob('*') if path.is_file() and path.stat().st_size):
        content = path.read_bytes()
        damage(path, how)
        try:
            assert restored() == expected, path
        except UserError as error:
            assert 'Checkpoint 5' in str(error), path
            assert '--checkpoint=4' in str(error) or 'goes on from step 4' in str(error), path
            refused += 1
        path.write_bytes(content)
    assert refused > 3 and restored() == expected


def test_a_damaged_checkpoint_names_the_others_and_one_of_them_goes_on(run):
    """The latest is cut short, the one before it is asked for; what came after is made anew."""
    largest = max((run.workdir / 'checkpoints/5').rglob('*'), key=lambda path: path.stat().st_size * path.is_file())
    largest.write_bytes(b'')
    words = r'Checkpoint 5 in .* is damaged .*steps 4, 2: --checkpoint=4 goes on from there, .* once .*5 is removed'
    with pytest.raises(UserError, match=words):
        run()
    assert run(which='4')['step'] == 5
    assert run()['step'] == 5  # whole again


def test_a_whole_later_checkpoint_is_not_removed(run):
    """By --checkpoint given to train, where it is meant for eval: neither a step nor the best."""
    with pytest.raises(UserError, match='--checkpoint=best is for --mode=eval'):
        run(which='best')
    for last in (5, 4):
        with pytest.raises(UserError, match=rf'also holds checkpoint {last}, which is whole, and training from step 2'):
            run(which='2')
        largest = max((run.workdir / 'checkpoints/5').rglob('*'), key=lambda path: path.stat().st_size * path.is_file())
        largest.write_bytes(b'')
    assert checkpoint.steps_in(run.workdir / 'checkpoints') == [2, 4, 5]


@pytest.mark.parametrize(
    ('error', 'words'),
    [
        (PermissionError(errno.EACCES, 'Permission denied'), 'Permission denied. Take the rights to read'),
        (ValueError('UNKNOWN: [OS error 13: EACCES Permission denied]'), 'Permission denied. Take the rights to read'),
        (ValueError('UNKNOWN: [OS error 5: EIO Input/output error]'), 'The drive reports a fault'),
        (OSError(errno.EMFILE, 'Too many open files'), 'ulimit -n'),
        (MemoryError(), 'Memory ran out'),
    ],
)
def test_a_checkpoint_that_is_not_to_blame_is_not_called_damaged(run, monkeypatch, error, words):
    """Who is told so removes it."""

    def fail(*_, **__):
        raise error

    monkeypatch.setattr(checkpoint.ocp.CheckpointManager, 'restore', fail)
    with pytest.raises(UserError, match=f'Checkpoint 5 in .*cannot be read: .*{words}') as caught:
        run()
    assert 'damaged' not in str(caught.value) and 'remove' not in str(caught.value)


@pytest.mark.parametrize('step', [5, 2])
def test_a_damaged_description_of_a_checkpoint_is_named(run, step):
    """A field of another name, with which Orbax opens none of them; without that checkpoint the run goes on."""
    place = run.workdir / 'checkpoints' / str(step)
    path = place / '_CHECKPOINT_METADATA'
    path.write_text(path.read_text().replace('item_handlers', 'item_han$lers'))
    other = {5: 4, 2: 5}[step]
    for call in (run, lambda: train.restore_variables(run.config, run.workdir, 'latest')):
        with pytest.raises(UserError, match=rf'Checkpoint {step} is damaged .*Remove {place}, .* from step {other}\.'):
            call()
    shutil.rmtree(place)
    assert run()['step'] == 5


def test_an_empty_folder_among_the_checkpoints_is_named(run):
    """What a copy that was cut short leaves."""
    (run.workdir / 'checkpoints/9').mkdir()
    with pytest.raises(UserError, match='Checkpoint 9 .*--checkpoint=5'):
        run()
    assert run(which='5')['step'] == 5
    assert checkpoint.steps_in(run.workdir / 'checkpoints')[-1] == 5


@pytest.mark.parametrize('step', [5, 9])
def test_a_file_in_the_place_of_a_checkpoint_is_named(run, step):
    """Orbax would pass it over, and the run go on from the one before without a word."""
    place = run.workdir / 'checkpoints' / str(step)
    shutil.rmtree(place, ignore_errors=True)
    place.write_text('x')
    for call in (run, lambda: train.restore_variables(run.config, run.workdir, 'latest')):
        with pytest.raises(UserError, match=rf'Checkpoint {step} is damaged \(it is a file .*Remove {place}, and the'):
            call()
    place.unlink()
    assert run()['step'] == 5


@pytest.mark.parametrize('how', ['emptied', 'a file'])
def test_what_is_said_of_the_only_checkpoint_helps(run, how):
    """Once the folder is moved away, as the message says, the same command begins again."""
    place = run.workdir / 'checkpoints/5'
    for step in (2, 4):
        shutil.rmtree(run.workdir / 'checkpoints' / str(step))
    if how == 'emptied':
        max(place.rglob('*'), key=lambda path: path.stat().st_size * path.is_file()).write_bytes(b'')
    else:
        shutil.rmtree(place)
        place.write_text('x')
    words = f'There is no other; begin again in another --workdir, or move {run.workdir} away.'
    with pytest.raises(UserError, match=re.escape(words)):
        run()
    run.workdir.rename(run.workdir.with_name('away'))
    assert run()['step'] == 5


def test_other_values_than_were_saved_are_refused(run, monkeypatch):
    """A checkpoint that can be read and holds something else."""
    monkeypatch.setattr(checkpoint, 'digest', lambda _: 'another')
    with pytest.raises(UserError, match='not those that were saved'):
        run()


@pytest.mark.parametrize(
    'content',
    [
        None,
        b'{"model"',
        b'{"seed": 0}',
        *(pytest.param(content, marks=pytest.mark.slow) for content in (b'', b'[]', b'\0\0\0', b'\xff\xfe')),
    ],
)
def test_a_config_that_is_lost_comes_back_from_run_json(run, content):
    """Missing, empty, cut, of another kind: it is restored, and another config is still refused."""
    path = run.workdir / 'config.json'
    before = json.loads(path.read_text())
    path.unlink() if content is None else path.write_bytes(content)
    run.config.train.learning_rate = 0.5
    with pytest.raises(UserError, match='learning_rate is 0.001 there'):
        run()
    run.config.train.learning_rate = 0.001
    run()
    assert json.loads(path.read_text()) == before
    train.restore_variables(run.config, run.workdir, 'latest')


@pytest.mark.parametrize('change', [{'channels': 24}, {'rates': [1, 2, 4, 7]}, {'norm': 'instance'}])
def test_a_config_that_is_not_that_of_run_json_is_refused(run, change):
    """A digit that has turned makes no other network of the same parameters."""
    path = run.workdir / 'config.json'
    stored = json.loads(path.read_text())
    stored['model'] |= change
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=rf'different networks: model\.{next(iter(change))} is .*remove that one'):
        train.restore_variables(run.config, run.workdir, 'latest')
    path.unlink()
    train.restore_variables(run.config, run.workdir, 'latest')


def test_a_folder_of_weights_alone_says_how_they_are_named(run):
    """Its checkpoints were taken away, and what the run left is enough to score."""
    shutil.rmtree(run.workdir / 'checkpoints')
    weights = run.workdir / 'weights.safetensors'
    weights.touch()
    with pytest.raises(UserError, match=f'holds no checkpoint, but weights: give --weights={re.escape(str(weights))}'):
        train.restore_variables(run.config, run.workdir, 'latest')
    weights.unlink()
    with pytest.raises(UserError, match='holds no run'):
        train.restore_variables(run.config, run.workdir, 'latest')


def test_settings_that_no_network_has_are_damage(run, capsys):
    """A name in which a bit has turned: the config comes from run.json; without that it is refused."""
    path = run.workdir / 'config.json'
    path.write_text(path.read_text().replace('encoder_stride', 'encoder_svride'))
    train.restore_variables(run.config, run.workdir, 'latest')
    assert 'encoder_svride, which no network has' in capsys.readouterr().out
    (run.workdir / 'run.json').unlink()
    with pytest.raises(UserError, match='encoder_svride'):
        train.restore_variables(run.config, run.workdir, 'latest')
    path.write_text(path.read_text().replace('encoder_svride', 'encoder_stride').replace('"batch"', '"bauch"'))
    with pytest.raises(UserError, match='is damaged|norm'):
        train.restore_variables(run.config, run.workdir, 'latest')


def test_a_network_that_lacks_settings_is_damage(run):
    """Today's default is not put in the place of what is lost; run.json has it, unless it lacks it too."""
    path, record = run.workdir / 'config.json', run.workdir / 'run.json'
    stored = json.loads(path.read_text())
    del stored['model']['rates']
    path.write_text(json.dumps(stored))
    assert folder.stored_config(run.workdir)['model']['rates'] == [2]
    starts = json.loads(record.read_text())
    del starts['starts'][-1]['config']['model']['rates']
    record.write_text(json.dumps(starts))
    with pytest.raises(UserError, match=r'run\.json lacks model\.rates'):
        folder.stored_config(run.workdir)
    record.unlink()
    with pytest.raises(UserError, match=r'config\.json lacks model\.rates'):
        train.restore_variables(run.config, run.workdir, 'latest')


def test_weights_without_a_checkpoint_are_not_replaced(run):
    """Somebody else's, or those of a run whose checkpoints were removed."""
    weights = run.workdir / 'weights.safetensors'
    shutil.rmtree(run.workdir / 'checkpoints')
    content = weights.read_bytes()
    with pytest.raises(UserError, match=r'weights\.safetensors and no checkpoint.* another --workdir, or move'):
        run()
    assert weights.read_bytes() == content and not (run.workdir / 'checkpoints').exists()


def test_time_counts_neither_validation_nor_saving(run, tmp_path, monkeypatch):
    """The time of steps is theirs alone, however long what lies between them takes."""
    now = [0.0]

    def lasting(seconds, function):
        return lambda *given: (now.__setitem__(0, now[0] + seconds), function(*given))[1]

    monkeypatch.setattr(log.time, 'perf_counter', lambda: now[0])
    monkeypatch.setattr(log.Log, 'add', lasting(0.125, log.Log.add))
    monkeypatch.setattr(checkpoint.Checkpoints, 'save', lasting(100.0, checkpoint.Checkpoints.save))
    monkeypatch.setattr(train.Watch, 'score', lasting(100.0, lambda *_: {'held': 20.0}))
    run(tmp_path / 'new')
    lines = (tmp_path / 'new/metrics.jsonl').read_text().splitlines()
    assert now[0] > 400 and json.loads(lines[-1])['seconds'] == 5 * 0.125


def test_checkpoints_that_cannot_be_seen_are_not_lost(run, tmp_path, deny):
    """On a drive that is not mounted now, or in a folder without rights: nothing begins anew, and neither is no run."""
    checkpoints, elsewhere = run.workdir / 'checkpoints', tmp_path / 'disk'
    (run.workdir / 'weights.safetensors').unlink()
    (run.workdir / 'metrics.jsonl').write_text('')  # as before the second checkpoint
    before = (run.workdir / 'run.json').read_bytes()
    checkpoints.rename(elsewhere)
    checkpoints.symlink_to(tmp_path / 'gone')
    for begin in (run, lambda: train.restore_variables(run.config, run.workdir, 'latest')):
        with pytest.raises(UserError, match='checkpoints is a link to .*gone, which is not there. Mount its drive'):
            begin()
    assert (run.workdir / 'run.json').read_bytes() == before and not (tmp_path / 'gone').exists()
    checkpoints.unlink()
    elsewhere.rename(checkpoints)
    (checkpoints / '5').rename(elsewhere)
    (checkpoints / '5').symlink_to(tmp_path / 'gone')
    with pytest.raises(UserError, match='checkpoints/5 is a link to .*gone, which is not there. Mount its drive'):
        train.restore_variables(run.config, run.workdir, 'latest')
    (checkpoints / '5').unlink()
    elsewhere.rename(checkpoints / '05')  # by hand, and no checkpoint
    assert train.restore_variables(run.config, run.workdir, 'latest')[2]['step'] == 4
    deny(lambda path: path == str(checkpoints), 'listdir')
    with pytest.raises(UserError, match='checkpoints cannot be read: Permission denied. Take the rights to read'):
        train.restore_variables(run.config, run.workdir, 'latest')


@pytest.mark.parametrize('names', [('config.json',), ('metrics.jsonl',), ('config.json', 'run.json', 'metrics.jsonl')])
def test_files_of_a_run_without_a_checkpoint_are_not_replaced(run, tmp_path, names):
    """Of one that lost its checkpoints, or of another program."""
    new = tmp_path / 'new'
    new.mkdir()
    contents = {name: (run.workdir / name).read_bytes() for name in names}
    for name, content in contents.items():
        (new / name).write_bytes(content)
    with pytest.raises(UserError, match=rf'new holds {" and ".join(names)} and no checkpoint: .* or move these files'):
        run(new)
    assert {name: (new / name).read_bytes() for name in names} == contents


@pytest.mark.parametrize('step', [0, 4])
def test_a_start_that_left_no_checkpoint_may_be_given_again(run, tmp_path, step):
    """With another config too. It has logged until the second was due; a start from a step is one of a run."""
    new = tmp_path / 'new'
    new.mkdir()
    shutil.copy(run.workdir / 'config.json', new)
    stored = json.loads((run.workdir / 'run.json').read_text())
    stored['starts'][-1]['step'] = step
    (new / 'run.json').write_text(json.dumps(stored))
    lines = (run.workdir / 'metrics.jsonl').read_text().splitlines(keepends=True)
    (new / 'metrics.jsonl').write_text(''.join(line for line in lines if json.loads(line)['step'] <= 4))
    run.config.train.learning_rate = 0.5
    if step:
        with pytest.raises(UserError, match='and no checkpoint'):
            run(new)
    else:
        assert run(new)['step'] == 5


def test_settings_that_change_no_result_may_change(run):
    """How often is logged and saved, and how much is kept; but processes of one run must have them alike."""
    run.config.train.update({'log_every': 1, 'checkpoint_every': 3, 'keep': 1})
    assert run()['step'] == 5
    compared = train._compared(run.config, {})
    assert {'train.log_every', 'train.checkpoint_every', 'train.keep', 'train.remat'} <= compared.keys()
    assert 'data.threads' not in compared and 'data.root' not in compared


def test_a_start_that_computes_otherwise_is_said_and_kept(run, capsys):
    """By another commit, with other versions; the record of what is the same is that of the last start."""
    shutil.rmtree(run.workdir / 'checkpoints/5')
    run()
    assert 'versions.' not in capsys.readouterr().out
    path = run.workdir / 'run.json'
    stored = json.loads(path.read_text())
    first = stored['starts'][0]
    first['commit'], first['versions']['jax'] = 'a' * 40, '0.0.1'
    path.write_text(json.dumps(stored))
    shutil.rmtree(run.workdir / 'checkpoints/5')
    starts = run()['starts']
    said = capsys.readouterr().out
    assert f'note: since the last start of this run commit is {starts[1]["commit"]}, was {"a" * 40}; ' in said
    assert f'versions.jax is {jax.__version__}, was 0.0.1\n' in said and 'device' not in said
    assert [start['step'] for start in starts] == [0, 4] and starts[0]['versions'] == first['versions']
    assert starts[0].keys() == {'step', 'commit', 'date', 'versions'} and 'versions' not in starts[1]


def test_scoring_says_whose_settings_count(run, monkeypatch, capsys):
    """A field given by hand that is not the network's changes nothing, which one line says; the same is no news."""
    monkeypatch.setattr(study, 'score', lambda config, *_: config.model)
    given = '--mode=eval --config=quickstart --config.model.rates=(2,)'
    for source in (f'--workdir={run.workdir}', f'--weights={run.workdir / "weights.safetensors"}'):
        for field, line in (('channels=24', 'model.channels=12, not 24'), ('channels=12', ''), ('dtype=bfloat16', '')):
            assert main.run([*given.split(), source, f'--config.model.{field}']) == 0
            shown = f'the settings of {source.partition("=")[2]} count: {line}\n' if line else ''
            assert capsys.readouterr().out == shown


def test_a_run_is_scored_in_what_it_was_computed_in(run, monkeypatch):
    """Also where the command does not repeat it; one that asks for another gets that."""
    scored = []
    monkeypatch.setattr(study, 'score', lambda config, *_: scored.append(config.model.dtype))
    for name in ('config.json', 'run.json'):
        path = run.workdir / name
        path.write_text(path.read_text().replace('"dtype": "float32"', '"dtype": "bfloat16"'))
    given = f'--mode=eval --config=quickstart --workdir={run.workdir}'.split()
    assert main.run(given) == main.run([*given, '--config.model.dtype=float32']) == 0
    assert scored == ['bfloat16', 'float32']


def test_a_run_without_both_is_not_taken_for_another(run):
    """Resuming refuses; evaluation takes the command's config."""
    (run.workdir / 'config.json').unlink()
    (run.workdir / 'run.json').unlink()
    with pytest.raises(UserError, match=r'neither config\.json nor run\.json'):
        run()
    assert train.restore_variables(run.config, run.workdir, 'latest')[2] == {'step': 5}


@pytest.mark.parametrize(
    ('field', 'value'),
    [
        *(('step', 'a'), ('step', None), ('config', 5), ('config', {'model': {}}), ('training_data', [])),
        *(('training_data', {'pairs': 5}), ('training_data', {'pairs': {'sha256': 5, 'count': 1}})),
        *(('validation_data', {'pairs': {'sha256': 'a'}}), ('start_from', 'x'), ('start_from', {'sha256': 3})),
    ],
)
def test_a_start_of_other_types_is_named(run, field, value):
    """An object whose parts are not what they must be is damaged too, also in the last of several starts."""
    path = run.workdir / 'run.json'
    stored = json.loads(path.read_text())
    assert folder.starts_of(run.workdir) == stored['starts']
    stored['starts'].append({**stored['starts'][0], field: value})
    path.write_text(json.dumps(stored))
    with pytest.raises(UserError, match=r'run\.json does not hold the starts of a run\. Remove it'):
        run()


@pytest.mark.parametrize('content', ['', '{"starts"', '[]', '{}', '{"starts": 3}', '{"starts": [{}]}'])
def test_a_damaged_run_json_is_named(run, content):
    """With what to do; without it the run goes on."""
    path = run.workdir / 'run.json'
    path.write_text(content)
    for call in (run, lambda: train.restore_variables(run.config, run.workdir, 'latest')):
        with pytest.raises(UserError, match=r'run\.json .*Remove it to go on'):
            call()
    path.unlink()
    assert run()['step'] == 5


def test_a_log_that_was_hurt_keeps_its_whole_lines(tmp_path, capsys):
    """NUL bytes of a power cut, other encodings, lines that are no objects."""
    path = tmp_path / 'metrics.jsonl'
    good = b'{"step": 1, "seconds": 1.5}\n'
    path.write_bytes(good + b'\0\0\0\n' + b'\xff\xfe\n' + b'[1]\n' + b'{"step": 2}\n' + b'{"step": 3, "sec')
    assert log.lines_up_to(path, 5) == [{'step': 1, 'seconds': 1.5}]
    assert '5 lines cannot be read' in capsys.readouterr().out


def test_numbers_that_json_does_not_have_leave_the_log(tmp_path):
    """A line without seconds to go on from is dropped; of others what is not finite is null."""
    path = tmp_path / 'metrics.jsonl'
    lines = ['{"step": 1, "seconds": 1.5, "psnr": Infinity}', '{"step": 2, "seconds": NaN}', '{"step": 3, "a": 1e999}']
    path.write_text('\n'.join(lines))
    assert log.lines_up_to(path, 5) == [{'step': 1, 'seconds': 1.5, 'psnr': None}]
    written = log.Log(tmp_path, 5)
    written.close()
    assert written.elapsed == 1.5 and 'Infinity' not in path.read_text()


def test_validations_without_a_finite_score_are_never_the_best(run, monkeypatch, tmp_path):
    """They are null in the log and no number in the checkpoint; sets that have a score are the mean."""
    scores = iter([{'a': None, 'b': None}, {'a': 20.0, 'b': None}])
    monkeypatch.setattr(train.Watch, 'score', lambda *_: next(scores))
    run.config.train.update({'steps': 4, 'eval_every': 2})
    run(tmp_path / 'new')
    found = [json.loads(line) for line in (tmp_path / 'new/metrics.jsonl').read_text().splitlines()]
    validations = [line for line in found if 'validation_psnr' in line]
    assert [(line['validation_psnr'], line['validation_psnr/a']) for line in validations] == [(None, None), (20, 20)]
    with checkpoint.Checkpoints(tmp_path / 'new/checkpoints', read_only=True) as checkpoints:
        assert checkpoints.find('best') == 4
        for other in ('04', '\uff14', '9' * 5000):  # a folder of scores is called as it is given
            with pytest.raises(UserError, match='is not there; there are'):
                checkpoints.find(other)
    assert checkpoint._psnr({'psnr': float('inf')}) < 0  # as it was written once
    assert study._curve(tmp_path / 'new')[-1]['validation_psnr'] == 20


def test_a_full_drive_under_tensorboard_ends_the_run(run, monkeypatch, tmp_path):
    """In one line, where it is written, and not in a thread that the run then waits for."""
    before = set(threading.enumerate())
    events = log.Events(tmp_path / 'fine', 1)
    assert set(threading.enumerate()) == before
    events.close()
    monkeypatch.setattr(record_writer, 'open_file', lambda _: open('/dev/full', 'wb'))
    with pytest.raises(UserError, match='No space left on device. Free some space'):
        run(tmp_path / 'new')


def test_a_drive_that_fills_while_the_run_goes_on_ends_it(run, monkeypatch, tmp_path):
    """The events that were written stay, and closing the file says nothing a second time."""
    writes = iter([True, False])

    class Filling(record_writer.RecordWriter):
        def flush(self):
            if not next(writes):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            super().flush()

    monkeypatch.setattr(record_writer, 'RecordWriter', Filling)
    with pytest.raises(UserError, match='No space left on device'):
        run(tmp_path / 'new')
    assert len(list((tmp_path / 'new/tensorboard').iterdir())) == 1


def test_a_checkpoint_carries_the_start_that_made_it(run):
    """Not the last one."""
    starts = [{'step': 0, 'commit': 'a'}, {'step': 4, 'commit': 'b'}]
    assert [folder.start_of(starts, step)['commit'] for step in (2, 4, 5)] == ['a', 'a', 'b']


def test_a_drive_without_locks_is_warned_of(run, refuse_locks, capsys):
    """And a real fault is not taken for it."""
    refuse_locks(errno.ENOLCK)
    assert run()['step'] == 5
    assert 'warning: the drive of' in capsys.readouterr().err
    refuse_locks(errno.EIO)
    with pytest.raises(UserError, match='The drive reports a fault'):
        run()


@pytest.mark.parametrize('number', sorted(storage._REMEDIES))
def test_every_fault_of_a_drive_has_its_remedy(number, tmp_path):
    """The message ends in what to do about this one."""
    with pytest.raises(UserError, match='cannot be written') as error, storage.writable(tmp_path):
        raise OSError(number, 'fault')
    assert storage._REMEDIES[number] in str(error.value)


def test_what_is_watched_is_not_trained_on(run):
    """The default holds scenes out of training, and the row of a best checkpoint says nothing of a scored set."""
    record = folder.starts_of(run.workdir)[-1]
    assert record['training_data']['pairs']['count'] == 5 and record['validation_data']['held_out/pairs']['count'] == 1
    _, _, best = train.restore_variables(run.config, run.workdir, 'best')
    assert best['selected_on'] == ['held_out/pairs'] and not study._chosen_by(run.config.data, best)
    run.config.data.eval = 'pairs,pairs/train'  # the latter holds what was held out
    assert study._chosen_by(run.config.data, best) == ['pairs/train']
    del best['validation_data']['held_out/pairs']['whole']  # as it was once
    assert not study._chosen_by(run.config.data, best)
