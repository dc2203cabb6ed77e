"""Pairs are found by their names, whatever stands in these; a name that cannot be a key is an error."""

import os
import unicodedata

import numpy as np
import pytest

from qsnet_jax import UserError, spelling
from qsnet_jax.data import images, layouts, sources
from qsnet_jax.evidence import methods


def pair(root, name):
    """A rainy and a clean image of one name."""
    for side in ('input', 'target'):
        (root / side).mkdir(parents=True, exist_ok=True)
        images.save(root / side / 'x.png', np.full((4, 4, 3), 9, np.uint8))
        (root / side / 'x.png').rename(root / side / name)


@pytest.mark.parametrize('name', ['a\nb.png', 'a\rb.png', 'a.png\n', '\na.png', 'a\n\udce4.png'])
def test_a_line_break_in_a_name_is_a_problem(tmp_path, name):
    """It is named, not passed over, beside pairs that are found."""
    pair(tmp_path, '1.png')
    pair(tmp_path, name)
    found = layouts.find(tmp_path, layouts.PAIRS)
    assert [item.name for item in found.items] == ['1']
    assert len(found.problems) == 2
    assert all('line break in its name' in problem and '\n' not in problem for problem in found.problems)
    assert all((r'\n\xe4.png' in problem) == ('\udce4' in name) for problem in found.problems)


@pytest.mark.parametrize('name', [b'n\xe4cht.png', b'=1+1.png', b'a\x1bb.png', 'übe r.png'.encode()])
def test_other_names_pair(tmp_path, name):
    """Bytes that are no UTF-8, too; they can be fingerprinted."""
    pair(tmp_path, os.fsdecode(name))
    found = layouts.find(tmp_path, layouts.PAIRS)
    assert found.problems == [] and [os.fsencode(item.name) + b'.png' for item in found.items] == [name]
    digests = {sources.digest([(item.name, 'content')]) for item in found.items} | {sources.digest([('x', 'content')])}
    assert len(digests) == 2


def test_halves_whose_accents_are_spelled_otherwise_pair(tmp_path):
    """As where one folder was copied from a Mac, which takes letters and accents apart; also of results."""
    for side, form in (('input', 'NFD'), ('target', 'NFC')):
        (tmp_path / side).mkdir()
        image = np.full((4, 4, 3), 9, np.uint8)
        images.save(tmp_path / side / f'{unicodedata.normalize(form, "é1")}.png', image)
    found = layouts.find(tmp_path, layouts.PAIRS)
    assert found.problems == [] and [item.name for item in found.items] == [unicodedata.normalize('NFC', 'é1')]
    for form in ('NFD', 'NFC'):
        name = unicodedata.normalize(form, 'é1')
        assert list(methods.Place(tmp_path / 'input').find([name])) == [name]


@pytest.mark.parametrize('extension', ['.jfif', '.JPE', '.jp2', '.ppm', '.tga'])
def test_files_of_all_extensions_are_found(tmp_path, extension):
    """As in folders of photos."""
    for side in ('input', 'target'):
        (tmp_path / side).mkdir()
        (tmp_path / side / f'a{extension}').write_bytes(b'')
    assert len(layouts.find(tmp_path, layouts.PAIRS).items) == 1


@pytest.mark.parametrize('name', ['test', 'Input'])
def test_a_folder_that_is_a_link_to_nowhere_is_named(tmp_path, name):
    """Another one does not take its place."""
    pair(tmp_path / 'val', '1.png')
    (tmp_path / name).symlink_to(tmp_path / 'gone')
    with pytest.raises(UserError, match=f'{name} is a link to .*gone, which is not there. Mend the link, or remove it'):
        layouts.role_folders(tmp_path, 'eval') if name == 'test' else layouts.find(tmp_path, layouts.PAIRS)


def test_layers_beside_results_are_none_of_them(tmp_path):
    """What derain writes with --layers; one that stands alone is an image."""
    long = f'c{"c" * 245}.png'
    for name in ('a.png', 'a.png.rain.png', 'b.rain.png', long, spelling.with_ending(long, '.rain.png')):
        (tmp_path / name).touch()
    assert [path.name for path in layouts.image_files(tmp_path)] == ['a.png', 'b.rain.png', long]


def test_no_file_is_its_own_partner(tmp_path):
    """Patterns that both fit it, folders that are one, and links are problems; another layout that pairs is taken."""
    pair(tmp_path, '1.png')
    both = {'rainy': '*', 'clean': '*'}
    (tmp_path / 'link').symlink_to('input')
    for root in (tmp_path / 'input', {'rainy': tmp_path / 'input', 'clean': tmp_path / 'link'}):
        found = layouts.find(root, [both])
        assert found.items == [] and [problem.partition('/1.png ')[2] for problem in found.problems] == [
            'would be its own partner'
        ]
    for name in ('rain-1', 'norain-1'):
        images.save(tmp_path / f'{name}.png', np.full((4, 4, 3), 9, np.uint8))
    found = layouts.find(tmp_path, [both, layouts.PAIRS[0]])
    assert [item.name for item in found.items] == ['1'] and found.problems == []


def test_pairs_are_counted_as_people_do(tmp_path):
    """2 before 10, so that the first images of a set are the same on every drive."""
    for number in (10, 2, 1):
        pair(tmp_path, f'{number}.png')
    assert [item.name for item in layouts.find(tmp_path, layouts.PAIRS).items] == ['1', '2', '10']


@pytest.mark.parametrize('name', ['7.heic', '7.GIF', '7.avif', '7.CR2'])
def test_pictures_of_other_kinds_do_not_vanish(tmp_path, name):
    """They are problems on every side, unless a file that is read has the same name, as the photo of a raw one has."""
    pair(tmp_path, '1.png')
    for side in ('input', 'target'):
        (tmp_path / side / name).write_bytes(b'')
        (tmp_path / side / '1.nef').write_bytes(b'')
        (tmp_path / side / '.2.heic').write_bytes(b'')
        (tmp_path / side / 'notes.txt').write_bytes(b'')
    found = layouts.find(tmp_path, layouts.PAIRS)
    assert [item.name for item in found.items] == ['1']
    assert found.problems == [
        f"'{tmp_path}/{side}/{name}' is of a kind that is not read; convert it, or take it away"
        for side in ('input', 'target')
    ]


@pytest.mark.parametrize('name', ['1.heic', 'a\nb.png'])
def test_pictures_that_are_not_read_are_named_where_nothing_pairs(tmp_path, name):
    """Nothing but them may be there, and 0 files would be a riddle."""
    for side in ('input', 'target'):
        (tmp_path / side).mkdir()
        (tmp_path / side / name).write_bytes(b'')
    with pytest.raises(UserError, match=r'No images to pair .*Not read: .*(of a kind that is not read|line break)'):
        layouts.find(tmp_path, layouts.PAIRS)


def test_a_side_that_is_missing_is_not_told_as_names_that_are_wrong(tmp_path):
    """Of other layouts, which nobody meant."""
    pair(tmp_path, '1.png')
    (tmp_path / 'target/1.png').unlink()
    with pytest.raises(UserError, match='No images to pair') as caught:
        layouts.find(tmp_path, (*layouts.PAIRS, *layouts.SEVERAL))
    assert 'is not called' not in str(caught.value)
