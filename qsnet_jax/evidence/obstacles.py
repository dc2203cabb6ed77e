"""What keeps a comparison of runs from a verdict. Each rule is one function, said by name; all but `harm` hold whatever
the scores are.

Of rows that were written before the program recorded on what a checkpoint was chosen, those of studies are counted:
they score the last step, so that nothing was chosen.
"""

import functools
import math
import pathlib
import re
import subprocess
from collections.abc import Iterator
from typing import Any

import numpy as np

from qsnet_jax import fields, provenance
from qsnet_jax.evidence import rows as rows_

_ALIASES = {'test_ii': 'rain100h', 'test_iii': rows_.STAND_IN}  # as data.sets takes them, which is not imported
SEEDS = 3  # that both sides of a comparison need in common
_RECIPE = (  # fields, by how they begin, that a run of full size leaves as the paper's or to its variant
    *('model.', 'loss.', 'data.crop', 'train.learning_rate', 'train.clip', 'train.average', 'train.start_from'),
    *('train.rain_gain', 'train.optimizer', 'train.schedule', 'train.plateau_'),
)
ROOT = pathlib.Path(__file__).parents[2]
# Python files that change no score. All others compute, also those that nobody has thought of here.
_IDLE_FOLDERS = ('configs/', 'launch/', 'tests/', 'results/', 'qsnet_jax/evidence/', 'qsnet_jax/peers/')
_IDLE_NAMES = ('main', 'provenance', 'prepare', 'downloads')
_IDLE_BEFORE_ROOMS = ('report', 'page', 'claims', 'sparsity', 'bench', 'compare', 'torch_twin')  # qsnet_jax/NAME.py


def reasons(rows: rows_.Rows, name: str, seeds: int, root: pathlib.Path = ROOT) -> list[str]:
    """Why the rows of a comparison on the set `name` allow no verdict; empty where they do.

    seeds: those that both sides have. root: the checkout that knows the commits, if there is one.
    """
    found = [_few_seeds(seeds), _few_scenes(rows, name), _seen(rows, name), _unchecked(rows, name), _layers(rows, name)]
    found += [_not_the_papers(rows), _chosen(rows, name), _not_last(rows), _commits(rows, root)]
    found += [_versions(rows), _differences(rows, _device, 'devices'), _differences(rows, _precision, 'precisions')]
    return [reason for reason in found if reason]


def harm(compared: list[tuple[dict[str, Any], str]]) -> str:
    """That nothing which is compared on a set is better than its rainy images; '' where something is.

    compared: what each row has of the set, and the column of its images that is compared. Which of two outputs harms
    less says nothing of what removes rain. Kept apart from `reasons`, which never look at scores.
    """
    gains = []
    for found, column in compared:
        rain, scores = found['input']['rgb']['psnr'], found['images'][column]
        if rain is None:  # JSON has no inf: there is no rain
            gains.append(-math.inf)
        else:
            gains.append(math.inf if None in scores else float(np.mean(scores)) - rain)
    return 'nothing compared here is better than the rainy images' if gains and max(gains) <= 0 else ''


def _few_seeds(seeds: int) -> str:
    return f'{seeds} of {SEEDS} seeds' if seeds < SEEDS else ''


def _few_scenes(rows: rows_.Rows, name: str) -> str:
    scenes = {scene for row in rows for scene in row['sets'][name]['images']['scene']}
    return 'one scene alone' if len(scenes) == 1 else ''


def _not_the_papers(rows: rows_.Rows) -> str:
    """Runs that a study calls full, whose network or recipe is not the paper's but for what the variant changes.

    More steps are allowed. What they are computed in is another rule's.
    """
    found: dict[str, Any] = {}
    for row in (row for row in rows if row['size'] == 'full'):
        unlike = rows_.unlike_default(row, (*_RECIPE, 'train.steps'))
        steps, least = unlike.pop('train.steps', (0, 0))
        unlike |= {'train.steps': (steps, least)} if steps < least else {}
        found |= {name: value for name, (value, _) in unlike.items() if name != 'model.dtype'}
    shown = ', '.join(f'{name}={value!r}' for name, value in sorted(found.items()))
    return f"not the paper's network or recipe: {shown}" if shown else ''


def _seen(rows: rows_.Rows, name: str) -> str:
    """Images that were trained on."""
    seen = {each for row in rows for each in row['sets'][name]['fingerprint'].get('seen_in_training', ())}
    return f'trained on the scored images ({", ".join(sorted(seen))})' if seen else ''


def _unchecked(rows: rows_.Rows, name: str) -> str:
    """Files of strangers on both sides, whose backgrounds nobody compared (546 of RainTrainH are those of Rain100H)."""
    if _is_bundled(name):
        return ''  # photos that come with the program: none is for training and for scoring
    unchecked = {
        source
        for row in rows
        for training in _trainings(row)
        for source, notes in _sources(training).items()
        if not _is_bundled(source) and _called(name) not in _compared(training, notes)
    }
    if not unchecked:
        return ''
    return f'backgrounds not compared with {", ".join(sorted(unchecked))} (config.data.exclude)'


def _layers(rows: rows_.Rows, name: str) -> str:
    """Rain layers of the scored set, `layers/A+B`, that training may have drawn too: none, or others, were held out.

    Rows do not tell whether B had a folder for evaluation, which would make the number irrelevant; this errs on the
    safe side.
    """
    layer = name.partition('+')[2] if name.startswith('layers/') else ''
    shared: set[str] = set()
    numbers: set[int | None] = set()
    for row in rows if layer else ():
        own = row['provenance']['config']['data'].get('hold_out')
        for training in _trainings(row):
            drawn = {source for source in _sources(training) if source.partition('+')[2] == layer}
            number = training['config']['data'].get('hold_out', own)
            if drawn and (number == 0 or number != own):
                shared |= drawn
                numbers |= {number, own}
    told = ' and '.join(sorted(map(str, numbers)))
    return f'rain layers shared with {", ".join(sorted(shared))} (config.data.hold_out is {told})' if shared else ''


def _chosen(rows: rows_.Rows, name: str) -> str:
    """A checkpoint that was chosen by its score on this set."""
    for row in rows:
        record = row['provenance']
        chosen = {*_strings(record.get('selected_on')), *_strings((record.get('training') or {}).get('selected_on'))}
        if re.search('--?checkpoint[= ]best', record['command']) and not chosen:
            config = record['config']
            watched = _strings(config['data'].get('validation'))
            chosen |= set(watched or _strings(config['data']['eval'])[: config['train'].get('eval_sets', 1)])
        if _called(name) in map(_called, chosen):
            return 'the checkpoint was chosen on the scored set'
    return ''


def _not_last(rows: rows_.Rows) -> str:
    """A step that somebody picked, or a run that was not finished."""
    for row in rows:
        training = next(_trainings(row))
        step = training.get('step')
        steps = training['config'].get('train', {}).get('steps', step)
        if step not in (None, steps):
            return f'scored at step {step} of {steps}'
    return ''


def _commits(rows: rows_.Rows, root: pathlib.Path) -> str:
    """Commits between which, as far as is known, something that computes has changed."""
    commits = sorted({record['commit'] for row in rows for record in _records(row) if 'commit' in record})
    unclean = [commit for commit in commits if commit.endswith('+changes')]
    if unclean:
        return f'changes that no commit holds ({unclean[0][:10]})'
    for other in commits[1:]:
        files = touched(commits[0], other, root)
        if files is None:
            return f'commits {commits[0][:10]} and {other[:10]}, and no checkout that tells what changed between them'
        if files:
            return f'commits {commits[0][:10]} and {other[:10]}, between which {files[0]} changed'
    return ''


@functools.cache
def touched(first: str, second: str, root: pathlib.Path) -> tuple[str, ...] | None:
    """The files that compute and differ between two commits; None where no checkout knows both."""
    try:
        found = provenance.git(root, 'diff', '--name-only', '--no-renames', first, second, '--', '*.py').splitlines()
    except (OSError, subprocess.CalledProcessError):
        return None
    return tuple(path for path in found if _computes(path))


def _computes(path: str) -> bool:
    file = pathlib.PurePosixPath(path)
    if path == 'qsnet_jax/evidence/evaluate.py':
        return True
    is_idle = path.startswith(_IDLE_FOLDERS) or (path.startswith('qsnet_jax/') and file.stem in _IDLE_NAMES)
    return not is_idle and not (str(file.parent) == 'qsnet_jax' and file.stem in _IDLE_BEFORE_ROOMS)


def _versions(rows: rows_.Rows) -> str:
    """Packages of which several versions computed."""
    found: dict[str, set[str]] = {}
    for row in rows:
        for record in _records(row):
            for package, version in record.get('versions', {}).items():
                found.setdefault(package, set()).add(version)
    mixed = sorted(package for package, versions in found.items() if len(versions) > 1)
    return f'versions of {", ".join(mixed)}' if mixed else ''


def _differences(rows: rows_.Rows, of: Any, what: str) -> str:
    """Several of something of which one comparison has one."""
    found = sorted({text for row in rows for record in _records(row) if (text := of(record))})
    return f'{what} {" and ".join(found)}' if len(found) > 1 else ''


def _device(record: dict[str, Any]) -> str:
    device = record.get('device')
    return f'{device["platform"]} {device["kind"]}' if device else ''


def _precision(record: dict[str, Any]) -> str:
    """The computation's, the matrix products', and every config field of that name."""
    if 'precision' not in record:
        return ''
    config = fields.flat(record.get('config', {}))
    dtype = record['precision'].get('dtype') or config.get('model.dtype')  # older rows have it in the config alone
    named = [value for name, value in sorted(config.items()) if name.endswith('precision')]
    others = [value for name, value in sorted(record['precision'].items()) if name != 'dtype']
    return ' '.join(str(value) for value in (dtype, *others, *named) if value)


def _records(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Of the scoring, of the training where it was another process, and of its starts, which tell where they differ."""
    record = row['provenance']
    training = record.get('training') or {}
    return [record, training, *({**record, **training, **start} for start in training.get('starts') or ())]


def _trainings(row: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Records of the training and of those whose weights it started from, each with a config."""
    record = row['provenance'].get('training') or {}
    yield {'config': row['provenance']['config'], **record}
    while record.get('start_from'):
        record = record['start_from'].get('record') or {}
        if 'config' in record:
            yield record


def _sources(training: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What was trained on by name, with what was noted of it."""
    names = [name.partition(':')[0] for name in _strings(training['config']['data'].get('train'))]
    return training.get('training_data') or {name: {} for name in names}


def _compared(training: dict[str, Any], notes: dict[str, Any]) -> set[str]:
    """The sets whose backgrounds were looked for in a source, by the config of its training or by what it noted."""
    excluded = [name.partition(':')[0] for name in _strings(training['config']['data'].get('exclude'))]
    noted = [note.removeprefix('without_') for note in notes if note.startswith('without_')]
    return {_called(name) for name in (*excluded, *noted)}


def _called(name: str) -> str:
    """The one name of a set that has two."""
    base, separator, rest = name.partition('/')
    return _ALIASES.get(base, base) + separator + rest


def _is_bundled(name: str) -> bool:
    """Whether a set is rain drawn on the photos that come with the program."""
    return '/' not in name and (name.startswith('drawn_') or name == rows_.STAND_IN)


def _strings(value: Any) -> list[str]:
    """All names in a value: 'a,b', a list of names, or a tree of such."""
    if isinstance(value, str):
        return [name.strip() for name in value.strip('()[]').split(',') if name.strip()]
    if isinstance(value, dict):
        return [name for each in value.values() for name in _strings(each)]
    return [name for each in value for name in _strings(each)] if isinstance(value, (list, tuple)) else []
