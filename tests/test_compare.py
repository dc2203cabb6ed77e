"""Both frameworks trained side by side: what is written, and that they start as one."""

import csv
import json

import jax
import numpy as np
import pytest

pytest.importorskip('torch')

from qsnet_jax import compare  # noqa: E402


@pytest.fixture
def lenient_promotion():
    """Optax's Adam is not clean under strict promotion."""
    with jax.numpy_dtype_promotion('standard'):
        yield


@pytest.mark.parametrize(('schedule', 'dtype'), [('plateau', 'float32'), ('cosine', 'float64')])
def test_comparison_writes_steps_row_and_figure(schedule, dtype, tiny_config, tmp_path, capsys, lenient_promotion):
    """Six steps of both: equal losses to rounding, the row with its record, a picture, a line that says the result."""
    tiny_config.train.update({'steps': 6, 'eval_every': 3, 'schedule': schedule})
    tiny_config.model.dtype = dtype
    with jax.enable_x64(dtype == 'float64'):
        row = compare.compare(tiny_config, tmp_path / 'run', tmp_path / 'results')
    with (tmp_path / 'run/compare/steps.csv').open() as file:
        steps = list(csv.DictReader(file))
    assert [step['step'] for step in steps] == list('123456')
    first = {name: float(value) for name, value in steps[0].items() if value}
    tolerance = 1e-12 if dtype == 'float64' else 1e-5
    assert first['jax_loss'] == pytest.approx(first['torch_loss'], rel=tolerance)
    assert first['jax_psnr'] == pytest.approx(first['torch_psnr'], rel=tolerance)
    assert [bool(step['torch_validation']) for step in steps] == [False, False, True] * 2
    assert json.loads((tmp_path / 'results/rows/compare-run.json').read_text()) == json.loads(json.dumps(row))
    assert row['steps'] == 6 and row['count'] == 2 and row['provenance']['versions']['torch']
    assert row['loss_difference']['first'] < tolerance <= 1e-5
    if dtype == 'float64':
        assert row['loss_difference']['largest'] < 1e-6 and row['parameter_difference']['largest'] < 1e-6
        assert row['validation_psnr']['jax'] == pytest.approx(row['validation_psnr']['torch'], abs=1e-3)
    assert (tmp_path / 'results/figures/compare-run.png').read_bytes().startswith(b'\x89PNG')
    assert 'after 6 steps: validation PSNR' in capsys.readouterr().out


def test_distance_is_relative_to_the_norm():
    """(3, 4) against (3, 4.5): half a unit over five."""
    first, second = {'a': np.array([3.0]), 'b': np.array([4.0])}, {'a': np.array([3.0]), 'b': np.array([4.5])}
    assert compare.relative_distance(first, second) == pytest.approx(0.1)
    assert compare.relative_distance(first, first) == 0
