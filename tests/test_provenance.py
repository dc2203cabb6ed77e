"""What results carry, and that files appear whole."""

import errno
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


def test_the_commit_is_that_of_the_code_within_a_hook_of_another_repository(tmp_path, monkeypatch):
    """Git sets GIT_DIR there, which would answer for every folder."""
    subprocess.run(['git', 'init', '--quiet', tmp_path / 'own'], check=True)
    subprocess.run(['git', 'init', '--quiet', tmp_path / 'other'], check=True)
    monkeypatch.setenv('GIT_DIR', str(tmp_path / 'other/.git'))
    assert provenance.git(tmp_path / 'own', 'rev-parse', '--absolute-git-dir').strip() == str(tmp_path / 'own/.git')


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


def told(result):
    return {'images': result['fingerprint']['sha256'][:12], 'bins': result['bins']}


def test_a_result_takes_the_place_of_its_like_alone(tmp_path):
    """The same may be made anew; of another it is said in what they differ, and what to do."""
    path, result = tmp_path / 'a.json', {'fingerprint': {'sha256': 'a' * 64}, 'bins': 64}
    assert provenance.claim(path, told, result, 'name another one') == path
    storage.write_json(path, {**result, 'share': 0.5})
    assert provenance.claim(path, told, result, 'name another one') == path
    with pytest.raises(UserError) as caught:
        provenance.claim(path, told, {**result, 'bins': 50}, 'name another one')
    assert str(caught.value) == (
        f'{path} holds another result: bins is 64 there and 50 here. Remove it, or name another one.'
    )
    with pytest.raises(UserError, match="images is 'aaaaaaaaaaaa' there and 'bbbbbbbbbbbb' here"):
        provenance.claim(path, told, {**result, 'fingerprint': {'sha256': 'b' * 64}}, 'name another one')


@pytest.mark.parametrize('content', ['', '{"fingerprint"', '[]', '{"fingerprint": 3}', '\0'])
def test_a_damaged_result_is_replaced(tmp_path, content, capsys):
    """It stops nothing."""
    path = tmp_path / 'x.json'
    path.write_text(content)
    assert provenance.claim(path, told, {'fingerprint': {'sha256': 'f' * 64}, 'bins': 3}, '') == path
    assert 'is damaged and is replaced' in capsys.readouterr().out


def test_a_result_that_cannot_be_read_is_not_replaced(tmp_path, monkeypatch):
    """A whole one may lie there, of somebody else on a shared drive."""
    path = tmp_path / 'x.json'
    path.write_text('{"bins": 64}')

    def refuse(self):
        raise PermissionError(errno.EACCES, 'Permission denied')

    monkeypatch.setattr(pathlib.Path, 'read_bytes', refuse)
    with pytest.raises(
        UserError, match=r'x\.json cannot be read: Permission denied\. It may hold another result\. .*, or say so\.'
    ):
        provenance.claim(path, told, {'fingerprint': {'sha256': 'f' * 64}, 'bins': 3}, 'say so')
