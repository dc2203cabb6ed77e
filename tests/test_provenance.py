"""What results carry, and that files appear whole."""

import json
import os
import pathlib
import subprocess

import jax
import pytest

from qsnet_jax import UserError, provenance, storage


def test_record_has_what_a_row_needs():
    """Commit, command, versions, device, precision, seed and date, ready for JSON."""
    record = provenance.collect({'rates': (1, 2)}, seed=3)
    assert json.loads(json.dumps(record)) == record
    assert record['seed'] == 3 and record['config'] == {'rates': [1, 2]} and record['commit']
    assert record['versions']['jax'] == jax.__version__
    assert record['device']['platform'] == 'cpu'
    assert record['precision']['matmul'] == 'default'


def test_a_checkout_may_have_a_name_that_the_locale_cannot_decode(tmp_path):
    folder = tmp_path / os.fsdecode(b'n\xe4cht')
    subprocess.run(['git', 'init', '--quiet', folder], check=True)
    assert pathlib.Path(provenance.git(folder, 'rev-parse', '--show-toplevel').strip()) == folder


def test_json_is_whole_or_absent(tmp_path):
    """A value that cannot be written leaves the old file and no other."""
    path = tmp_path / 'deep/x.json'
    storage.write_json(path, {'a': 1})
    with pytest.raises(TypeError):
        storage.write_json(path, {'a': object()})
    assert json.loads(path.read_text()) == {'a': 1}
    with pytest.raises(ValueError, match='JSON'):
        storage.write_json(path, {'a': float('nan')})
    assert list(path.parent.iterdir()) == [path]


def test_a_write_that_fails_leaves_no_trace(tmp_path, monkeypatch):
    """The old content stays and the temporary file goes."""
    path = tmp_path / 'x.txt'
    storage.write_bytes(path, b'old')

    def fail(*_):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(pathlib.Path, 'replace', fail)
    with pytest.raises(OSError, match='No space'):
        storage.write_bytes(path, b'new')
    assert path.read_text() == 'old' and list(tmp_path.iterdir()) == [path]


def test_only_errors_of_files_become_messages(tmp_path):
    """An unwritable folder and a full disk are the user's; other errors are passed on."""
    (tmp_path / 'file').write_text('')
    with pytest.raises(UserError, match='cannot be written'), storage.writable(tmp_path / 'file'):
        pass
    with pytest.raises(UserError, match='No space left'), storage.writable(tmp_path):
        raise ValueError('RESOURCE_EXHAUSTED: No space left on device')
    with pytest.raises(ValueError, match='another') as error, storage.writable(tmp_path):
        raise ValueError('another')
    assert not isinstance(error.value, UserError)
