"""Public sets: every layout is found, checked, prepared and read back; whatever is broken is refused in one message."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from qsnet_jax.configs import default

from qsnet_jax import UserError, storage
from qsnet_jax.data import checking, images, overlap, prepare, prepared, public, sets, sources
from qsnet_jax.training import study

SIZE = (24, 40)


@pytest.fixture
def data(tmp_path):
    """`config.data` with an empty root and an empty folder for prepared sets."""
    data = default.get_config().data
    (tmp_path / 'root').mkdir()
    data.update({'root': str(tmp_path / 'root'), 'tfds_dir': str(tmp_path / 'tfds'), 'partial': True})
    return data


def picture(number, side):
    """A smooth picture: of one colour for each number, the rainy side 60 brighter."""
    height, width = SIZE
    ramp = np.linspace(0, 20, width).astype(np.uint8)[None, :, None]
    return np.full((height, width, 3), 20 + 7 * (int(number) % 20) + 60 * (side == 'rainy'), np.uint8) + ramp


def write_layout(root, layout, clean_half='', numbers=(1, 2, 10)):
    """Files of a layout, three pairs; with +, two rainy images for each clean one."""
    for side, pattern in layout.items():
        for number in numbers:
            for shown in ('1', '2') if '+' in pattern else ('',):
                path = root / (pattern.replace('*', str(number)).replace('+', shown) + '.png')
                path.parent.mkdir(parents=True, exist_ok=True)
                image = picture(number, side)
                if side == 'image':
                    halves = [picture(number, 'clean'), picture(number, 'rainy')]
                    image = np.concatenate(halves if clean_half == 'left' else halves[::-1], axis=1)
                images.save(path, image)


def layout_cases():
    """Every set in every layout in its first split's first folder, and in every folder of every split in the first."""
    for builder in public.SETS.values():
        splits = builder.SPEC.splits.items()
        cases = [(layout, *next(iter((s, e.folders[0]) for s, e in splits))) for layout in builder.SPEC.layouts]
        cases += [(builder.SPEC.layouts[0], split, folder) for split, expected in splits for folder in expected.folders]
        for number, case in enumerate(cases):
            yield pytest.param(builder, *case, id=f'{builder.name}-{number}')


def open_source(name, data, role='eval', cache=1e9):
    return sets.open_source(name, data, role, sources.Cache(cache))


def check_pairs(source):
    """Each pair is what was written, the clean side clean, the seam left out."""
    assert len(source.names) in (3, 6)
    for index, name in enumerate(source.names):
        rainy, clean = source.load(index)
        number = int(name.rpartition('-')[2].partition('_')[0])
        seam = source._seam
        inside = slice(seam, SIZE[1] - seam)
        np.testing.assert_array_equal(clean, picture(number, 'clean')[:, inside])
        np.testing.assert_array_equal(rainy, picture(number, 'rainy')[:, inside])


@pytest.mark.parametrize(('builder', 'layout', 'split', 'folder'), list(layout_cases()))
def test_every_layout_is_prepared_and_read_back(builder, layout, split, folder, data, tmp_path):
    """Each known layout of each set, below a folder of the set's name, in a split's folder; then without the files."""
    home = tmp_path / 'root' / next(iter(builder.SPEC.folders)).upper()
    write_layout(home / folder, layout, builder.SPEC.clean_half)
    source = open_source(f'{builder.name}/{split}', data)
    check_pairs(source)
    pairs = {'1': 1, '2': 2, '10': 10}
    assert {name.partition('_')[0] for name in source.names} == pairs.keys()
    assert sources.fingerprint(source)['count'] == len(source.names)
    data.root = None
    check_pairs(open_source(f'{builder.name}/{split}', data, cache=0))


@pytest.mark.parametrize('builder', list(public.SETS.values()), ids=list(public.SETS))
def test_a_broken_copy_is_refused_with_all_that_is_wrong(builder, data, tmp_path):
    """Orphan, odd width, truncated file, unequal sizes, wrong count: all in one message, and nothing is left."""
    layout, (split, expected) = builder.SPEC.layouts[-1], next(iter(builder.SPEC.splits.items()))
    folder = tmp_path / 'root' / expected.folders[0]
    write_layout(folder, layout, builder.SPEC.clean_half, numbers=range(20, 24))
    side, pattern = next(iter(layout.items()))
    file = [folder / (pattern.replace('*', str(number)).replace('+', '1') + '.png') for number in range(20, 24)]
    file[0].write_bytes(file[0].read_bytes()[:-30])
    images.save(file[1], np.zeros((SIZE[0], SIZE[1] + 1, 3), np.uint8))
    orphan = file[2].name
    if side != 'image':
        other = folder / (list(layout.values())[1].replace('*', '22') + '.png')
        other.unlink()
    data.partial = False
    with pytest.raises(UserError) as refused:
        open_source(f'{builder.name}/{split}', data)
    message = str(refused.value)
    assert f'{file[0]}: is truncated' in message
    assert (f'{orphan} has no' in message) or side == 'image'
    assert '41x' in message or 'x41' in message or '41 pixels wide' in message
    assert expected.count is None or f'the publisher has {expected.count}' in message
    assert f'recognised as {layout[side]}' in message and 'Layouts tried' in message
    assert builder.SPEC.rainy_per_clean == 1 or 'rainy images, expected 14' in message
    assert not list((tmp_path / 'tfds').glob(f'**/{builder.name}'))


def test_the_first_ten_problems_are_named(data, tmp_path):
    """More are counted."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'}, numbers=range(30))
    for number in range(14):
        (tmp_path / f'root/norain-{number}.png').unlink()
    with pytest.raises(UserError, match=r'14 problems.*rain-9\.png has no norain-\*; and 4 more'):
        open_source('rain100h', data)


def test_publishers_count_is_required(data, tmp_path):
    """Three pairs are no Rain100H, unless taking what is there is asked for; the record then says of how many."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    data.partial = False
    with pytest.raises(UserError, match='3 pairs, the publisher has 100.*config.data.partial'):
        open_source('rain100h', data)
    data.partial = True
    assert sources.fingerprint(open_source('rain100h', data))['publisher_count'] == 100
    data.partial = False
    with pytest.raises(UserError, match='holds 3 of the 100 pairs'):
        open_source('rain100h', data)


def test_bytes_and_keys_are_kept(data, tmp_path):
    """Examples hold the files' own bytes, the name and the pair's id; TensorFlow is not loaded."""
    import tensorflow_datasets as tfds

    write_layout(tmp_path / 'root/test', {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'})
    ready = prepared.prepare('rain1400', data)
    decoders = {side: tfds.decode.SkipDecoding() for side in ('rainy', 'clean')}
    examples = tfds.builder_from_directory(str(ready)).as_data_source('test', decoders=decoders)
    found = {(example['name'].decode(), example['pair_id'].decode()) for example in examples}
    assert found == {(f'{number}_{shown}', str(number)) for number in (1, 2, 10) for shown in (1, 2)}
    assert examples[0]['rainy'] == (tmp_path / 'root/test/rainy_image/1_1.png').read_bytes()
    assert examples[0]['clean'] == (tmp_path / 'root/test/ground_truth/1.png').read_bytes()


def test_files_whose_name_says_what_they_are_can_be_read_back(data, tmp_path):
    """TGA has no signature: the name of the file, which a message also says, must come last."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    for path in (tmp_path / 'root').glob('*.png'):
        Image.open(path).save(path.with_suffix('.tga'))
        path.unlink()
    check_pairs(open_source('rain100h', data))


def test_tensorflow_is_not_imported(data, tmp_path):
    """Preparing and reading in a fresh process leaves tensorflow out of sys.modules."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    program = (
        'import sys\n'
        'from qsnet_jax import main\n'
        'from qsnet_jax.configs import default\n'
        'from qsnet_jax.data import prepare\n'
        'from qsnet_jax.training import train\n'
        'config = default.get_config()\n'
        f'config.data.update(dict(root={data.root!r}, tfds_dir={data.tfds_dir!r}, partial=True))\n'
        "config.data.train, config.data.eval = 'pairs', 'rain100h'\n"
        'prepare.prepare(config, find_shared=True)\n'
        "assert 'tensorflow' not in sys.modules, 'TensorFlow was imported'\n"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'eval rain100h' in done.stdout


def test_tfds_users_can_build_it_their_way(data, tmp_path):
    """tfds.builder finds the sets by name and takes the files as a manual download."""
    import tensorflow_datasets as tfds

    write_layout(tmp_path / 'root/test', {'image': '*'}, 'left')
    builder = tfds.builder('rain800', data_dir=str(tmp_path / 'own'), is_partial=True)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=data.root))
    example = builder.as_data_source('test')[0]
    assert example['image'].shape == (SIZE[0], 2 * SIZE[1], 3)
    builder = tfds.builder('rain800/pairs', data_dir=str(tmp_path / 'own'), is_partial=True)
    with pytest.raises(UserError, match='is rain800/halves, not rain800/pairs'):
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=data.root))


def test_densities_are_parts(data, tmp_path):
    """DID-MDN's training folders become one split whose items know their density, and each can be read alone."""
    for part in ('Heavy', 'Light'):
        write_layout(tmp_path / f'root/DID-MDN-training/Rain_{part}/train2018new', {'image': '*'}, 'right')
    source = open_source('rain1200', data, 'train')
    assert sorted(source.names) == sorted(f'{part}-{number}' for part in ('heavy', 'light') for number in (1, 2, 10))
    check_pairs(source)
    heavy = open_source('rain1200/train/heavy', data)
    assert heavy.names == ['heavy-1', 'heavy-2', 'heavy-10']
    assert open_source('rain1200/light', data, 'train').names == ['light-1', 'light-2', 'light-10']
    with pytest.raises(UserError, match='rain1200/train, rain1200/heavy'):
        open_source('rain1200/foggy', data, 'train')


def test_roles_have_their_splits(data, tmp_path):
    """Training reads train; evaluation test, or val where there is no test; another can be named."""
    for split, number in (('train', 1), ('val', 2)):
        write_layout(tmp_path / 'root/RainTrainL' / split, {'rainy': 'rain-*', 'clean': 'norain-*'}, numbers=[number])
    assert open_source('rain_train_l', data, 'train').names == ['1']
    assert open_source('rain_train_l', data).names == ['2']
    assert open_source('rain_train_l/train', data).names == ['1']
    with pytest.raises(UserError, match='No test in rain_train_l; there are rain_train_l/train, rain_train_l/val'):
        open_source('rain_train_l/test', data)


def test_missing_sets_say_where_they_are_had(data):
    """The publisher's page in words, the folder to give, the layouts."""
    data.root = None
    with pytest.raises(UserError, match=r'(?s)DID-MDN authors. repository.*--config.data.root=FOLDER.*both halves'):
        open_source('rain1200', data)
    with pytest.raises(UserError, match='training set, which lies otherwise, .* Layouts known: rain'):
        open_source('spa', data)


def test_a_root_with_other_sets_is_not_this_one(data, tmp_path):
    """Rain100L's folder is not taken for Rain100H."""
    write_layout(tmp_path / 'root/Rain100L', {'rainy': 'rain-*', 'clean': 'norain-*'})
    with pytest.raises(UserError, match='rain100h is neither in'):
        open_source('rain100h', data)
    assert len(open_source('rain100l', data).names) == 3


def test_a_folder_of_the_sets_name_in_another_layout_is_told(data, tmp_path):
    """That it is there, and what takes files of any name."""
    write_layout(tmp_path / 'root/Rain100L', {'rainy': 'mine/*', 'clean': 'yours/*'})
    with pytest.raises(UserError, match='rain100l is not in .*root/Rain100L holds no files in a layout known'):
        open_source('rain100l', data)


def test_one_folder_under_two_names_is_refused(data, tmp_path):
    """The same files cannot be Rain100H and Rain100L; test_ii is Rain100H by another name."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    for names in ('rain100h,rain100l', 'test_ii,rain100l'):
        with pytest.raises(UserError, match='rain100h and rain100l are the same files'):
            sets.open_evaluation(data, names, sources.Cache(0))
    opened = sets.open_evaluation(data, 'rain100h,test_ii', sources.Cache(0))
    assert sources.fingerprint(opened['rain100h']) == sources.fingerprint(opened['test_ii'])


def test_other_files_than_prepared_are_refused_or_replace(data, tmp_path, capsys):
    """A root that changed since is an error for training and evaluation, and prepared anew when asked."""
    layout = {'rainy': 'rain-*', 'clean': 'norain-*'}
    write_layout(tmp_path / 'root', layout, numbers=(1, 2))
    assert open_source('rain100h', data).names == ['1', '2']
    write_layout(tmp_path / 'root', layout, numbers=(3,))
    with pytest.raises(UserError, match='was prepared from other files.*--mode=prepare'):
        open_source('rain100h', data)
    config = default.get_config()
    config.data.update({**data.to_dict(), 'train': 'drawn_light', 'eval': 'drawn_light', 'validation': 'rain100h'})
    prepare.prepare(config, find_shared=False)  # as the message says, whatever the set is named for
    assert 'validation rain100h ' in capsys.readouterr().out
    assert open_source('rain100h', data).names == ['1', '2', '3']


def test_a_broken_new_copy_leaves_the_old_one(data, tmp_path):
    """Replacing is refused before anything is removed."""
    layout = {'rainy': 'rain-*', 'clean': 'norain-*'}
    write_layout(tmp_path / 'root', layout)
    prepared.prepare('rain100h', data)
    (tmp_path / 'root/rain-1.png').write_text('broken')
    with pytest.raises(UserError, match='1 problem'):
        prepared.prepare('rain100h', data, replace=True)
    data.root = None
    check_pairs(open_source('rain100h', data))


@pytest.mark.parametrize('replace', [False, True])
def test_a_download_in_the_place_of_the_prepared_set_is_kept(replace, data, tmp_path):
    """One folder as root and for prepared sets is refused before anything is removed, also beside such a set."""
    home = tmp_path / 'root/rain800'
    if replace:
        write_layout(home / 'test', {'image': '*'}, 'left', numbers=(1,))
        ready = prepared.prepare('rain800', data)
        shutil.copytree(ready.parent, home / ready.parent.name)
    write_layout(home / 'test', {'image': '*'}, 'left')
    before = sorted(home.rglob('*'))
    data.tfds_dir = data.root
    with pytest.raises(UserError, match=r'rain800, where the prepared set belongs, holds other files: .*\.png'):
        prepared.prepare('rain800', data, replace)
    assert sorted(home.rglob('*')) == before


def test_changed_bytes_are_noticed_when_read(data, tmp_path):
    """A prepared file that rots is refused, not scored."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    ready = prepared.prepare('rain100h', data)
    source = open_source('rain100h', data)
    source._files[0]['rainy'][1] = '0' * 64
    with pytest.raises(UserError, match=r'is damaged: the bytes of rain-1\.png have changed'):
        source.load(0)
    assert ready.is_dir()


def test_what_a_kill_at_the_very_end_left_goes(data, tmp_path):
    """By the next command, which finds the set whole; unless another process is at work there."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    ready = prepared.prepare('rain100h', data)
    left = [tmp_path / f'tfds/.rain100h.{kind}' for kind in ('building', 'old')]
    for folder in left:
        (folder / 'rain100h').mkdir(parents=True)
    with storage.locked(tmp_path / 'tfds/.rain100h.lock', waits=True):
        assert prepared.prepare('rain100h', data) == ready and all(folder.exists() for folder in left)
    assert prepared.prepare('rain100h', data) == ready and not any(folder.exists() for folder in left)


def test_a_damaged_prepared_set_is_said_once(data, tmp_path):
    """However many of its files that concerns, with the remedy of prepared sets alone."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    ready = prepared.prepare('rain100h', data)
    for file in ready.glob('*.array_record*'):
        file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(UserError, match=r'is damaged: .*prepare again \(--mode=prepare\)\.$') as caught:
        checking.check('rain100h', open_source('rain100h', data))
    assert str(caught.value).count('is damaged') == 1
    assert study._fault_of_one(caught.value) is None  # every run of a study would meet it


def test_pairs_and_prepared_sets_have_one_fingerprint(data, tmp_path):
    """The same files, read as they lie or through TFDS, are the same data."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    plain, prepared = (sources.fingerprint(open_source(name, data)) for name in ('pairs', 'rain100h'))
    assert plain['sha256'] == prepared['sha256'] and plain['count'] == prepared['count']


def test_rain13k_stands_for_its_five_test_sets(data, tmp_path):
    """Evaluation opens all five, training the training split."""
    layout = {'rainy': 'input/*', 'clean': 'target/*'}
    write_layout(tmp_path / 'root/Rain13K/train', layout)
    for number, name in enumerate(('Test100', 'Rain100H', 'Rain100L', 'Test1200', 'Test2800')):
        write_layout(tmp_path / 'root/Rain13K/test' / name, layout, numbers=(number,))
    opened = sets.open_evaluation(data, 'rain13k', sources.Cache(0))
    assert list(opened) == [f'rain13k/{split}' for split in ('test100', 'rain100h', 'rain100l', 'test1200', 'test2800')]
    assert [source.names for source in opened.values()] == [['0'], ['1'], ['2'], ['3'], ['4']]
    assert open_source('rain13k', data, 'train').names == ['1', '2', '10']


def test_test_i_is_the_listed_draw():
    """test_i.txt holds what the stated seed draws: 100 names of each set, all of them existing names."""
    drawn = sets.draw_test_i()
    lines = [line.split() for line in sets.TEST_I_FILE.read_text().splitlines()[1:]]
    assert lines == [[name, pair] for name, pairs in drawn.items() for pair in pairs]
    assert {name: len(set(pairs)) for name, pairs in drawn.items()} == dict.fromkeys(sets.TEST_I, 100)


def test_test_i_takes_what_is_there(data, tmp_path, capsys):
    """Of two of the three sets, one of them with some of its listed pairs; says how many."""
    drawn = sets.draw_test_i()
    write_layout(tmp_path / 'root/Rain800/test', {'image': '*'}, 'left', numbers=(1, 2, 3))
    listed = sorted({name.partition('_')[0] for name in drawn['rain1400']})[:2]
    write_layout(
        tmp_path / 'root/Rain1400/testing', {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'}, numbers=listed
    )
    del tmp_path
    source = sets.open_source('test_i', data, 'eval', sources.Cache(0))
    expected = [f'rain800-{number}' for number in (1, 2, 3)]
    expected += [
        f'rain1400-{name}' for name in drawn['rain1400'] if name.split('_')[0] in listed and name[-2:] in ('_1', '_2')
    ]
    assert source.names == expected
    assert f'{len(expected)} of 300 pairs; no test split of rain1200' in capsys.readouterr().out
    notes = sources.fingerprint(source)
    assert notes['publisher_count'] == 300 and notes['parts']['rain800'] == 3
    assert len(source.load(0)) == 2
    data.partial = False
    with pytest.raises(UserError, match=r'holds 3 of the 100 pairs of rain800/test'):
        sets.open_source('test_i', data, 'eval', sources.Cache(0))
    data.root, data.tfds_dir = None, data.tfds_dir + '-none'
    with pytest.raises(UserError, match='test_i needs at least one of'):
        sets.open_source('test_i', data, 'eval', sources.Cache(0))


TREES = {
    'PReNet': {
        'test/Rain100H': {'rainy': 'rainy/rain-*', 'clean': 'norain-*'},
        'test/Rain100L': {'rainy': 'rainy/rain-*', 'clean': 'norain-*'},
        'train/RainTrainH': {'rainy': 'rain-*', 'clean': 'norain-*'},
        'test/Rain1400': {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'},
        'train/Rain12600': {'rainy': 'rainy_image/*_+', 'clean': 'ground_truth/*'},
    },
    'Restormer': {
        'train/Rain13K': {'rainy': 'input/*', 'clean': 'target/*'},
        'test/Test100': {'rainy': 'input/*', 'clean': 'target/*'},
        'test/Rain100H': {'rainy': 'input/*', 'clean': 'target/*'},
        'test/Rain100L': {'rainy': 'input/*', 'clean': 'target/*'},
        'test/Test1200': {'rainy': 'input/*', 'clean': 'target/*'},
        'test/Test2800': {'rainy': 'input/*', 'clean': 'target/*'},
    },
}


@pytest.mark.parametrize(
    ('tree', 'found'),
    [
        ('PReNet', {'rain100h': 'test', 'rain100l': 'test', 'rain_train_h': 'train', 'rain1400': 'train test'}),
        (
            'Restormer',
            {
                'rain13k': 'train test100 rain100h rain100l test1200 test2800',
                'rain800': 'test',
                'rain100h': 'test',
                'rain100l': 'test',
                'rain1200': 'test',
            },
        ),
    ],
)
def test_trees_that_people_keep_are_understood(tree, found, data, tmp_path):
    """Below one root, each set finds its own splits, and sets that are not there find none."""
    for number, (folder, layout) in enumerate(TREES[tree].items()):
        write_layout(tmp_path / 'root' / folder, layout, numbers=(number,))
    for name in public.SETS:
        scan = public.scan(name, data.root)
        splits = ' '.join(scan.splits) if scan else None
        assert splits == found.get(name), name


def test_a_closed_folder_beside_a_set_does_not_stop_it(data, tmp_path, monkeypatch):
    """What the system or others keep there is no business of the set; its own folder and the root are."""
    closed, listed = {'lost+found', 'private'}, pathlib.Path.iterdir

    def refuse(path):
        if path.name in closed:
            raise PermissionError(13, 'Permission denied')
        return listed(path)

    for name in (*closed, '.Rain100H'):
        (tmp_path / 'root' / name).mkdir()
    write_layout(tmp_path / 'root/Rain100H', {'rainy': 'rain-*', 'clean': 'norain-*'})
    monkeypatch.setattr(pathlib.Path, 'iterdir', refuse)
    for name, splits in (('rain100h', ['test']), ('rain800', None)):
        scan = public.scan(name, data.root)
        assert (scan and list(scan.splits)) == splits
    for name in ('Rain100H', 'root'):
        closed.add(name)
        with pytest.raises(UserError, match=f'{name} cannot be read: Permission denied'):
            public.scan('rain100h', data.root)


def test_a_root_of_another_name_is_refused(data, tmp_path):
    """A folder called Rain100L is not Rain100H, nor ID-CGAN's DID-MDN, although their files lie alike."""
    write_layout(tmp_path / 'Rain100L', {'rainy': 'rain-*', 'clean': 'norain-*'})
    write_layout(tmp_path / 'ID-CGAN/test_syn', {'image': '*'}, 'left')
    for folder, name in (('Rain100L', 'rain100h'), ('ID-CGAN', 'rain1200')):
        data.root = str(tmp_path / folder)
        with pytest.raises(UserError, match=f'{name} is neither in'):
            open_source(name, data)


def test_a_test_set_can_be_scored_without_its_training_set(data, tmp_path):
    """SPA-Data's, which lies as nobody else's: the message says how, and so it is done."""
    home = tmp_path / 'root/SPA-Data'
    write_layout(home / 'testing/real_test_1000', {'rainy': 'rain/*', 'clean': 'gt/*gt'})
    (home / 'training/real_world/1').mkdir(parents=True)
    images.save(home / 'training/real_world/1/a.png', picture(1, 'rainy'))
    with pytest.raises(UserError, match='train: .*; for another split alone, name its folder by --config.data.root'):
        open_source('spa/test', data)
    data.root = str(home / 'testing')
    assert len(open_source('spa/test', data).names) == 3


def test_halves_the_wrong_way_round_are_refused(data, tmp_path):
    """A set of unknown name whose clean halves have more edges than the rainy ones is another set."""
    generator = np.random.default_rng(0)
    for number in range(3):
        smooth, rough = np.full((24, 40, 3), 90, np.uint8), generator.integers(256, size=(24, 40, 3), dtype=np.uint8)
        path = tmp_path / f'root/test/{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        images.save(path, np.concatenate((smooth, rough), axis=1))
    assert len(open_source('rain800', data).names) == 3
    with pytest.raises(UserError, match='the right halves, which are clean in rain1200, have more edges'):
        open_source('rain1200', data)


def test_large_splits_need_neither_memory_nor_tensorflow(data, tmp_path, monkeypatch):
    """TFDS's own writer would go through TensorFlow beyond its buffer; ours writes example by example, in shards."""
    from tensorflow_datasets.core import shuffle

    monkeypatch.setattr(shuffle, 'MAX_MEM_BUFFER_SIZE', 1000)
    monkeypatch.setattr(public, 'EXAMPLES_PER_SHARD', 7)
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'}, numbers=range(20))
    ready = prepared.prepare('rain100h', data)
    assert len(list(ready.glob('*.array_record*'))) == 3
    source = open_source('rain100h', data)
    assert source.names == [str(number) for number in range(20)]
    for index in (0, 6, 7, 19):
        np.testing.assert_array_equal(source.load(index)[1], picture(index, 'clean'))


@pytest.mark.parametrize('victim', ['metadata.json', 'features.json', '*.array_record*'])
def test_a_prepared_set_that_is_not_whole_is_refused(victim, data, tmp_path):
    """A lost or cut file of the prepared set is a message that says what to do."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    ready = prepared.prepare('rain100h', data)
    data.root = None
    path = next(ready.glob(victim))
    content = path.read_bytes()
    for left in (content[: len(content) // 2], None):
        path.write_bytes(left) if left else path.unlink()
        with pytest.raises(UserError, match='is damaged.*prepare again'):
            open_source('rain100h', data).load(0)


@pytest.mark.parametrize('splits', [[], {'test': None}, {'test': {'items': []}}, {'test': {'items': [{}]}}])
def test_a_prepared_set_that_was_edited_is_refused(splits, data, tmp_path):
    """JSON, but of another shape."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    ready = prepared.prepare('rain100h', data)
    stored = json.loads((ready / 'metadata.json').read_text())
    (ready / 'metadata.json').write_text(json.dumps({**stored, 'splits': splits}))
    with pytest.raises(UserError, match='is damaged: metadata.json .*prepare again'):
        open_source('rain100h', data)


def test_a_folder_whose_name_is_not_utf_8_is_refused(data, tmp_path):
    """ArrayRecord takes no other names."""
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    data.tfds_dir = os.fsdecode(os.fsencode(tmp_path) + b'/n\xe4cht')
    with pytest.raises(UserError, match='is not UTF-8, as ArrayRecord asks. Name another --config.data.tfds_dir'):
        prepared.prepare('rain100h', data)


def test_prepared_sets_lie_in_a_folder(data, tmp_path, monkeypatch):
    """file:// is a folder; any other address would become one called gs: below the current folder."""
    monkeypatch.chdir(tmp_path)
    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    data.tfds_dir = f'file://{tmp_path}/there'
    assert prepared.prepare('rain100h', data).is_relative_to(tmp_path / 'there')
    data.tfds_dir = 'gs://bucket/there'
    with pytest.raises(UserError, match='a folder of this machine, not in gs://bucket/there .--config.data.tfds_dir'):
        prepared.prepare('rain100h', data)
    assert not (tmp_path / 'gs:').exists()


def test_files_replaced_by_others_of_the_same_size_are_noticed(data, tmp_path):
    """--mode=prepare compares contents, not only names and sizes."""
    from PIL import Image

    for number in (1, 2):
        for side in ('rain', 'norain'):
            Image.fromarray(picture(number, side)).save(tmp_path / f'root/{side}-{number}.bmp')
    prepared.prepare('rain100h', data)
    Image.fromarray(picture(9, 'clean')).save(tmp_path / 'root/norain-2.bmp')
    prepared.prepare('rain100h', data, replace=True)
    np.testing.assert_array_equal(open_source('rain100h', data).load(1)[1], picture(9, 'clean'))


def test_a_full_disk_is_a_message(data, tmp_path, monkeypatch):
    """ArrayRecord's RuntimeError comes out as one, and leaves nothing."""

    def fail(*_arguments):
        raise RuntimeError('No space left on device')

    write_layout(tmp_path / 'root', {'rainy': 'rain-*', 'clean': 'norain-*'})
    monkeypatch.setattr(public.tfds.core.SequentialWriter, 'add_examples', fail)
    with pytest.raises(UserError, match='cannot be written: No space left'):
        prepared.prepare('rain100h', data)
    assert not [path for path in (tmp_path / 'tfds').iterdir() if path.is_dir()]


def test_nothing_left_after_exclusion_is_refused(data, tmp_path):
    """Training on what is scored leaves no image, which is said."""
    generator = np.random.default_rng(0)
    (tmp_path / 'root/again').mkdir(parents=True, exist_ok=True)
    for number in range(2):
        image = generator.integers(256, size=(40, 60, 3), dtype=np.uint8)
        for side in ('rain', 'norain'):
            images.save(tmp_path / f'root/{side}-{number}.png', image)
            Image.fromarray(image).save(tmp_path / f'root/again/{side}-{number}.bmp')
    data.update({'train': 'pairs', 'exclude': 'rain100h'})
    with pytest.raises(UserError, match='Training on pairs and evaluation on rain100h would both read the same files'):
        sets.open_training(data, sources.Cache(0))
    data.train = 'pairs/again'
    with pytest.raises(UserError, match='Nothing is left of pairs/again without rain100h'):
        sets.open_training(data, sources.Cache(0))
    assert overlap.THRESHOLD < 1


@pytest.mark.slow
def test_a_kill_leaves_nothing_that_looks_finished(data, tmp_path):
    """Killed at five moments after it touched what it builds in; then prepared whole by the same command."""
    layout = {'rainy': 'rain-*', 'clean': 'norain-*'}
    generator = np.random.default_rng(0)
    (tmp_path / 'root').mkdir(exist_ok=True)
    for number in range(60):
        image = generator.integers(256, size=(160, 200, 3), dtype=np.uint8)
        for pattern in layout.values():
            images.save(tmp_path / 'root' / (pattern.replace('*', str(number)) + '.png'), image)
    command = [
        *(sys.executable, '-m', 'qsnet_jax.main', '--mode=prepare', '--config=configs/quickstart.py'),
        *(f'--config.data.root={data.root}', f'--config.data.tfds_dir={data.tfds_dir}', '--config.data.partial'),
        *('--config.data.train=drawn_light', '--config.data.eval=rain100h'),
    ]
    building = tmp_path / 'tfds/.rain100h.building'

    def touched():
        with contextlib.suppress(FileNotFoundError):
            return building.stat().st_ctime_ns
        return None

    for moment in range(5):
        before = touched()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=os.getcwd())
        while process.poll() is None and touched() in (None, before):
            time.sleep(0.01)
        time.sleep(0.15 * moment)
        was_running = process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
        is_ready = prepared._versions(tmp_path / 'tfds/rain100h')
        assert moment > 0 or (was_running and not is_ready)
        if is_ready:
            assert len(open_source('rain100h', data).names) == 60
    assert subprocess.run(command, capture_output=True).returncode == 0
    source = open_source('rain100h', data)
    assert len(source.names) == 60 and source.load(59)[0].shape == (160, 200, 3)
    assert not building.exists()


@pytest.mark.slow
def test_real_rain800_has_its_known_counts_and_scores(data_root, data):
    """Rain800 as it lies there: 335 and 47 pairs, the halves the right way round, the input at 22.5 dB Y."""
    from qsnet_jax import metrics

    data.root = str(data_root / 'Rain800')
    assert len(open_source('rain800', data, 'train').names) == 335
    source = open_source('rain800', data)
    assert len(source.names) == 47
    scores = [metrics.psnr(*source.load(index), 'y') for index in range(47)]
    assert np.mean(scores) == pytest.approx(22.47, abs=0.05)
    slopes = [[np.abs(np.diff(image.astype(float), axis=1)).mean() for image in source.load(i)] for i in range(47)]
    assert sum(rainy > clean for rainy, clean in slopes) >= 46  # rain adds edges, also where it darkens the picture


@pytest.mark.slow
def test_real_rain_train_sets_have_their_known_counts_and_scores(data_root, data, tmp_path):
    """RainTrainL and RainTrainH in their publisher's layout: 155, 35 and 18 pairs, input 25.64, 26.99, .845, 13.16."""
    from qsnet_jax import metrics

    for part in ('RainTrainL/train', 'RainTrainL/val', 'RainTrainH/train'):
        kept = default.get_config().data
        kept.root = str(data_root)
        source = open_source(f'layers/{part}', kept, cache=0)
        (tmp_path / 'root' / part).mkdir(parents=True)
        for index, name in enumerate(source.names):
            for side, image in zip(('rain', 'norain'), source.load(index), strict=True):
                images.save(tmp_path / 'root' / part / f'{side}-{name.rpartition("-")[2]}.png', image)
    names = ('rain_train_l', 'rain_train_l/val', 'rain_train_h')
    opened = [open_source(name, data, 'train') for name in names]
    assert [len(source.names) for source in opened] == [155, 35, 18]
    light, heavy = ([source.load(index) for index in range(len(source.names))] for source in opened[1:])
    assert np.mean([metrics.psnr(*pair, 'rgb') for pair in light]) == pytest.approx(25.64, abs=0.005)
    assert np.mean([metrics.psnr(*pair, 'y') for pair in light]) == pytest.approx(26.99, abs=0.005)
    assert np.mean([metrics.ssim(*pair, 'y') for pair in light]) == pytest.approx(0.845, abs=0.0005)
    assert np.mean([metrics.psnr(*pair, 'rgb') for pair in heavy]) == pytest.approx(13.16, abs=0.005)


@pytest.mark.slow
def test_a_training_crop_costs_little_more_than_its_copy(data_root, data):
    """Cut, shuffled and batched; both take turns and cores are timed, so that other programs slow both."""
    from qsnet_jax.data import batches

    data.update({'root': str(data_root / 'Rain800'), 'train': 'rain800', 'crop': 256, 'batch': 8})
    dealt = batches.deal(sets.open_training(data, sources.Cache(4e9)), data, 0)
    stream = batches.iterate(dealt, 0, threads=2, prefetch=16)
    for _ in range(80):  # all images are decoded by then
        next(stream)
    photos = np.zeros((16, 400, 500, 3), np.uint8)

    def seconds(batch):
        begun = time.process_time()
        for number in range(50):
            batch(number)
        return time.process_time() - begun

    def copied(number):
        return np.stack([photo[number : number + 256, number : number + 256] for photo in photos])

    ratios = [seconds(lambda _: next(stream)) / seconds(copied) for _ in range(7)]
    assert min(ratios) < 6, ratios
