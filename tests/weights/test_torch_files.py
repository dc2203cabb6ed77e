"""PyTorch's files: read and written without PyTorch where they are safetensors, and from nothing above this room."""

import ast
import pathlib
import sys

import flax
import numpy as np
import pytest

from qsnet_jax import UserError, model, weights
from qsnet_jax.weights import files, torch_files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)


@pytest.mark.usefixtures('no_torch')
def test_safetensors_of_the_twin_need_no_pytorch(tmp_path):
    """Written and read to the bit; .pth says what to install."""
    variables = model.initialize(model.from_config(SETTINGS), seed=0)
    torch_files.save_weights(tmp_path / 'w.safetensors', variables, SETTINGS, {'commit': 'abc'})
    found, settings = files.load_weights(tmp_path / 'w.safetensors')
    assert model.from_config(settings) == model.from_config(SETTINGS)
    assert files.load_record(tmp_path / 'w.safetensors') == {'commit': 'abc'}
    first, second = (flax.traverse_util.flatten_dict(tree, sep='/') for tree in (variables, found))
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])
    with pytest.raises(UserError, match='needs PyTorch: pip install torch'):
        torch_files.save_weights(tmp_path / 'w.pth', variables, SETTINGS)


def test_weights_import_nothing_above_them():
    """Neither at the top of a module nor inside a function."""
    for path in pathlib.Path(weights.__file__).parent.glob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [getattr(node, 'module', None) or '', *(each.name for each in node.names)]
                above = {'peers', 'training', 'evidence', 'derain', 'data', 'main'}
                assert not above & {part for name in names for part in name.split('.')}, (path.name, names)
