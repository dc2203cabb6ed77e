"""Every rule that keeps a comparison from a verdict, each on a row that it alone stops."""

import subprocess

import pytest
from made_rows import make_row

from qsnet_jax.data import sets
from qsnet_jax.evidence import obstacles


def rows(change=None, name='pairs'):
    """Three rows of which the first is changed, with their set under another name."""
    made = [make_row('V1', seed) for seed in range(3)]
    for row in made:
        row['sets'] = {name: row['sets'].pop('pairs')}
        row['provenance']['training']['training_data']['pairs'][f'without_{name}'] = 0
    if change:
        change(made[0], made[0]['provenance'])
    return made


def reasons(change=None, name='pairs', seeds=3):
    return obstacles.reasons(rows(change, name), name, seeds)


def test_sound_rows_are_not_stopped():
    """So that every reason below comes from its own change."""
    assert reasons() == [] and reasons(name='layers/A+B') == []


def test_few_seeds_and_scenes():
    assert reasons(seeds=2) == ['2 of 3 seeds']
    made = rows()
    for row in made:
        row['sets']['pairs']['images']['scene'] = ['a'] * 6
    assert obstacles.reasons(made, 'pairs', 3) == ['one scene alone']


def test_images_that_nothing_makes_better():
    """One output that does is enough; so is a perfect one, whose PSNR is no number of JSON. Clean images need none."""
    found = [row['sets']['pairs'] for row in rows()]
    for each in found:
        each['input']['rgb']['psnr'] = each['rgb']['psnr'] + 0.5
    compared = [(each, 'output_rgb_psnr') for each in found]
    assert obstacles.harm(compared) == 'nothing compared here is better than the rainy images'
    scores = found[1]['images']['output_rgb_psnr']
    for first in (scores[0] + 6, None):
        found[1]['images']['output_rgb_psnr'] = [first, *scores[1:]]
        assert obstacles.harm(compared) == ''
    found[1]['input']['rgb']['psnr'] = None
    assert obstacles.harm(compared) and not obstacles.harm([])


def test_images_that_were_trained_on():
    def change(row, record):
        row['sets']['pairs']['fingerprint']['seen_in_training'] = ['pairs']

    assert reasons(change) == ['trained on the scored images (pairs)']


@pytest.mark.parametrize(
    ('field', 'value', 'reason'),
    [
        ('model.channels', 24, 'model.channels=24'),
        ('loss.content', 2.0, 'loss.content=2.0'),
        ('train.schedule', 'cosine', "train.schedule='cosine'"),
        ('train.optimizer', 'muon', "train.optimizer='muon'"),
        ('train.steps', 400, 'train.steps=400'),
        ('train.steps', 200_000, ''),  # more than the config's own
        ('model.dtype', 'bfloat16', ''),  # of the computation
        ('data.batch', 4, ''),  # not in the paper
        ('loss.detail', 0.5, ''),  # what the variant is about
    ],
)
def test_what_is_full_only_by_name_is_not_the_papers(field, value, reason):
    """Of a reduced size nothing of the kind is asked."""
    for size in ('full', 'small'):
        made = [make_row('V1', seed, size=size) for seed in range(3)]
        section, name = field.split('.')
        for row in made:
            row['provenance']['config'][section][name] = value
        expected = [f"not the paper's network or recipe: {reason}"] if reason and size == 'full' else []
        assert obstacles.reasons(made, 'pairs', 3) == expected


def test_backgrounds_that_nobody_compared():
    """Unless the config excluded the set, or one side is drawn on the program's own photos."""

    def change(row, record):
        del record['training']['training_data']['pairs']['without_pairs']
        record['config']['data']['exclude'] = None

    assert reasons(change) == ['backgrounds not compared with pairs (config.data.exclude)']

    def exclude(row, record):
        change(row, record)
        record['config']['data']['exclude'] = 'rain100h,pairs'

    assert reasons(exclude) == []
    made = rows(name='drawn_heavy')
    del made[0]['provenance']['training']['training_data']['pairs']['without_drawn_heavy']
    assert obstacles.reasons(made, 'drawn_heavy', 3) == []

    def bundled(row, record):
        record['training']['training_data'] = {'drawn_light': {'count': 7, 'sha256': 'd' * 64}}

    assert reasons(bundled) == []


@pytest.mark.parametrize(('name', 'other'), [('test_ii', 'rain100h'), ('rain100h', 'test_ii')])
def test_a_set_is_the_same_under_both_of_its_names(name, other):
    """Excluded, noted or chosen on under the other one."""

    def exclude(row, record):
        del record['training']['training_data']['pairs'][f'without_{name}']
        record['config']['data']['exclude'] = f'pairs,{other}'

    def note(row, record):
        notes = record['training']['training_data']['pairs']
        notes[f'without_{other}'] = notes.pop(f'without_{name}')

    def choose(row, record):
        record['training']['selected_on'] = [other]

    assert reasons(exclude, name) == reasons(note, name) == []
    assert reasons(choose, name) == ['the checkpoint was chosen on the scored set']
    assert obstacles._called(name) == sets.public_name(name) == 'rain100h'


def test_backgrounds_of_the_training_before():
    """Weights that another run began: what that one saw counts as well."""

    def change(row, record):
        before = {'config': {'data': {'train': 'pairs', 'exclude': None}}, 'training_data': {'spa': {'count': 3}}}
        record['training']['start_from'] = {'sha256': 'a' * 64, 'record': before}

    assert reasons(change) == ['backgrounds not compared with spa (config.data.exclude)']


@pytest.mark.parametrize(('drawn', 'scored', 'told'), [(0, 0, '0'), (0, 3, '0 and 3'), (5, 3, '3 and 5'), (3, 3, '')])
def test_layers_of_training_and_test(drawn, scored, told):
    """Every layer is drawn in training where none is held out, and some that are scored where others are."""

    def change(row, record):
        record['training'] |= {
            'config': {'data': {'train': 'layers/C+B', 'exclude': None, 'hold_out': drawn}},
            'training_data': {'layers/C+B': {'without_layers/A+B': 0}},
        }
        record['config']['data']['hold_out'] = scored

    expected = [f'rain layers shared with layers/C+B (config.data.hold_out is {told})'] if told else []
    assert reasons(change, 'layers/A+B') == expected


@pytest.mark.parametrize('noted', [['pairs'], 'drawn_wide,pairs', {'sets': ['pairs'], 'by': 'psnr'}])
def test_checkpoints_chosen_on_the_scored_set(noted):
    """As the row says itself, in any form."""

    def change(row, record):
        record['selected_on'] = noted

    assert reasons(change) == ['the checkpoint was chosen on the scored set']


def test_checkpoints_chosen_before_rows_said_so():
    """--checkpoint=best of a run that validated on the first of the scored sets; the last step was not chosen."""

    def change(row, record):
        record['command'] += ' --checkpoint=best'
        record['config']['data'].pop('validation', None)  # there was none then

    assert reasons(change) == ['the checkpoint was chosen on the scored set']

    def held_out(row, record):
        change(row, record)
        record['config']['data']['validation'] = 'held_out'

    assert reasons(held_out) == []
    assert obstacles.reasons(rows(change, 'drawn_wide'), 'drawn_wide', 3) == []  # the third of data.eval


def test_runs_that_did_not_end():
    def change(row, record):
        record['training']['step'] = 200

    assert reasons(change) == ['scored at step 200 of 400']

    def scored_by_another_command(row, record):
        change(row, record)
        record['training']['config'] = {**record['config'], 'train': {'steps': 200}}

    assert reasons(scored_by_another_command) == []  # whose own steps made nothing of the weights


def test_versions_devices_and_precisions():
    """Each named; a training elsewhere than its scoring counts too."""

    def versions(row, record):
        record['versions'] = {**record['versions'], 'jax': '0.0.1', 'numpy': '0.0.2'}

    assert reasons(versions) == ['versions of jax, numpy']

    def device(row, record):
        record['training']['device'] = {'platform': 'gpu', 'kind': 'H100', 'count': 1}

    assert reasons(device) == ['devices cpu cpu and gpu H100']

    def precision(row, record):
        record['precision'] = {**record['precision'], 'matmul': 'tensorfloat32'}

    assert reasons(precision) == ['precisions float32 default and float32 tensorfloat32']

    def noted(row, record):
        record['precision'] = {**record['precision'], 'dtype': 'float32'}  # as newer rows have it

    assert reasons(noted) == []

    def field(row, record):
        record['config']['train']['precision'] = 'bfloat16'

    assert reasons(field) == ['precisions float32 default and float32 default bfloat16']


def test_earlier_starts_of_one_run():
    """What they tell counts; what they do not is as at the last one, and older rows tell of the commit alone."""

    def starts(first):
        def change(row, record):
            known = {'commit': 'c' * 40, 'date': ''}
            record['training']['starts'] = [{'step': 0, **known, **first}, {'step': 200, **known}]

        return reasons(change)

    assert starts({}) == []
    assert starts({'versions': {'jax': '0.0.1'}}) == ['versions of jax']
    gpu = {'platform': 'gpu', 'kind': 'H100', 'count': 1}
    assert starts({'device': gpu}) == ['devices cpu cpu and gpu H100']
    assert starts({'precision': {'matmul': 'tensorfloat32'}})[0].startswith('precisions float32')
    assert 'no checkout that tells' in starts({'commit': 'd' * 40})[0]


@pytest.fixture
def checkout(tmp_path):
    """A repository of three commits: one that computes, one that changes the report alone, one that computes again."""

    def git(*arguments):
        command = ['git', '-C', str(tmp_path), '-c', 'user.name=a', '-c', 'user.email=a@b', *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git('init', '-q')
    commits = []
    for number, path in enumerate(('qsnet_jax/model.py', 'qsnet_jax/evidence/report.py', 'qsnet_jax/model.py')):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(f'{number}\n')
        git('add', '.')
        git('commit', '-qm', path)
        commits.append(git('rev-parse', 'HEAD'))
    return tmp_path, commits


def test_commits(checkout):
    """Several are allowed where a checkout shows that nothing that computes lies between them."""
    root, (first, second, third) = checkout

    def found(commits, root=root):
        made = rows()
        for row, commit in zip(made, commits, strict=True):
            row['provenance']['commit'] = commit
        return obstacles.reasons(made, 'pairs', 3, root)

    assert found([first, second, second]) == []
    (reason,) = found([first, second, third])
    assert reason.endswith('between which qsnet_jax/model.py changed')
    (reason,) = found([first, 'd' * 40, first])
    assert 'no checkout that tells' in reason
    (reason,) = found([first, second, second], root / 'elsewhere')
    assert 'no checkout that tells' in reason
    assert found([first + '+changes'] * 3) == [f'changes that no commit holds ({first[:10]})']


@pytest.mark.parametrize(
    ('path', 'expected'),
    [
        ('qsnet_jax/layers.py', True),
        ('qsnet_jax/evidence/evaluate.py', True),
        ('qsnet_jax/something_new.py', True),
        ('qsnet_jax/evidence/page.py', False),
        ('qsnet_jax/report.py', False),
        ('qsnet_jax/data/report.py', True),
        ('qsnet_jax/peers/bench.py', False),
        ('configs/losses.py', False),  # rows hold their configs whole
        ('tests/test_model.py', False),
    ],
)
def test_what_computes(path, expected):
    """What nobody has thought of does."""
    assert obstacles._computes(path) == expected
