"""What is checked before a study is submitted, and how its runs stand in the queue."""

import errno
import json
import os

import pytest
from ml_collections import config_dict

from qsnet_jax import UserError
from qsnet_jax.training import cluster

RUNS = [('paper', 0), ('content', 0), ('paper', 1), ('content', 1)]


@pytest.fixture
def tiny_study(tiny_config):
    """Two variants of a tiny run."""
    variants = {'paper': {}, 'content': {'loss': {'quasi_sparsity': 0.0}}}
    tiny_config.study = config_dict.ConfigDict({'size': 'tiny', 'seeds': (0, 1)})
    tiny_config.study.variants = config_dict.ConfigDict(variants, sort_keys=False)
    return tiny_config


@pytest.mark.parametrize(
    'field, value, message',
    [
        ('data.batch', 6, 'paper: data.batch is 6 and 4 devices share it'),
        ('data.root', '/nowhere', 'paper: /nowhere is not a folder'),
        ('data.train', 'pairs,layers', 'paper: '),
        ('data.eval', 'pair', "paper: Unknown data set 'pair'"),
        ('loss.filters', 'none', "paper: Unknown loss.filters 'none'"),
        ('loss.detail_threshold', 8.0, 'paper: '),
        ('model.channels', 13, 'paper: channels is 13'),
        ('train.steps', 0, 'paper: train.steps is 0'),
        ('train.schedule', 'now', "paper: train.schedule is 'now'"),
        ('train.start_from', '/nowhere.safetensors', 'paper: .*/nowhere.safetensors'),
        ('train.start_from', 'default', 'paper: train.start_from=default holds weights of another network'),
        ('study.variants.content', {'loss': {'pixel_range': 2.0}}, 'content: loss.pixel_range must be 1.0 or 255.0'),
    ],
)
def test_what_a_run_would_refuse_is_found_before(tiny_study, tmp_path, field, value, message):
    """Values, folders, weights, of every variant, which is named."""
    cluster.check(tiny_study, RUNS, 4, tmp_path)
    *sections, last = field.split('.')
    place = tiny_study
    for section in sections:
        place = place[section]
    with tiny_study.unlocked():
        place[last] = config_dict.ConfigDict(value) if isinstance(value, dict) else value
    with pytest.raises(UserError, match=message):
        cluster.check(tiny_study, RUNS, 4, tmp_path)


def test_gpus_and_their_types():
    """A number, or a type and a number."""
    assert cluster.parse_gpus('4') == (4, 'gpu:4') and cluster.parse_gpus('0')[0] == 0
    assert cluster.parse_gpus('a100-80:2') == (2, 'gpu:a100-80:2')
    for text in ('four', 'a100:', ':4', '-1', '4:a100'):
        with pytest.raises(UserError, match='--gpus=.* is neither a number'):
            cluster.parse_gpus(text)


def test_gpus_of_this_machine(monkeypatch):
    """Those that the user has left visible, by the user's names; all where nothing is said."""
    monkeypatch.delenv('CUDA_VISIBLE_DEVICES', raising=False)
    assert cluster.visible_gpus(2) == ['0', '1']
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '6,GPU-3f,7')
    assert cluster.visible_gpus(2) == ['6', 'GPU-3f'] and cluster.visible_gpus(3) == ['6', 'GPU-3f', '7']
    with pytest.raises(UserError, match='--gpus=4, and CUDA_VISIBLE_DEVICES=6,GPU-3f,7 leaves 3'):
        cluster.visible_gpus(4)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '')
    with pytest.raises(UserError, match='CUDA_VISIBLE_DEVICES= leaves 0'):
        cluster.visible_gpus(2)


def test_options_that_are_passed_through():
    """Any of sbatch's, quoted as in a shell, but for those that the launcher gives itself, whose flag is named."""
    options = cluster.parse_options("--reservation='a b' --exclusive --dependency=afterok:1")
    assert options == {'reservation': 'a b', 'exclusive': True, 'dependency': 'afterok:1'}
    assert cluster.parse_options('') == {}
    with pytest.raises(UserError, match='--array, which the launcher gives itself: use --at_once'):
        cluster.parse_options('--array=0-9')
    for text in ('-p gpu', 'gpu', '--Key=1'):
        with pytest.raises(UserError, match='write options of sbatch in full'):
            cluster.parse_options(text)
    with pytest.raises(UserError, match='No closing quotation. Close every quotation mark'):
        cluster.parse_options("--comment='x")


@pytest.mark.parametrize('count, most, sizes', [(5, 5, [5]), (6, 5, [3, 3]), (11, 5, [3, 4, 4]), (1, 1000, [1])])
def test_arrays_are_no_larger_than_the_cluster_allows(count, most, sizes):
    """All runs once, in their order."""
    parts = cluster.split(list(range(count)), most)
    assert [len(part) for part in parts] == sizes and sum(parts, []) == list(range(count))


def test_a_drive_without_locks_is_warned_of(tmp_path, refuse_locks, capsys):
    """And takes submissions."""
    refuse_locks(errno.ENOLCK)
    with cluster.claimed(tmp_path):
        cluster.remember(tmp_path, '7', RUNS, tmp_path)
    assert 'has no locks' in capsys.readouterr().err and (tmp_path / 'submitted/7.json').exists()


def test_errors_of_slurm_in_one_line():
    """Without the program's name, and what is said twice once."""
    text = 'sbatch: error: No account\n\nsbatch: error: Submission failed: no\nsbatch: error: No account'
    assert cluster.one_line(text) == 'No account; Submission failed: no'
    with pytest.raises(
        UserError, match='^nosuchprogram does not work here: there is no such program. Without Slurm, --local'
    ):
        cluster.ask('nosuchprogram')
    with pytest.raises(UserError, match='failed: .*/nowhere'):
        cluster.ask('ls', '/nowhere')


def test_slurm_may_name_what_the_locale_cannot_decode():
    assert cluster.ask('printf', r'n\344cht') == os.fsdecode(b'n\xe4cht')


def test_the_last_job_of_a_run_counts_unless_an_older_one_is_queued(tmp_path, monkeypatch):
    """Jobs are numbers, not words; one task alone is no array."""
    for job, runs in ((9, RUNS), (10, RUNS[:2]), (100, RUNS[2:3])):
        cluster.remember(tmp_path, str(job), runs, tmp_path / 'logs')
    lines = '9|0|PENDING|0:00|(JobHeldUser)\n10|1|RUNNING|5:00|n[1-2]\n'
    monkeypatch.setattr(cluster, 'ask', lambda *_: lines)
    jobs = cluster.find_jobs(tmp_path)
    assert {run: job.name for run, job in jobs.items()} == dict(zip(RUNS, ('9_0', '10_1', '100', '9_3'), strict=True))
    assert jobs['paper', 0].queued == ('PENDING', '(JobHeldUser)') and jobs['paper', 1].queued is None
    assert jobs['content', 0].queued == ('RUNNING', 'on n[1-2], 5:00')
    assert jobs['paper', 1].log.endswith('logs/100_0_log.out') and jobs['content', 1].log.endswith('9_3_0_log.out')


@pytest.mark.parametrize(
    'content', ['', '[]', '{"runs": 3, "logs": "a"}', '{"runs": [["paper"]], "logs": "a"}', '{"runs": [], "logs": 3}']
)
def test_a_damaged_note_of_a_job_is_left_out(tmp_path, monkeypatch, capsys, content):
    """By its name; the others count, and files that are no job's."""
    cluster.remember(tmp_path, '7', RUNS[:2], tmp_path / 'logs')
    (tmp_path / 'submitted/8.json').write_text(content)
    (tmp_path / 'submitted/9 (copy).json').write_text(content)
    monkeypatch.setattr(cluster, 'ask', lambda *_: '')
    assert {run: job.name for run, job in cluster.find_jobs(tmp_path).items()} == {RUNS[0]: '7_0', RUNS[1]: '7_1'}
    assert f'left out: {tmp_path}/submitted/8.json' in capsys.readouterr().out


@pytest.mark.parametrize('content', ['', '[]', '{"sets": {}}'])
def test_a_damaged_row_is_missing(tiny_study, tmp_path, monkeypatch, content):
    monkeypatch.setattr(cluster, 'ask', lambda *_: '')
    (tmp_path / 'rows').mkdir()
    (tmp_path / 'rows/tiny-paper-0.json').write_text(content)
    line = cluster.status(tiny_study, RUNS[:1], tmp_path, tmp_path).splitlines()[0]
    assert line.split()[:2] == ['paper-0', 'missing'] and line.endswith('its row is damaged and is made anew')


def test_status_of_a_study(tiny_study, tmp_path, monkeypatch):
    """Rows first, then the queue, then what is left of a log; they are counted."""

    def is_done(config, name, seed, results):
        return (name, seed) == ('paper', 0)

    monkeypatch.setattr(cluster.study, 'is_done', is_done)
    (tmp_path / 'rows').mkdir()
    (tmp_path / 'rows' / 'tiny-content-0.json').write_text(json.dumps({'failed': 'total not finite'}))
    cluster.remember(tmp_path, '7', RUNS[1:3], tmp_path)
    (tmp_path / '7_1_0_log.out').write_text('10%\rerror: no space\rslow\n')
    monkeypatch.setattr(cluster, 'ask', lambda *_: '')
    lines = cluster.status(tiny_study, RUNS, tmp_path, tmp_path).splitlines()
    assert [line.split()[:2] for line in lines[:4]] == [
        ['paper-0', 'done'], ['content-0', 'failed'], ['paper-1', 'failed'], ['content-1', 'missing'],
    ]  # fmt: skip
    assert 'total not finite' in lines[1] and 'job 7_1 has ended without a row: error: no space' in lines[2]
    assert lines[4] == '4 runs: 1 done, 0 running, 0 waiting, 2 failed, 1 missing'
