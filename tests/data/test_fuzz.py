"""Thousands of damaged files under a memory limit: each is a whole photo or an ImageError, and nothing is printed."""

import json
import pathlib
import subprocess
import sys

import fuzz
import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(('count', 'seed'), [(300, 17), pytest.param(2000, 0, marks=pytest.mark.slow)])
def test_damaged_files_end_in_a_photo_or_an_image_error(tmp_path, count, seed):
    """No other exception, no half picture, no minute-long decoding; both endings occur."""
    assert len(fuzz.seeds()) >= 20
    command = [sys.executable, fuzz.__file__, str(count), str(seed), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env={'PYTHONPATH': str(ROOT)}, check=False)
    assert done.returncode == 0 and done.stderr == '', done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found['wrong'] == []
    assert sum(found['counts'].values()) == count and min(found['counts'].values()) > count / 10
