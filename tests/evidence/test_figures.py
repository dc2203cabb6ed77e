"""The paper's figures of any photos and methods, with the data behind them."""

import json
import os
import pathlib
import re
import shutil

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image
from test_derain import make

from qsnet_jax import UserError, main, metrics, priors
from qsnet_jax.data import images
from qsnet_jax.evidence import figures, methods, plates, subjects
from qsnet_jax.weights import files


@pytest.fixture(scope='module')
def root(pairs_root, tmp_path_factory):
    """photos/ and clean/ of the generated pairs, out/ and tiny.safetensors of a tiny network, a run and one begun."""
    root, derainer = tmp_path_factory.mktemp('figures'), make()
    (root / 'run').mkdir()
    for path in (root / 'tiny.safetensors', root / 'run' / methods.RUN):
        files.save_weights(path, derainer.variables, derainer.settings)
    (root / 'begun/checkpoints/2').mkdir(parents=True)
    (root / 'begun/run.json').write_text('{}')
    for side in ('photos', 'clean', 'out'):
        (root / side).mkdir()
    for number in (6, 7, 8):
        rainy, clean = (images.read(pairs_root / f'val/{side}-{number}.png') for side in ('rain', 'norain'))
        images.save(root / f'photos/{number}.png', rainy)
        images.save(root / f'clean/{number}.png', clean)
        images.save(root / f'out/{number}.png', derainer(rainy))
    return root


def run(root, tmp_path, figure, named, **options):
    """The picture and the data of one figure."""
    options = {'source': str(root / 'photos'), 'clean': str(root / 'clean'), **options}
    paths = figures.run(figure, output=tmp_path, named=[str(root / each) for each in named], **options)
    return images.read(paths[0]), json.loads(paths[0].with_suffix('.json').read_text())


@pytest.mark.parametrize(
    'figure, named',
    [('1', ['tiny.safetensors']), ('2', []), ('6', ['tiny.safetensors', 'out']), ('8', ['run']), ('9', ['out'])],
)
def test_every_figure_is_a_picture_with_its_data(root, tmp_path, figure, named):
    """Named after the folder; the data say which images and methods it shows, and how it was made."""
    picture, data = run(root, tmp_path, figure, named)
    assert (tmp_path / f'fig-{figure}-photos.png').exists() and picture.std() > 10
    assert data['figure'] == figure and [each['name'] for each in data['images']] == ['6', '7']
    assert len(data['methods']) == len(named) and 'commit' in data['provenance']
    assert {'curves', 'scores'} & data.keys()


def test_a_folder_shows_the_same_as_the_network_that_filled_it(root, tmp_path):
    """Scores of both equal those of the saved images."""
    data = run(root, tmp_path, '6', ['tiny.safetensors', 'out'])[1]
    assert [each.get('count') for each in data['methods']] == [None, 2]  # pictures that the folder gave
    restored, clean = (images.read(root / f'{side}/6.png') for side in ('out', 'clean'))
    assert data['scores']['6']['out'] == data['scores']['6']['tiny'] == pytest.approx(metrics.score(restored, clean))


def test_photos_that_differ_in_their_suffix_are_two(root, tmp_path):
    """Each is shown with its own result, and named with its suffix; all others are named without."""
    (tmp_path / 'photos').mkdir()
    for name, number in (('a.png', 6), ('a.bmp', 7), ('b.png', 8)):
        Image.fromarray(images.read(root / f'photos/{number}.png')).save(tmp_path / 'photos' / name)
    found = subjects.find(str(tmp_path / 'photos'), None, None)
    assert [photo.name for photo in found.photos] == ['a.bmp', 'a.png', 'b']
    results = figures.Restored([methods.parse(str(root / 'tiny.safetensors'))])
    first, second = (results.of(results.methods[0], photo.read(None)) for photo in found.photos[:2])
    np.testing.assert_array_equal(first, images.read(root / 'out/7.png'))
    np.testing.assert_array_equal(second, images.read(root / 'out/6.png'))


def test_a_photo_is_not_its_own_true_image(root):
    """Where --clean names the folder that the photos come from."""
    for source in (root / 'photos', root / 'photos/6.png'):
        with pytest.raises(UserError, match='finds the photos themselves as their true images: 6'):
            subjects.find(str(source), None, str(root / 'photos'))


def test_images_of_sets_whose_names_meet_are_two(tmp_path, tiny_config):
    """The image b-1 of pairs/a, and the image 1 of pairs/a-b."""
    for name, level in (('a/{}-b-1', 50), ('a-b/{}-1', 90)):
        (tmp_path / name).parent.mkdir()
        for side in ('rain', 'norain'):
            images.save(tmp_path / f'{name.format(side)}.png', np.full((8, 8, 3), level, np.uint8))
    tiny_config.data.update({'root': str(tmp_path), 'eval': 'pairs/a,pairs/a-b'})
    names = [photo.name for photo in subjects.find(None, tiny_config, None).photos]
    assert names == ['pairs/a/b-1', 'pairs/a-b/1']


def test_pixels_are_shown_as_they_are(root, tmp_path):
    """A picture is in the figure pixel for pixel, enlarged by whole numbers."""
    picture = run(root, tmp_path, '6', ['out'], count=1)[0].astype(int)
    tile = plates.Tile('', images.read(root / 'photos/6.png')).shown
    top, left = plates.GAP + plates.CAPTION, plates.GAP
    shown = picture[top : top + tile.shape[0], left : left + tile.shape[1]]
    assert tile.shape[0] == 3 * 48
    assert np.mean(np.abs(shown - tile).max(axis=-1) == 0) > 0.98  # the edges may be shared with the background


def test_ablation_and_sharing(root, tmp_path):
    """Four methods with their layers; two methods below the inputs."""
    four = [f'V{number}={root / "tiny.safetensors"}' for number in (1, 2, 3, 4)]
    options = {'source': str(root / 'photos'), 'output': tmp_path}
    wide = images.read(figures.run('10', named=four, count=1, **options)[0])
    high = images.read(figures.run('11', named=four[:2], count=2, **options)[0])
    assert wide.shape[1] > 2 * wide.shape[0] and high.shape[0] > high.shape[1]


def test_curves_are_log_histograms(root, tmp_path):
    """Those in the data are the prior's own, of the luma."""
    found = run(root, tmp_path, '9', ['out'], count=1)[1]['curves']['6']['input']
    gray = images.read(root / 'photos/6.png') @ np.array([0.299, 0.587, 0.114]) / 255
    centres, counts = priors.log_histogram(np.diff(gray, axis=1))
    np.testing.assert_allclose(found['response'], centres, rtol=1e-6)
    np.testing.assert_allclose(found['log_count'], counts, rtol=1e-6)


def test_distributions_are_densities_of_one_deviation():
    """Each integrates to 1/2 over x > 0, and the three have one variance; only the mixture is convex."""
    found = figures.distributions()
    x, step = np.array(found['x']), found['x'][1]
    for name, values in found['log_probability'].items():
        density = np.exp(values)
        tail = 0.02 if 'two' in name else 0.01  # coarse steps at the peak
        assert np.trapezoid(density, dx=step) == pytest.approx(0.5, abs=tail), name
        assert np.trapezoid(density * x**2, dx=step) == pytest.approx(0.00154, rel=0.03), name
    two, one = (found['log_probability'][name] for name in ('two Laplacians, Eq. (1)', 'Laplacian, Eq. (2)'))
    assert np.all(np.diff(one, 2) == pytest.approx(0, abs=1e-9)) and np.all(np.diff(two, 2) > -1e-9)


def test_a_part_of_the_photos(root, tmp_path):
    """What --crop names is shown; what reaches beyond the photo is refused."""
    data = run(root, tmp_path, '6', ['out'], crop='4,2,20,16')[1]
    assert data['images'][0]['shown'] == {'left': 4, 'top': 2, 'width': 20, 'height': 16}
    clean, restored = (images.read(root / f'{side}/6.png')[2:18, 4:24] for side in ('clean', 'out'))
    assert data['scores']['6']['out'] == pytest.approx(metrics.score(restored, clean))
    for crop in ('50,0,20,20', '1,2,3', '0,0,0,4'):
        with pytest.raises(UserError, match='--crop'):
            run(root, tmp_path, '6', ['out'], crop=crop)


@pytest.mark.parametrize(
    'figure, named, options, words',
    [
        ('10', ['out'], {}, 'needs 4 of --methods, found 1'),
        ('8', ['out'], {}, 'is a folder of results'),
        ('6', ['out'], {'clean': None}, 'give --clean'),
        ('7', ['out'], {}, 'photos without truth'),
        ('3', ['out'], {}, 'figures are 1, 2, 6'),
        ('7', ['none'], {'clean': None}, 'neither a folder nor weights'),
        ('7', ['clean', 'clean'], {'clean': None}, "called 'clean'"),
        ('7', ['begun'], {'clean': None}, r'begun has no weights yet: weights\.safetensors comes at its end\. Give'),
    ],
)
def test_what_no_figure_can_be_made_of_is_refused(root, tmp_path, figure, named, options, words):
    """By what it lacks, before anything is computed."""
    with pytest.raises(UserError, match=words):
        run(root, tmp_path, figure, named, **options)


@pytest.mark.parametrize('name', ['lr=0.1', 'light=light', 'a,b', 'x=1,y=2', 'out [*]', '*'])
def test_a_path_that_is_there_is_taken_whole(root, tmp_path, monkeypatch, name):
    """Whatever its name would say otherwise; alone, with a label and among others."""
    shutil.copytree(root / 'out', tmp_path / name)
    monkeypatch.chdir(tmp_path)
    for text, label, folder in (
        (name, name, pathlib.Path(name)),
        (f'{tmp_path}/{name}', name, tmp_path / name),
        (f'theirs={name}', 'theirs', pathlib.Path(name)),
    ):
        method = methods.parse(text)
        assert isinstance(method, methods.Folder)
        assert method.label == label and method.place == methods.Place(folder)
    assert methods.split(f'{name},theirs={name},light,none=gone,{name}') == [
        name, f'theirs={name}', 'light', 'none=gone', name
    ]  # fmt: skip
    assert methods.Place.parse(name, 'clean') == methods.Place(pathlib.Path(name))
    for text, label in ((f'{name}/*_x.png', name), (f'theirs={name}/*_x.png', 'theirs')):
        method = methods.parse(text)
        assert isinstance(method, methods.Folder)
        assert method.label == label and method.place == methods.Place(pathlib.Path(name), '*_x.png')
        assert methods.split(f'light,{text},light') == ['light', text, 'light']


def test_patterns_and_names_are_what_they_were():
    """Where no such path is there."""
    assert methods.split('light,a=heavy') == ['light', 'a=heavy'] and methods.parse('a=heavy').label == 'a'


@pytest.mark.parametrize('text', ['', ' ', 'a=', '='])
def test_a_method_without_a_place_is_not_the_folder_at_hand(text):
    """As of a variable that is not set, or behind a comma too many."""
    with pytest.raises(UserError, match=f"'{text}' names no method"):
        methods.parse(text)


def test_a_folder_that_may_not_be_entered_is_named(root, deny):
    """Not a file in it, of which nobody knows whether it is there."""
    folder = root / 'photos'
    deny(lambda path: path == str(folder / methods.RUN))
    with pytest.raises(UserError, match=f'{re.escape(str(folder))} cannot be read: Permission denied'):
        methods.parse(str(folder))


@pytest.mark.parametrize('role', ['photo', 'photos', 'clean', 'out', 'set'])
def test_no_figure_replaces_what_it_is_made_of(root, tmp_path, tiny_config, role):
    """A photo, its true image, a result of another program, an image of a set; by a link to its folder."""
    for side in ('photos', 'clean', 'out', 'set'):
        (tmp_path / side).mkdir()
        for name, number in (('fig-6-a', 6), ('b', 8)):
            shutil.copy(root / f'photos/{number}.png', tmp_path / side / f'{name}.png')
    for side in ('rain', 'norain'):
        (tmp_path / 'set' / f'{side}-1.png').hardlink_to(tmp_path / 'set/fig-6-a.png')
    tiny_config.data.update({'root': str(tmp_path), 'eval': 'pairs/set'})
    source = {'source': str(tmp_path / 'photos'), 'clean': str(tmp_path / 'clean'), 'count': 1}
    if role == 'photo':
        source['source'] += '/fig-6-a.png'
    options = {'source': None, 'config': tiny_config} if role == 'set' else source
    (tmp_path / 'link').symlink_to(tmp_path / ('photos' if role == 'photo' else role))
    before = {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}
    with pytest.raises(UserError, match=r'link/fig-6-a\.png is the input .* would be overwritten'):
        figures.run('6', output=tmp_path / 'link', named=[str(tmp_path / 'out')], name='a', **options)
    assert before == {path: path.read_bytes() for path in tmp_path.rglob('*') if path.is_file()}


def test_a_figure_of_something_else_stays(root, tmp_path):
    """Of other methods, another part or other photos in a folder of that name; the same may be made anew."""
    (tmp_path / 'photos').mkdir()
    images.save(tmp_path / 'photos/6.png', images.read(root / 'photos/7.png'))
    for _ in range(2):
        run(root, tmp_path, '9', ['out'])
    before = {path: path.read_bytes() for path in tmp_path.glob('fig-*')}
    others = [(['tiny.safetensors'], {}), (['out'], {'crop': '0,0,16,16'}), (['out'], {'count': 1})]
    others += [(['out'], {'source': str(tmp_path / 'photos'), 'clean': None})]
    for named, options in others:
        with pytest.raises(UserError, match='fig-9-photos.json holds another result: .*Remove it, or give a --name'):
            run(root, tmp_path, '9', named, **options)
    assert before == {path: path.read_bytes() for path in tmp_path.glob('fig-*')}
    run(root, tmp_path, '9', ['tiny.safetensors'], name='mine')


def test_a_picture_that_is_no_figure_stays(root, tmp_path, monkeypatch):
    """Which is known by the data beside it; of a figure that was cut off there may be the data alone."""
    path = tmp_path / 'fig-9-photos.png'
    path.write_text('mine')
    with pytest.raises(UserError, match='fig-9-photos.png would be replaced, and no fig-9-photos.json beside it'):
        run(root, tmp_path, '9', ['out'])
    assert path.read_text() == 'mine'
    path.unlink()
    with monkeypatch.context() as patch:
        patch.setattr(matplotlib.figure.Figure, 'savefig', lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(root, tmp_path, '9', ['out'])
    assert not path.exists()
    run(root, tmp_path, '9', ['out'])


def test_figure_2_is_of_all_photos_and_of_no_method(root, tmp_path):
    """Another photo that it does not show is told; other methods make the same."""
    photos = shutil.copytree(root / 'photos', tmp_path / 'photos')
    options = {'source': str(photos), 'clean': None, 'count': 1}
    run(root, tmp_path, '2', ['out'], **options)
    assert run(root, tmp_path, '2', ['tiny.safetensors'], **options)[1]['methods'] == []
    shutil.copy(photos / '6.png', photos / '8.png')
    with pytest.raises(UserError, match='fig-2-photos.json holds another result: all images is .* there and .* here'):
        run(root, tmp_path, '2', ['out'], **options)


def test_a_broken_photo_is_met_before_any_figure(root, tmp_path):
    """Also one that only figure 2 needs."""
    photos = shutil.copytree(root / 'photos', tmp_path / 'photos')
    (photos / '8.png').write_bytes((photos / '8.png').read_bytes()[:200])
    options = {'source': str(photos), 'clean': None}
    with pytest.raises(UserError, match=r'of the images cannot be read: .*8\.png'):
        run(root, tmp_path / 'made', '9,2', ['out'], **options)
    assert not (tmp_path / 'made').exists()


def test_all_figures_that_the_methods_allow(root, tmp_path, capsys):
    """One network and true images: all but 7, 10 and 11, of which it is said why not."""
    options = {'source': str(root / 'photos'), 'clean': str(root / 'clean'), 'name': 'x'}
    paths = figures.run('all', output=tmp_path, named=[str(root / 'tiny.safetensors')], **options)
    assert [path.name for path in paths] == [f'fig-{number}-x.png' for number in (1, 2, 6, 8, 9)]
    assert re.findall('not made: Figure ([0-9]+) ', capsys.readouterr().out) == ['7', '10', '11']


def test_the_verb_names_each_picture_once(root, tmp_path, capsys):
    """On the screen, where it lies."""
    given = f'--figure=9 --input={root}/photos --methods={root}/tiny.safetensors --output={tmp_path}'.split()
    assert main.run(['--mode=figures', *given]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / 'fig-9-photos.png')]


@pytest.mark.parametrize('figure', ['1', '2', '6', '9', '11'])
def test_names_of_any_bytes_are_drawn_and_printed_escaped(root, tmp_path, capsys, figure):
    """Of photos, methods and folders: those that are not UTF-8 as their bytes, those with dollars as they are."""
    folder = tmp_path / os.fsdecode(b'gr\xfcn $^^$')
    for side in ('photos', 'out', 'clean'):
        (folder / side).mkdir(parents=True)
        for name in (b'a $^^$.png', b'gr\xfc\xdfe.png'):
            (folder / side / os.fsdecode(name)).write_bytes((root / f'{side}/6.png').read_bytes())
    named = [f'{os.fsdecode(label)}={folder}/out' for label in (b'\xfc$^^$', b'\xe4')][: 1 + (figure in ('6', '11'))]
    figures.run(figure, str(folder / 'photos'), folder, named, clean=str(folder / 'clean'))
    printed = capsys.readouterr().out
    assert printed == f'{tmp_path}/gr\\xfcn $^^$/fig-{figure}-photos.png\n'


def test_captions_are_spelled_as_messages_are():
    """Before they are cut to the width of a picture."""
    tile = plates.Tile(os.fsdecode(b'gr\xfc\xdfe $^^$'), np.zeros((200, 200, 3), np.uint8))
    assert plates.grid([[tile]]).texts[0].get_text() == r'gr\xfc\xdfe \$^^\$'


def test_sets_take_turns(tiny_config):
    """Of two sets the first two photos are of both, and of two scenes; every image comes once."""
    tiny_config.data.eval = 'drawn_light,drawn_heavy'
    found = subjects.find(None, tiny_config, None)
    assert [photo.name for photo in found.photos[:2]] == ['drawn_light-chelsea-0', 'drawn_heavy-coffee-0']
    assert len({photo.name for photo in found.photos}) == len(found.photos) == 24


def test_figures_of_many_sets_have_room_for_their_names(tmp_path):
    """The picture and the .json beside it, which is found by it; short names stay."""
    place = figures._place(tmp_path, '-'.join(['fig-6', *['layers-RainTrainL'] * 20]))
    place.with_suffix('.json').write_text('')
    assert place.suffix == '.png' and place.name.startswith('fig-6-layers-')
    assert figures._place(tmp_path, 'fig-1-a.b') == tmp_path / 'fig-1-a.b.png'
