"""Variants that are what they say, and studies that end in the same rows however they were interrupted."""

import errno
import importlib
import json
import os
import pathlib
import shutil
import sys

import jax
import numpy as np
import pytest
from absl import flags
from ml_collections import config_dict, config_flags
from qsnet_jax.configs import release, studies
from tensorboardX.proto import event_pb2

from qsnet_jax import UserError, command_line, fields, main, memory, model, storage
from qsnet_jax.data import images, sets, sources
from qsnet_jax.evidence import evaluate
from qsnet_jax.flag_table import FLAGS
from qsnet_jax.training import checkpoint, folder, log, planning, study
from qsnet_jax.weights import files

pytestmark = pytest.mark.usefixtures('lenient_promotion')

NAMES = ('losses', 'sharing', 'scales', 'loss_weights', 'atrous_rates', 'encoder_stride')


@pytest.fixture
def tiny_study(tiny_config):
    """Two variants of a tiny run, and one seed."""
    tiny_config.train.steps = 4
    variants = {'paper': {}, 'flipped': {'data': {'flip': True}}}  # which compiles once
    tiny_config.study = config_dict.ConfigDict({'size': 'tiny', 'seeds': (0,)})
    tiny_config.study.variants = config_dict.ConfigDict(variants, sort_keys=False)
    return tiny_config


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """Folder with runs/ and rows/ of that study, made by the first test that asks for it."""
    return tmp_path_factory.mktemp('finished')


@pytest.fixture
def done(finished, tiny_study, capsys):
    """The same, finished."""
    assert study.study(tiny_study, finished / 'runs', finished) == 0
    capsys.readouterr()
    return finished


def row(path):
    """A row without what differs between any two runs: times and dates."""
    found = json.loads(path.read_text())
    for each in found['sets'].values():
        del each['evaluation_seconds']
    for name in ('date', 'command'):
        found['provenance'].pop(name)
    for name in ('date', 'starts', 'training_seconds', 'command'):
        found['provenance']['training'].pop(name, None)
    for line in found['curve']:
        del line['seconds']
    return found


def rows(folder):
    return {path.name: row(path) for path in sorted((folder / 'rows').glob('*.json'))}


@pytest.mark.parametrize('name', NAMES)
def test_variants_change_what_they_name_and_build(name):
    """Every variant, small and full, is a network that can be built, and differs from the paper's in these fields."""
    module = importlib.import_module(f'qsnet_jax.configs.{name}')
    for size in ('', 'small', 'wide'):
        if (size, name) == ('wide', 'encoder_stride'):  # whose paper's variant has stride 2 already
            continue
        config = module.get_config(size)
        paper = fields.flat(studies.select(config, studies.PAPER).to_dict())
        assert list(config.study.variants) == [studies.PAPER, *module.VARIANTS]
        for variant, overrides in module.VARIANTS.items():
            chosen = module.get_config(f'{size}-{variant}' if size else variant)
            found = fields.flat(chosen.to_dict())
            assert {key for key in paper if paper[key] != found[key]} == overrides.keys()
            model.from_config(chosen.model).check_settings()


def test_what_a_variant_is_scored_on_is_never_trained_on():
    """In a study too, whose variant is the one that is chosen alone; unless it or the command says otherwise."""
    variants = {
        'other': {'data.eval': 'drawn_light'},
        'own': {'data.eval': 'drawn_light', 'data.exclude': 'drawn_wide'},
    }
    for size in ('', 'small'):
        config = studies.make(variants, size)
        for name, excluded in (('other', 'drawn_light'), ('own', 'drawn_wide'), ('paper', config.data.eval)):
            chosen = studies.select(config, name)
            assert chosen.data.exclude == excluded
            assert chosen.to_json() == studies.make(variants, f'{size}-{name}' if size else name).to_json()
    config.data.exclude = 'drawn_heavy'
    assert studies.select(config, 'other').data.exclude == 'drawn_heavy'


@pytest.mark.parametrize('selection', ['tiny', 'V9', 'small-V9', 'large-V1'])
def test_unknown_selections_are_refused(selection):
    """A typing error after the colon does not run something else."""
    with pytest.raises(ValueError, match='not known|no variant'):
        from qsnet_jax.configs import losses

        losses.get_config(selection)


@pytest.mark.parametrize(
    'config',
    ['losses.py:small-V1', 'losses.py:V1', 'release.py:cpu-default', 'release.py:wide-light', 'scales.py:small'],
)
def test_fields_of_a_chosen_variant_can_be_given(config, monkeypatch):
    """Those without a value too, as on the command line; a variant still takes its own."""
    name, _, selection = config.partition('.py:')
    module = importlib.import_module(f'qsnet_jax.configs.{name}')
    values = flags.FlagValues()
    given = ['--config.data.root=here', '--config.data.tfds_dir=there', '--config.data.eval=drawn_light']
    monkeypatch.setattr(sys, 'argv', ['test', *given])  # where ml_collections looks for the fields to define
    config_flags.DEFINE_config_dict('config', module.get_config(selection), flag_values=values)
    values(sys.argv)
    given = values.config
    assert given.data.root == 'here' and given.data.eval == 'drawn_light'
    assert given.data.exclude == 'drawn_light'  # what is scored is never trained on
    assert given.loss.auxiliary == (0 if selection.endswith('V1') else 0.01)


def test_released_mixtures_differ_in_their_sources_alone():
    """At both sizes, and each can be chosen by itself; but three go on from where another ended."""
    goes_on = {'train.start_from', 'train.learning_rate', 'train.steps'}
    for size, width in (('', 132), ('cpu', 48)):
        config = release.get_config(size)
        assert list(config.study.variants) == list(release.VARIANTS) == ['default', 'further', 'light', 'heavy']
        first = fields.flat(planning.variant(config, 'default', 0).to_dict())
        for variant in release.VARIANTS:
            chosen = planning.variant(config, variant, 0, pathlib.Path('runs', config.study.size))
            names = fields.flat(chosen.to_dict())
            differ = {name for name in names if names[name] != first[name]}
            assert differ <= {'data.train'} | (goes_on if variant in release.STRETCHES else set())
            assert sets.parse_names(chosen.data.train) == list(release.VARIANTS[variant].items())
            assert chosen.to_json() == release.get_config(f'{size}-{variant}' if size else variant).to_json()
            assert chosen.model.channels == width and chosen.data.exclude == chosen.data.eval


def test_released_stretches_go_on_in_the_folder_and_with_the_seed_at_hand(tmp_path):
    """Whatever --workdir and the seeds are; one alone goes on where a study without --workdir would have begun."""
    config = release.get_config('wide')
    config.study.seeds = (0, 1)
    before = {variant: start for variant, (start, _, _) in release.WIDE_STRETCHES.items()}
    found = planning.waiting(config, planning.plan(config), tmp_path)
    assert found == {(name, seed): (start, seed) for name, start in before.items() for seed in (0, 1)}
    alone = release.get_config('wide-fourth').train.start_from
    assert alone == 'runs/release-wide/longer-0/weights.safetensors'


@pytest.mark.parametrize(
    ('given', 'start'),
    [
        ([], 'runs/release-wide/longer-0/weights.safetensors'),
        (['--config.seed=1'], 'runs/release-wide/longer-1/weights.safetensors'),
        (['--config.seed=1', '--config.train.start_from=a-{seed}'], 'a-{seed}'),
    ],
)
def test_a_stretch_chosen_alone_goes_on_with_the_seed_of_the_command(given, start):
    """Also in what is written down of it; a file that is given by hand stays as it is."""
    table = command_line.Table(main.VERBS, FLAGS)
    config = command_line.parse('train', ['--config=release:wide-fourth', *given], table).config
    assert config.train.start_from == json.loads(config.to_json())['train']['start_from'] == start
    assert config.copy_and_resolve_references().train.start_from == start


def test_released_mixtures_are_not_scored_on_what_they_are_trained_on(data_root):
    """No file and no background of any source of any mixture is in the sets that they are scored on."""

    def parts(opened):
        return {part for source in opened.values() for i in range(len(source.names)) for part in source.contents(i)}

    config = release.get_config('cpu-default')
    config.data.root = str(data_root)
    own = [name for name in config.data.eval.split(',') if name.startswith('layers')]
    scored = parts(sets.open_evaluation(config.data, own, sources.Cache(0)))
    assert len(scored) == 35 + 35 + 6  # backgrounds, light layers, layers held out of RainTrainH
    names = {name for mixture in release.VARIANTS.values() for name in mixture}
    layered = [name for name in names if name.startswith('layers')]
    config.data.exclude, config.data.train, config.data.validation = None, ','.join(layered), 'drawn_light'
    trained = parts(sets.open_training(config.data, sources.Cache(0)))
    assert len(trained) == 155 + 155 + 12 + 110
    assert not {content for _, content in scored} & {content for _, content in trained}
    drawn = [name.partition('/')[2] for name in names if name.startswith('drawn')]
    assert set(drawn) == {'RainTrainL/train/clean'}


@pytest.mark.parametrize('name', ['losses', 'sharing', 'atrous_rates', 'loss_weights', 'scales'])
def test_one_seed_gives_all_variants_the_same_start(name):
    """The same initial parameters wherever shapes agree, and the same data, crops and seed."""
    config = importlib.import_module(f'qsnet_jax.configs.{name}').get_config('small')
    first = planning.variant(config, studies.PAPER, 3)
    expected = model.initialize(model.from_config(first.model), first.seed)
    for variant in config.study.variants:
        chosen = planning.variant(config, variant, 3)
        assert (chosen.data.to_dict(), chosen.seed) == (first.data.to_dict(), 3)
        found = model.initialize(model.from_config(chosen.model), 3)
        if chosen.model.decoder_groups == first.model.decoder_groups:
            jax.tree.map(np.testing.assert_array_equal, found, expected)
        else:  # kernels of the decoders have other shapes
            np.testing.assert_array_equal(
                found['params']['C_2']['conv']['kernel'], expected['params']['C_2']['conv']['kernel']
            )


def test_a_study_ends_in_a_row_per_variant_and_seed(tiny_study, done, capsys):
    """All rows at the first call, nothing touched at the second, and scores that are those of the weights."""
    found = rows(done)
    assert list(found) == ['tiny-flipped-0.json', 'tiny-paper-0.json']
    times = {path: path.stat().st_mtime_ns for path in done.rglob('*') if path.is_file()}
    assert study.study(tiny_study, done / 'runs', done) == 0
    assert '2 of 2 runs have their rows' in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in done.rglob('*') if path.is_file()}
    first = found['tiny-paper-0.json']
    stored = json.loads((done / 'runs/paper-0/eval/pairs/results.json').read_text())
    assert first['sets']['pairs']['rgb'] == stored['rgb'] and first['seed'] == 0 and first['variant'] == 'paper'
    assert np.mean(first['sets']['pairs']['images']['output_y_psnr']) == pytest.approx(stored['y']['psnr'], abs=1e-4)
    assert first['sets']['pairs']['images']['C_2_rgb_psnr'] and len(first['sets']['pairs']['images']['scene']) == 3
    assert first['sets']['pairs'] != found['tiny-flipped-0.json']['sets']['pairs']  # what is overridden matters
    record = files.load_record(done / 'runs/paper-0/weights.safetensors')
    assert record['scores']['pairs']['rgb'] == stored['rgb']


@pytest.mark.slow
@pytest.mark.parametrize('moment', ['training', 'scoring'])
def test_an_interrupted_study_ends_in_the_same_rows(tiny_study, done, tmp_path, monkeypatch, moment):
    """Broken off in the second run, while it trains or is scored, and started again."""
    place, name, call = {'training': (checkpoint.Checkpoints, 'save', 3), 'scoring': (evaluate, 'format_table', 2)}[
        moment
    ]
    original, calls = getattr(place, name), []

    def break_off(*arguments):
        result = original(*arguments)
        calls.append(1)
        if len(calls) == call:
            raise KeyboardInterrupt
        return result

    with monkeypatch.context() as patch:
        patch.setattr(place, name, break_off)
        with pytest.raises(KeyboardInterrupt):
            study.study(tiny_study, tmp_path / 'runs', tmp_path / 'found')
    assert list(rows(tmp_path / 'found')) == ['tiny-paper-0.json']
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path / 'found') == 0
    assert rows(tmp_path / 'found') == rows(done)


def test_variants_are_named_and_override_fields_of_sections():
    """A hyphen in a name is no size; a field that stands in no section is refused by its name."""
    variants = {'two-units': {'model.units': 2}}
    for selection in ('two-units', 'small-two-units'):
        assert studies.make(variants, selection).model.units == 2
    with pytest.raises(ValueError, match="'mine' overrides 'seed'; write SECTION.FIELD"):
        studies.make({'mine': {'seed': 1}}, '')


def test_fields_that_variants_override_are_told(tiny_study, tmp_path, monkeypatch, capsys):
    """Where some take what was given by hand; where none does the study stops before its first run."""
    monkeypatch.setattr(study, 'run_variant', lambda *_: {})
    given = ['data.flip', 'train.steps', 'study.variants.flipped.data.flip']
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path, given=given) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith('--config')]
    assert told == ['--config.data.flip is not for flipped, which have a value of their own']
    with pytest.raises(UserError, match=r'write --config.study.variants.flipped.data.flip=VALUE'):
        study.study(tiny_study, tmp_path / 'runs', tmp_path, 'flipped', given)
    with pytest.raises(UserError, match=r'--config.seed changes nothing, .* write --config.study.seeds='):
        study.study(tiny_study, tmp_path / 'runs', tmp_path, given=['seed'])


def test_only_one_variant(tiny_study):
    """--only limits a study to a variant, and refuses one that it does not have."""
    assert planning.plan(tiny_study, 'flipped') == [('flipped', 0)]
    with pytest.raises(UserError, match='no variant'):
        planning.plan(tiny_study, 'flippeds')


def test_what_is_named_twice_runs_once(tiny_study):
    """Variants of --only, and seeds."""
    tiny_study.study.seeds = (0, 1, 0)
    assert planning.plan(tiny_study, 'flipped,flipped') == [('flipped', 0), ('flipped', 1)]


def test_sizes_and_variants_name_folders(tiny_study):
    """Not others than those of the study: rows and runs stay where they are looked for."""
    tiny_study.study.variants['a/b'] = config_dict.ConfigDict()
    with pytest.raises(UserError, match="which 'a/b' cannot"):
        planning.plan(tiny_study, 'flipped')
    del tiny_study.study.variants['a/b']
    for size in ('../x', '..', '', '/x', '.x'):
        tiny_study.study.size = size
        with pytest.raises(UserError, match=f"which '{size}' cannot"):
            planning.plan(tiny_study)


@pytest.mark.parametrize('seeds', [(), 3, (0.5,), ('0',), (True,), (0, -1), (2**63,)])
def test_seeds_are_whole_numbers(tiny_study, seeds):
    with tiny_study.unlocked(), tiny_study.study.ignore_type():
        tiny_study.study.seeds = seeds
    with pytest.raises(UserError, match='study.seeds is'):
        planning.plan(tiny_study)


@pytest.mark.parametrize(
    ('variant', 'message'),
    [
        ({'train': {'learning_rate': -1.0}}, 'wild: train.learning_rate is -1'),
        ({'model': {'units': 60}}, 'wild: model.units has 60'),
        ({'data': {'batch': 3}}, 'data.batch is 3'),
        ({'data': {'batch': 10**9}}, r'A batch of 1000000000 x 24 x 24 takes 3,218.7 GiB of memory and .* are free'),
        ({'data': {'eval': 'pair'}}, "wild: Unknown data set 'pair'"),
        ({'data': {'validation': 'pair'}}, "wild: Unknown data set 'pair'"),
        ({'data': {'exclude': 'pair'}}, "wild: Unknown data set 'pair'"),
        ({'model': {'encoder_stride': 4}, 'data': {'crop': 26}}, 'wild: data.crop is 26; it must be a multiple'),
        ({'data': {'root': '/nowhere'}}, 'wild: /nowhere is not a folder'),
        ({'train': {'start_from': '/nowhere.safetensors'}}, 'wild: /nowhere'),
        ({'data': {'train': 'pairs:nan'}}, 'wild: .*pairs:nan'),
        ({'train': {'stepz': 3}}, 'wild: study.variants.wild does not fit .*stepz'),
        ({'train': {'steps': 'x'}}, 'wild: study.variants.wild does not fit'),
    ],
)
def test_every_variant_is_checked_before_the_first_runs(tiny_study, tmp_path, monkeypatch, variant, message):
    tiny_study.study.variants.wild = config_dict.ConfigDict(variant)
    tiny_study.lock()
    monkeypatch.setattr(study, 'run_variant', None)
    with pytest.raises(UserError, match=message):
        study.study(tiny_study, tmp_path / 'runs', tmp_path)


def test_weights_in_the_place_of_a_run_stop_a_study_before_its_first(tiny_study, tmp_path, monkeypatch):
    """A run would replace them; the message names its folder."""
    monkeypatch.setattr(study, 'run_variant', None)
    (tmp_path / 'runs/flipped-0').mkdir(parents=True)
    (tmp_path / 'runs/flipped-0/weights.safetensors').write_text('foreign')
    with pytest.raises(UserError, match='flipped-0 holds weights.safetensors and no checkpoint'):
        study.study(tiny_study, tmp_path / 'runs', tmp_path)


def test_a_begun_run_of_another_config_stops_a_study_before_its_first(tiny_study, tmp_path, monkeypatch):
    """Not after hours, when its turn has come."""
    monkeypatch.setattr(study, 'run_variant', None)
    (tmp_path / 'runs/flipped-0/checkpoints/2').mkdir(parents=True)
    folder.write_config(planning.variant(tiny_study, 'flipped', 0), tmp_path / 'runs/flipped-0')
    tiny_study.train.learning_rate = 0.5
    with pytest.raises(UserError, match='flipped-0 holds a run with another config: train.learning_rate'):
        study.study(tiny_study, tmp_path / 'runs', tmp_path)


@pytest.mark.parametrize(
    'error', [storage.Damaged('Checkpoint 5 is damaged'), memory.Shortage('A step needs 9 GiB'), MemoryError('ran out')]
)
def test_a_run_that_cannot_go_on_leaves_a_row_and_the_others_run(tiny_study, tmp_path, monkeypatch, capsys, error):
    """With its reason, and counted; what would end the others too ends the study."""

    def run(config, _):
        if not config.data.flip:  # the first of the two
            raise error
        return {}

    monkeypatch.setattr(study, 'run', run)
    monkeypatch.setattr(study, '_curve', lambda _: [])
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path) == 1
    assert str(error) in json.loads((tmp_path / 'rows/tiny-paper-0.json').read_text())['failed']
    assert f'paper, seed 0 failed: {error}' in capsys.readouterr().out or isinstance(error, MemoryError)
    assert (tmp_path / 'rows/tiny-flipped-0.json').exists()
    error = UserError('No space left')
    with pytest.raises(UserError, match='No space left'):
        study.study(tiny_study, tmp_path / 'runs', tmp_path / 'other')


@pytest.mark.parametrize('name', ['run.json', 'config.json'])
def test_a_damaged_file_of_one_run_leaves_a_row_and_the_others_run(tiny_study, tmp_path, monkeypatch, name):
    """It is met before the first run and when the turn of its own has come."""
    real = study.run
    monkeypatch.setattr(study, 'run', lambda config, place: real(config, place) if config.data.flip else {})
    monkeypatch.setattr(study, '_curve', lambda _: [])
    place = tmp_path / 'runs/flipped-0'
    (place / 'checkpoints/2').mkdir(parents=True)
    folder.write_config(planning.variant(tiny_study, 'flipped', 0), place)
    (place / name).write_text('{"star')
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path) == 1
    assert f'{place / name} ' in json.loads((tmp_path / 'rows/tiny-flipped-0.json').read_text())['failed']
    assert 'failed' not in json.loads((tmp_path / 'rows/tiny-paper-0.json').read_text())


def test_a_run_that_starts_from_one_that_failed_is_not_begun(tiny_study, tmp_path, monkeypatch):
    """It and what starts from it have rows that say so, and are counted; those after them run."""
    for name, before in (('further', 'paper'), ('longer', 'further')):
        start = {'train': {'start_from': f'{{workdir}}/{before}-{{seed}}/weights.safetensors'}}
        tiny_study.study.variants[name] = config_dict.ConfigDict(start)
    tiny_study.study.variants.last = config_dict.ConfigDict({'data': {'flip': True}})

    def run(config, _):
        if config.train.start_from:
            files.load_weights(config.train.start_from)  # which says that they are not there
        if not config.data.flip:
            raise log.Diverged('The loss is not finite')
        return {}

    monkeypatch.setattr(study, 'run', run)
    monkeypatch.setattr(study, '_curve', lambda _: [])
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path) == 3
    found = {
        name: json.loads((tmp_path / f'rows/tiny-{name}-0.json').read_text()) for name in tiny_study.study.variants
    }
    assert found['paper']['failed'] == 'The loss is not finite'
    assert found['further']['failed'] == 'starts from what paper-0 leaves, which failed'
    assert found['longer']['failed'] == 'starts from what further-0 leaves, which failed'
    assert 'failed' not in found['flipped'] and 'failed' not in found['last']


def test_a_variant_may_start_from_what_another_leaves(tiny_study, tmp_path):
    """Its weights are not there before; without the other, before it, and of another folder they are asked for."""
    start = {'train': {'start_from': '{workdir}/paper-{seed}/weights.safetensors'}}
    tiny_study.study.variants.further = config_dict.ConfigDict(start)
    planning.check(tiny_study, planning.plan(tiny_study), tmp_path)
    chosen = planning.variant(tiny_study, 'further', 3, tmp_path)
    assert chosen.train.start_from == f'{tmp_path}/paper-3/weights.safetensors'
    for only in ('further', 'further,paper'):
        with pytest.raises(UserError, match='further: .*paper-0/weights.safetensors does not exist'):
            planning.check(tiny_study, planning.plan(tiny_study, only), tmp_path)
    tiny_study.study.variants.further.train.start_from = 'runs/tiny/paper-0/weights.safetensors'
    planning.check(tiny_study, planning.plan(tiny_study), pathlib.Path('runs/tiny'))
    with pytest.raises(UserError, match='further: .*does not exist'):
        planning.check(tiny_study, planning.plan(tiny_study), tmp_path)


def test_what_another_run_leaves_is_of_the_network_that_starts_from_it(tiny_study, tmp_path):
    """A field of the network that the other overrides must be repeated, which is said before the first run."""
    start = {'train': {'start_from': '{workdir}/wider-{seed}/weights.safetensors'}}
    tiny_study.study.variants.wider = config_dict.ConfigDict({'model': {'scale_channels': 12, 'dtype': 'bfloat16'}})
    tiny_study.study.variants.further = config_dict.ConfigDict(start)
    with pytest.raises(
        UserError, match=r'further: .*wider-0.* another network: scale_channels is 12 there and 6 here\.'
    ):
        planning.check(tiny_study, planning.plan(tiny_study), tmp_path)
    tiny_study.study.variants.further = config_dict.ConfigDict({**start, 'model': {'scale_channels': 12}})
    planning.check(tiny_study, planning.plan(tiny_study), tmp_path)


def test_the_set_that_watches_is_checked_in_the_folder_that_it_is_read_from(tiny_study, pairs_root, tmp_path):
    """val/, also where test/ is there, which is scored."""
    root = shutil.copytree(pairs_root, tmp_path / 'root')
    shutil.copytree(root / 'val', root / 'test')
    tiny_study.data.update({'root': str(root), 'train': 'pairs', 'eval': 'pairs', 'validation': 'pairs'})
    planning.check(tiny_study, planning.plan(tiny_study), tmp_path)
    next(path for path in sorted(root.glob('val/**/*')) if path.is_file()).unlink()
    planning._check_sources.cache_clear()
    with pytest.raises(UserError, match='val'):
        planning.check(tiny_study, planning.plan(tiny_study), tmp_path)


def test_a_tile_is_checked_before_training(tiny_config, tmp_path, monkeypatch):
    """One that the margins fill stops a run before its first step."""
    monkeypatch.setattr(study.train, 'train', None)
    with pytest.raises(UserError, match='A tile of 1 pixels leaves nothing'):
        study.run(tiny_config, tmp_path, 1)


def test_a_row_of_another_config_is_refused(tiny_study, done):
    """A finished row is not taken for that of other settings."""
    tiny_study.train.learning_rate = 1e-4
    with pytest.raises(UserError, match=r'tiny-paper-0.json holds a run with another config: train.learning_rate'):
        study.study(tiny_study, done / 'runs', done)


def test_a_row_of_other_images_is_refused(tiny_study, done, pairs_root, tmp_path):
    """Rows that lie there already are not shown to someone whose folder holds other pairs."""
    shutil.copytree(pairs_root, tmp_path / 'own')
    tiny_study.data.root = str(tmp_path / 'own')
    assert study.is_done(tiny_study, 'paper', 0, done)  # the same files elsewhere
    images.save(tmp_path / 'own/val/rain-6.png', images.read(tmp_path / 'own/val/norain-6.png'))
    tiny_study.data.root = str((tmp_path / 'own').rename(tmp_path / 'changed'))
    with pytest.raises(UserError, match='is of other images of pairs than'):
        study.study(tiny_study, done / 'runs', done)


@pytest.fixture
def is_done(tiny_study, done, tmp_path):
    """A function: whether the row of a run that began from weights is that of one from others, by their names."""
    shutil.copytree(done / 'rows', tmp_path / 'rows')
    path = tmp_path / 'rows/tiny-paper-0.json'

    def ask(before, name, sha256):
        row = json.loads(path.read_text())
        row['provenance']['config']['train']['start_from'] = before
        row['provenance']['training']['start_from'] = {'sha256': sha256} if sha256 else {}
        path.write_text(json.dumps(row))
        tiny_study.train.start_from = name
        return study.is_done(tiny_study, 'paper', 0, tmp_path)

    return ask


def test_a_row_of_other_weights_is_refused(is_done, done, tmp_path):
    """Or of none; of a copy elsewhere it is not."""
    weights = shutil.copy(done / 'runs/paper-0/weights.safetensors', tmp_path / 'copy.safetensors')
    sha256 = sources.file_hash(weights)
    with pytest.raises(UserError, match='began from other weights: train.start_from was None then and is .*copy'):
        is_done(None, str(weights), None)
    for before in ('first.safetensors', 'runs/tiny/flipped-0/weights.safetensors'):
        assert is_done(before, str(weights), sha256)
        with pytest.raises(UserError, match='was .*safetensors.* then and is None now'):
            is_done(before, None, sha256)
    weights.write_bytes(b'others')
    with pytest.raises(UserError, match='began from other weights'):
        is_done('first.safetensors', str(weights), sha256)
    with pytest.raises(UserError, match='copy.safetensors., which holds others now'):
        is_done(str(weights), str(weights), sha256)


def test_weights_that_are_not_there_any_more_are_no_other_weights(is_done):
    """As long as their name is the same."""
    assert is_done('w.safetensors', 'w.safetensors', 'a' * 64)
    with pytest.raises(UserError, match='began from other weights'):
        is_done('w.safetensors', 'v.safetensors', 'a' * 64)


def test_what_a_run_of_the_study_leaves_is_known_by_its_name(is_done, done, tmp_path):
    """Wherever it lies, and made anew; but a file that is called the same and was given by hand is another."""
    template = '{workdir}/flipped-{seed}/weights.safetensors'
    assert is_done('elsewhere/flipped-0/weights.safetensors', template, 'a' * 64)
    with pytest.raises(UserError, match='began from other weights'):
        is_done('elsewhere/other-0/weights.safetensors', template, 'a' * 64)
    foreign = tmp_path / 'foreign/flipped-0/weights.safetensors'
    foreign.parent.mkdir(parents=True)
    shutil.copy(done / 'runs/paper-0/weights.safetensors', foreign)
    with pytest.raises(UserError, match='began from other weights: .*elsewhere.*foreign'):
        is_done('elsewhere/flipped-0/weights.safetensors', str(foreign), 'a' * 64)


@pytest.mark.slow
def test_a_run_that_diverges_leaves_a_row_and_the_others_run(tiny_study, tmp_path, capsys):
    """What failed stays visible, is counted, and is tried again."""
    tiny_study.study.variants.wild = config_dict.ConfigDict({'train': {'learning_rate': 1e30}})
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path) == 1
    found = json.loads((tmp_path / 'rows/tiny-wild-0.json').read_text())
    assert 'not finite' in found['failed'] and found['provenance']['config']['train']['learning_rate'] == 1e30
    assert (tmp_path / 'rows/tiny-paper-0.json').exists()
    assert not study.is_done(tiny_study, 'wild', 0, tmp_path)


@pytest.mark.parametrize('damage', ['{"sets"', '{}', '{"sets": {"pairs": {}}}', '{"provenance": 3, "sets": {"a": 2}}'])
def test_a_damaged_row_is_made_anew_or_left_out(tiny_study, done, tmp_path, capsys, damage):
    """Made anew where it is asked for; a variant that is not is named in the table's place."""
    shutil.copytree(done / 'rows', tmp_path / 'rows')
    path = tmp_path / 'rows/tiny-flipped-0.json'
    path.write_text(damage)
    assert not study.is_done(tiny_study, 'flipped', 0, tmp_path)
    assert 'It is made anew.' in capsys.readouterr().out
    assert study.study(tiny_study, tmp_path / 'runs', tmp_path, 'paper') == 0
    found = capsys.readouterr().out
    assert f'left out: {path}' in found and 'flipped                      0' in found
    row = json.loads((done / 'rows/tiny-flipped-0.json').read_text())
    del row['sets']['pairs']['rgb']
    path.write_text(json.dumps(row))
    assert 'flipped                      0' in study.summarize(tiny_study, tmp_path)
    assert 'sets.pairs.rgb is missing' in capsys.readouterr().out


def test_a_row_that_may_not_be_read_is_not_made_anew(tiny_study, done, tmp_path, monkeypatch):
    """It may be whole, and of somebody else."""
    shutil.copytree(done / 'rows', tmp_path / 'rows')
    path = tmp_path / 'rows/tiny-flipped-0.json'
    real = pathlib.Path.read_bytes

    def read(self):
        if self == path:
            raise PermissionError(errno.EACCES, 'Permission denied', str(path))
        return real(self)

    monkeypatch.setattr(pathlib.Path, 'read_bytes', read)
    with pytest.raises(UserError, match='tiny-flipped-0.json cannot be read: Permission denied. Take the rights to'):
        study.is_done(tiny_study, 'flipped', 0, tmp_path)


def test_folders_that_take_nothing_are_met_before_the_first_run(tiny_study, tmp_path, monkeypatch):
    """Of the rows, which come last, as of the runs."""
    monkeypatch.setattr(study, 'run', lambda *_: pytest.fail('trained'))
    for taken, flag in (('out/rows', 'results'), ('runs', 'workdir')):
        (tmp_path / taken).parent.mkdir(exist_ok=True)
        (tmp_path / taken).write_text('a file')
        with pytest.raises(UserError, match=f'--{flag}=.*{taken} cannot be written'):
            study.study(tiny_study, tmp_path / 'runs', tmp_path / 'out')
        (tmp_path / taken).unlink()


def test_a_config_without_variants_is_refused(tiny_config, tmp_path):
    """--mode=study of a single run is a mistake."""
    with pytest.raises(UserError, match='variants'):
        study.study(tiny_config, tmp_path, tmp_path)


def test_tensorboard_shows_what_the_row_says(done):
    """Every validation and training value of the row's curve is in the event file, at its step."""
    curve = json.loads((done / 'rows/tiny-paper-0.json').read_text())['curve']
    events = {}
    for path in pathlib.Path(done / 'runs/paper-0/tensorboard').glob('*'):
        data = path.read_bytes()
        while data:  # records: length (8 bytes) and its checksum (4), the event, its checksum (4)
            length = int.from_bytes(data[:8], 'little')
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            events |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
            data = data[16 + length :]
    expected = {
        (f'{"validation" if "validation_psnr" in line else "train"}/{key}', line['step']): line[key]
        for line in curve
        for key in line
        if key != 'step'
    }
    assert expected and any('validation_psnr' in tag for tag, _ in expected)
    for key, value in expected.items():
        assert events[key] == pytest.approx(value, rel=1e-6)  # TensorBoard holds float32


def test_rows_hold_names_as_they_are(tmp_path):
    """A table's guard against spreadsheets does not reach the rows that are compared image by image."""
    columns = [f'output_{protocol}_{measure}' for protocol in evaluate.PROTOCOLS for measure in evaluate.MEASURES]
    names = ['=1+1', "'a", os.fsdecode(b'n\xe4cht'), 'plain']
    (tmp_path / 'eval/pairs').mkdir(parents=True)
    rows = [{'name': name, 'scene': name, **dict.fromkeys(columns, -1.5)} for name in names]
    evaluate.write_csv(tmp_path / 'eval/pairs/per_image.csv', rows)
    result = {'dataset': 'pairs', 'scales': {}, 'provenance': {'dataset': {}, 'evaluation_seconds': 1}}
    images = study._set(result, tmp_path)['images']
    assert images['name'] == images['scene'] == names and images[columns[0]] == [-1.5] * 4


def test_a_set_that_trains_and_scores_the_same_pictures_is_met_before_the_first_run(tiny_study, pairs_root, tmp_path):
    """Also copies of them in two folders; not where no set is left out of training."""
    for side in ('train', 'val'):
        shutil.copytree(pairs_root / 'train', tmp_path / 'pairs' / side)
    tiny_study.data.update({'root': str(tmp_path / 'pairs'), 'exclude': 'pairs'})
    with pytest.raises(UserError, match='paper: Training on pairs and evaluation on pairs would both read the same'):
        planning.check(tiny_study, planning.plan(tiny_study), tmp_path)
    tiny_study.data.exclude = ''
    planning.check(tiny_study, planning.plan(tiny_study), tmp_path)


@pytest.mark.parametrize(
    'field, said',
    [
        ('model.scale_chanels', "there is no field 'scale_chanels' of model .did you mean scale_ch"),
        ('modle.units', "there is no section 'modle' .did you mean model"),
    ],
)
def test_a_misspelt_field_of_a_variant_is_told_with_the_nearest(field, said):
    """In one line, without the fields that there are."""
    config = studies.make({'w': {field: 24}}, 'small').lock()
    with pytest.raises(UserError, match=f'study.variants.w does not fit the config: {said}'):
        planning.variant(config, 'w', 0)


def test_a_study_without_variants_is_none():
    """And one of its variants that holds no fields."""
    config = studies.make({'w': {'model.units': 1}}, 'small')
    with config.unlocked():
        config.study.variants.w = None
        with pytest.raises(UserError, match='study.variants.w is None; expected fields'):
            planning.variant(config, 'w', 0)
        config.study.variants = None
        with pytest.raises(UserError, match='study.variants is None; expected at least one'):
            planning.plan(config)
