"""Prepares the public sets that a config names, tables what all its sets hold, and finds backgrounds they share."""

import concurrent.futures
import os
from typing import Any

import numpy as np

from qsnet_jax import metrics, progress
from qsnet_jax.data import held_out, overlap, prepared, public, sets, sources

MOST_SCORED = 3000  # images of a set whose input scores are computed, evenly spaced
LISTED = 10  # shared backgrounds that are named


def prepare(config: Any, find_shared: bool) -> None:
    """Prepares, checks and prints. Public sets that were prepared from other files are prepared again.

    find_shared: also compare the backgrounds of each training set, all of it, with those of each evaluation set.
    Raises UserError where a set cannot be used.
    """
    named = [config.data.train, *(names for names, _ in sets.beside_training(config.data))]
    bases = [sets.public_name(name) for names in named for name, _ in sets.parse_names(names)]
    for base in dict.fromkeys(bases):
        there = [each for each in sets.TEST_I if prepared.splits_there(each, config.data)] if base == 'test_i' else []
        for each in there or [base]:
            if each in public.SETS:
                print(f'{each}: prepared in {prepared.prepare(each, config.data, replace=True)}')
    cache = sources.Cache(0)
    opened = {
        'train': sets.open_training(config.data, cache),
        'eval': sets.open_evaluation(config.data, config.data.eval, cache),
    }
    if config.data.validation != held_out.NAME:
        opened['validation'] = sets.open_evaluation(config.data, config.data.validation, cache, 'validation')
    lines = [_HEAD]
    for role, by_name in opened.items():
        lines += [_describe(role, name, source) for name, source in by_name.items()]
    print('\n'.join(lines))
    if find_shared:
        names = [name for name, _ in sets.parse_names(config.data.train)]
        whole = {name: sets.open_source(name, config.data, 'train', cache) for name in names}
        _print_shared(whole, opened['eval'])


_HEAD = (
    f'{"":30}{"pairs":>7}{"of":>7}{"smallest":>12}{"largest":>12}{"input rgb":>15}{"input y":>15}  '
    f'{"fingerprint":14}layout or folder'
)


def _describe(role: str, name: str, source: sources.Source) -> str:
    """One line of the table, and one more where the input scores are not those known of the set."""
    count = len(source.names)
    chosen = np.unique(np.linspace(0, count - 1, min(count, MOST_SCORED)).round().astype(int))
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(lambda index: _score(source, int(index)), chosen)
        rows = list(progress.bar(found, f'scoring {name}', len(chosen), unit='image'))
    sizes = sorted((row.pop('size') for row in rows), key=lambda size: size[0] * size[1])
    means = {key: float(np.mean([row[key] for row in rows if np.isfinite(row[key])] or [np.nan])) for key in rows[0]}
    fingerprint = sources.fingerprint(source)
    scores = [f'{means[f"{protocol}_psnr"]:.2f} / {means[f"{protocol}_ssim"]:.3f}' for protocol in metrics.PROTOCOLS]
    line = (
        f'{role + " " + name:30}{count:7}{fingerprint.get("publisher_count") or "?":>7}'
        f'{"x".join(map(str, sizes[0])):>12}{"x".join(map(str, sizes[-1])):>12}{scores[0]:>15}{scores[1]:>15}  '
        f'{fingerprint["sha256"][:12]:14}{fingerprint.get("layout") or fingerprint.get("folder", "")}'
    )
    if len(chosen) < count:
        line += f'\n  {name}: scores and sizes of {len(chosen)} of them, evenly spaced'
    base = sets.public_name(name)
    known = public.SPECS[base].input_rgb if base in public.SPECS else None
    if known and count == fingerprint['publisher_count'] and abs(means['rgb_psnr'] - known) > 0.05:
        found_rgb = f'{means["rgb_psnr"]:.2f} dB RGB'
        line += f'\n  {name}: input PSNR is {found_rgb} where the published set has {known}: another version?'
    return line


def _score(source: sources.Source, index: int) -> dict[str, Any]:
    """Scores of a rainy image against its clean one, and its size."""
    rainy, clean = source.load(index)
    return {**metrics.score(rainy, clean), 'size': clean.shape[:2]}


def _print_shared(training: dict[str, sources.Source], evaluation: dict[str, sources.Source]) -> None:
    """For each training set and each evaluation set, the items that share a background."""
    held_out = {name: overlap.signatures(name, source) for name, source in evaluation.items()}
    for name, source in training.items():
        own = overlap.signatures(name, source)
        for other, signatures in held_out.items():
            found = overlap.shared(own, signatures)
            print(f'training {name}: {len(found)} of {len(own)} items share a background with {other}')
            for index, partner, correlation in found[:LISTED]:
                print(f'  {source.names[index]} is {evaluation[other].names[partner]} (correlation {correlation:.3f})')
            if len(found) > LISTED:
                print(f'  and {len(found) - LISTED} more')
            if found:
                print(f'  --config.data.exclude={other} leaves them out of training')
