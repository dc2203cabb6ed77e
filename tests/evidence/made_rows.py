"""Rows of results as a study writes them, with scores made up."""

import json
import pathlib
import shutil

import numpy as np
from qsnet_jax.configs import losses, studies

from qsnet_jax import provenance, storage

RESULTS = pathlib.Path(__file__).parents[2] / 'results'
SCENES = ['a', 'a', 'b', 'b', 'c', 'c']


def make_row(variant, seed, shift=0.0, size='small', noise=(), **changes):
    """A study row of six images in three scenes whose PSNR is 30 + seed / 10 + the image's number + shift (+ noise)."""
    config = studies.make(losses.VARIANTS, '' if size == 'full' else 'small')
    overrides = config.study.variants[variant].to_dict()
    chosen = studies.select(config, variant)
    chosen.seed = seed
    psnr = [30 + seed / 10 + number + shift for number in range(6)]
    psnr = [value + extra for value, extra in zip(psnr, noise or [0.0] * 6, strict=True)]
    columns = {f'output_{protocol}_psnr': psnr for protocol in ('rgb', 'y')}
    columns |= {f'output_{protocol}_ssim': [0.9] * 6 for protocol in ('rgb', 'y')}
    columns |= {f'C_{n}_{protocol}_psnr': [each - n for each in psnr] for n in range(1, 6) for protocol in ('rgb', 'y')}
    tree = {protocol: {'psnr': float(np.mean(psnr)), 'ssim': 0.9} for protocol in ('rgb', 'y')}
    pairs = {
        **tree,
        'count': 6,
        'input': {protocol: {'psnr': 20.0, 'ssim': 0.7} for protocol in ('rgb', 'y')},
        'scales': {f'C_{n}': tree for n in range(1, 6)},
        'fingerprint': {'count': 6, 'sha256': 'f' * 64},
        'images': {'name': list('ABCDEF'), 'scene': SCENES, **columns},
    }
    training = {
        'training_seconds': 60.0,
        'training_data': {'pairs': {'count': 9, 'sha256': '9' * 64, 'without_pairs': 0}},
    }
    record = provenance.collect(json.loads(chosen.to_json()), seed) | {'commit': 'c' * 40, 'training': training}
    curve = [{'step': 200, 'validation_psnr': 29.0}, {'step': 400, 'validation_psnr': 30.0}]
    row = {'kind': 'study', 'size': size, 'variant': variant, 'overrides': overrides, 'seed': seed}
    return {**row, 'sets': {'pairs': pairs}, 'curve': curve, 'provenance': record, **changes}


def write(folder, rows):
    """RESULTS/rows/ with these rows in it."""
    for row in rows:
        storage.write_json(folder / 'rows' / f'{row["size"]}-{row["variant"]}-{row["seed"]}.json', row)
    return folder


def write_study(folder):
    """Three seeds of V1 to V4, each variant 0.5 dB better than the last, but for the seeds' own differences."""
    shifts = {'V1': 0.0, 'V2': 0.512, 'V3': 1.012, 'paper': 1.512}
    made = [make_row(name, seed, shift + 0.01 * seed * shift) for name, shift in shifts.items() for seed in range(3)]
    shutil.copy(RESULTS / 'paper.json', folder / 'paper.json')
    return write(folder, made)
