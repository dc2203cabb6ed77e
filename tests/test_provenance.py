"""What results carry, and that files appear whole."""

import json

import jax
import pytest

from qsnet_jax import provenance


def test_record_has_what_a_row_needs():
    """Commit, command, versions, device, precision, seed and date, ready for JSON."""
    record = provenance.collect({'a': 1}, seed=3)
    assert json.loads(json.dumps(record)) == record
    assert record['seed'] == 3 and record['config'] == {'a': 1} and record['commit']
    assert record['versions']['jax'] == jax.__version__
    assert record['device']['platform'] == 'cpu'
    assert record['precision']['matmul'] == 'default'


def test_digest_ignores_order_and_sees_names_and_contents():
    """One hash over a set of named contents."""
    parts = [('a', b'1'), ('b', b'2')]
    digest = provenance.digest(parts)
    assert digest == provenance.digest(parts[::-1])
    assert digest != provenance.digest([('a', b'2'), ('b', b'1')])
    assert digest != provenance.digest([('c', b'1'), ('b', b'2')])


def test_json_is_whole_or_absent(tmp_path):
    """A value that cannot be written leaves the old file and no other."""
    path = tmp_path / 'deep/x.json'
    provenance.write_json(path, {'a': 1})
    with pytest.raises(TypeError):
        provenance.write_json(path, {'a': object()})
    assert json.loads(path.read_text()) == {'a': 1}
    assert list(path.parent.iterdir()) == [path]
