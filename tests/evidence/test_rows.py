"""Rows that are refused, alone and together."""

import copy
import json
import shutil

import pytest
from made_rows import RESULTS, make_row, write

from qsnet_jax import UserError, storage
from qsnet_jax.data import sets
from qsnet_jax.evidence import rows


@pytest.mark.parametrize('name', ['commit', 'command', 'versions', 'device', 'precision', 'date', 'config', 'seed'])
def test_rows_without_provenance_are_refused(tmp_path, name):
    """By their name, with what they lack."""
    row = make_row('V1', 0)
    del row['provenance'][name]
    with pytest.raises(UserError, match=rf'small-V1-0.json is refused; it lacks provenance.{name}\.'):
        rows.load(write(tmp_path, [row]))


def test_rows_without_their_data_or_time_are_refused(tmp_path):
    """The fingerprint of the scored files, and how long training took."""
    row = make_row('V1', 0)
    del row['sets']['pairs']['fingerprint'], row['provenance']['training']
    with pytest.raises(UserError, match='training_seconds, the fingerprint of its data'):
        rows.load(write(tmp_path, [row]))
    with pytest.raises(UserError, match='There are no rows.*score'):
        rows.load(tmp_path / 'empty')
    (tmp_path / 'rows/small-V1-0.json').write_text('{')
    with pytest.raises(UserError, match='small-V1-0.json is no JSON'):
        rows.load(tmp_path)


def test_runs_that_differ_in_more_than_their_variants_are_refused(tmp_path):
    """Another number of steps, or other images, do not stand in one table."""
    other = make_row('V2', 0)
    other['provenance']['config']['train']['steps'] = 7
    with pytest.raises(UserError, match=r'small-V2-0.json and small-V1-0.json .* differ in train.steps'):
        rows.load(write(tmp_path, [make_row('V1', 0), other]))
    other = make_row('V2', 0)
    other['sets']['pairs']['fingerprint']['sha256'] = 'e' * 64
    with pytest.raises(UserError, match='scored images of pairs'):
        rows.load(write(tmp_path, [make_row('V1', 0), other]))
    other = make_row('V2', 0)
    other['sets']['pairs']['images']['name'] = other['sets']['pairs']['images']['name'][::-1]
    with pytest.raises(UserError, match='names of the images of pairs'):  # effects are taken image by image
        rows.load(write(tmp_path, [make_row('V1', 0), other]))


def test_drawn_rain_is_told_by_its_number_and_photos(tmp_path):
    """Processors drew a pixel of it otherwise, and their rows stand in one table; those of other photos do not."""
    first, other, third = make_row('V1', 0), make_row('V2', 0), make_row('V3', 0)
    for row in (first, other, third):
        row['sets']['drawn_heavy'] = row['sets'].pop('pairs')
        row['provenance']['training']['training_data'] = {'drawn_light': {'count': 9, 'sha256': row['variant']}}
    other['sets']['drawn_heavy']['fingerprint']['sha256'] = 'e' * 64
    first['sets']['drawn_heavy']['fingerprint']['backgrounds'] = 'a' * 64
    third['sets']['drawn_heavy']['fingerprint']['backgrounds'] = 'b' * 64
    assert len(rows.load(write(tmp_path, [first, other]))) == 2
    with pytest.raises(UserError, match='differ in scored images of drawn_heavy'):
        rows.load(write(tmp_path, [first, third]))
    other['provenance']['training']['training_data']['drawn_light']['count'] = 8
    with pytest.raises(UserError, match='differ in training images of drawn_light'):
        rows.load(write(tmp_path, [first, other]))


def start(row, place, sha256=None):
    """The same row of a run that began from weights."""
    row['provenance']['config']['train']['start_from'] = place
    row['provenance']['training']['start_from'] = {'sha256': sha256} if sha256 else {}
    return row


def test_the_same_weights_to_start_from_may_lie_elsewhere(tmp_path):
    """Each seed may have its own; others for the same seed, or none, do not stand in one table."""
    first, elsewhere = start(make_row('V1', 0), 'a/x-0.safetensors', 'a'), start(make_row('V2', 0), '/b/x', 'a')
    other_seed, untold = start(make_row('V1', 1), 'a/x-1.safetensors', 'b'), start(make_row('V3', 0), 'c')
    assert len(rows.load(write(tmp_path, [first, elsewhere, other_seed, untold]))) == 4
    write(tmp_path, [start(make_row('V2', 0), 'a/x-0.safetensors', 'c')])
    with pytest.raises(UserError, match='V2-0.json and small-V1-0.json .* began from other weights'):
        rows.load(tmp_path)
    write(tmp_path, [make_row('V2', 0)])
    with pytest.raises(UserError, match='V2-0.json .* differ in train.start_from'):
        rows.load(tmp_path)
    own = start(make_row('V2', 0), 'other', 'c')
    own['overrides']['train'] = {'start_from': 'other'}
    assert len(rows.load(write(tmp_path, [own]))) == 4


def test_a_variant_does_not_hide_a_difference_of_another(tmp_path):
    """V1's own fields are free in V1 alone: another run with another weight of the detail loss is refused."""
    other = make_row('V3', 0)
    other['provenance']['config']['loss']['detail'] = 0.5
    with pytest.raises(UserError, match='V3-0.json and small-paper-0.json .* differ in loss.detail'):
        rows.load(write(tmp_path, [make_row('V1', 0), make_row('paper', 0), other]))


def test_one_run_counts_once(tmp_path):
    """A copy of a row under another name would be a second seed."""
    write(tmp_path, [make_row('V1', 0), make_row('V1', 1)])
    shutil.copy(tmp_path / 'rows/small-V1-0.json', tmp_path / 'rows/small-V1-0-before.json')
    with pytest.raises(UserError, match='small-V1-0.json and small-V1-0-before.json are both of V1 with seed 0'):
        rows.load(tmp_path)


@pytest.mark.parametrize('folder', ['rows', 'sparsity', 'bench'])
def test_folders_that_cannot_be_read_are_not_empty(tmp_path, deny, folder):
    """Without rights, as links to nowhere or to themselves: said, and no report without them."""
    write(tmp_path, [make_row('V1', 0)])
    place = tmp_path / folder
    if folder != 'rows':
        place.mkdir()
    deny(lambda path: path == str(place), 'listdir')
    with pytest.raises(UserError, match=f'{folder} cannot be read: Permission denied.'):
        rows.load(tmp_path)
    place.rename(tmp_path / 'before')
    for end in (tmp_path / 'gone', place):
        place.symlink_to(end)
        with pytest.raises(UserError, match=f'{folder} is a link to {end}, which is not there. Mount its drive'):
            rows.load(tmp_path)
        place.unlink()


def test_files_with_a_dot_in_front_are_no_rows(tmp_path):
    """As a Mac's copies bring them along, in each folder."""
    write(tmp_path, [make_row('V1', 0)])
    for folder in ('rows', 'sparsity', 'bench'):
        (tmp_path / folder).mkdir(exist_ok=True)
        (tmp_path / folder / '._small-V1-0.json').write_bytes(b'\0\5\x16\7')
    assert [row['file'] for row in rows.load(tmp_path)] == ['small-V1-0.json']


def test_a_run_that_failed_does_not_hide_a_difference_of_others(tmp_path):
    """It scored nothing, so the finished ones are compared with one another."""
    failed = {**make_row('paper', 0), 'sets': {}, 'failed': 'total not finite'}
    other = make_row('V2', 0)
    other['sets']['pairs']['fingerprint']['sha256'] = 'e' * 64
    with pytest.raises(UserError, match='V2-0.json and small-V1-0.json .* differ in scored images of pairs'):
        rows.load(write(tmp_path, [failed, make_row('V1', 0), other]))


def test_a_row_of_before_stands_beside_one_of_today(tmp_path):
    """Values that were written otherwise, and fields that did not exist, are read as what was done then."""
    old, new = make_row('V1', 0), make_row('V1', 1)
    for row, share_scales in ((old, True), (new, 'all')):
        row['provenance']['config']['model']['share_scales'] = share_scales
        row['provenance']['config']['data']['validation'] = row['provenance']['config']['data']['eval']
    del old['provenance']['config']['data']['validation']
    assert len(rows.load(write(tmp_path, [old, new]))) == 2
    new['provenance']['config']['data']['validation'] = 'held_out'
    with pytest.raises(UserError, match='differ in data.validation.'):
        rows.load(write(tmp_path, [new]))


def test_a_difference_that_only_forbids_verdicts_is_no_reason_to_refuse(tmp_path):
    """Precision and device: such rows stand in the tables, and `obstacles` keeps them from verdicts."""
    other = make_row('V2', 0)
    other['provenance']['precision']['matmul'] = 'tensorfloat32'
    other['provenance']['device']['platform'] = 'gpu'
    assert len(rows.load(write(tmp_path, [make_row('V1', 0), other]))) == 2


def test_the_stand_in_is_called_as_the_data_call_it():
    """`rows` does not import `sets`, which takes seconds."""
    assert rows.STAND_IN == sets.STAND_IN


@pytest.mark.parametrize('content', ['', '{', '[]', '3', 'null', '"x"', '{}', '\0', '[' * 100_000, b'\xff\xfe'])
def test_what_is_no_row_is_refused_by_name(tmp_path, content):
    """Whatever lies in the file."""
    (tmp_path / 'rows').mkdir()
    (tmp_path / 'rows/a.json').write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=r'rows/a\.json .*(Make the row anew|make the row anew)'):
        rows.load(tmp_path)


def places(value, place=()):
    """Every place in a row down to the first entries of lists, but for the settings of its config."""
    yield place
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from places(inner, (*place, name)) if place[-1:] != ('config',) else ()
    elif isinstance(value, list) and value:
        yield from places(value[0], (*place, 0))


@pytest.mark.parametrize('other', [None, [], {}, 'x', -1.5, True, [[]], {'a': 1}], ids=repr)
def test_rows_of_wrong_types_are_refused_by_name(tmp_path, other):
    """Each value in turn becomes another: the row is refused by name, or is one that the report takes all the same."""
    row, refused = make_row('V1', 0), 0
    for place in list(places(row))[1:]:
        changed = copy.deepcopy(row)
        inner = changed
        for name in place[:-1]:
            inner = inner[name]
        inner[place[-1]] = other
        path = tmp_path / 'rows/small-V1-0.json'
        storage.write_json(path, changed)
        try:
            rows.load(tmp_path)
        except UserError as error:
            assert str(path) in str(error) and '\n' not in str(error), place
            refused += 1
    assert refused > 40


def test_numbers_that_are_none_are_refused(tmp_path):
    """Infinity, and integers that no float holds."""
    for value in (float('inf'), float('nan'), 10**400):
        row = make_row('V1', 0)
        row['sets']['pairs']['rgb']['psnr'] = value
        (tmp_path / 'rows').mkdir(exist_ok=True)
        (tmp_path / 'rows/a.json').write_text(json.dumps(row))
        with pytest.raises(UserError, match=r'a\.json is refused; sets\.pairs\.rgb\.psnr is a number'):
            rows.load(tmp_path)


def test_all_rows_of_the_repository_fit():
    """Of every kind that there is."""
    assert {row['kind'] for row in rows.load(RESULTS)} >= {'study', 'compare', 'evaluation', 'sparsity', 'bench'}


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('rain100h', ('Test-II', True)),
        ('rain100h/test', ('Test-II', False)),
        ('test_ii/test', ('Test-II', False)),
        ('rain13k/rain100h', ('Test-II', False)),
        ('drawn_wide/photos', ('Test-III', False)),
        ('rain800/val', ('Test-I', False)),
    ],
)
def test_the_test_that_a_set_is_or_stands_for(name, expected):
    """A split of a test, chosen by its name, still stands for it."""
    row = {'sets': {name: {'count': 100, 'fingerprint': {'publisher_count': 100}}}}
    assert rows.test_of(name, row) == expected


def test_published_variants_are_known_by_what_they_override():
    """Every published row is of the study that its name says: rates are lists in JSON, exchanges once were flags."""
    published = [row for row in rows.load(RESULTS) if row['kind'] == 'study' and not rows.is_released(row)]
    assert {rows.variant_of(row) for row in published} >= {'paper', 'V1', 'not_shared', 'rates_1_1_1_1'}
    assert all(rows.variant_of(row) == row['variant'] for row in published)
    own = {'variant': 'rates_1_1_1_1', 'overrides': {'model': {'rates': [1, 1, 1, 2]}}}
    assert rows.variant_of(own) == 'rates_1_1_1_1 (of another study)'
    assert rows.variant_of({**own, 'variant': 'mine'}) == 'mine'
