"""What the tests of files from strangers share: taking safetensors apart, and the one line of a refusal."""

import json
import struct

import pytest

from qsnet_jax import UserError
from qsnet_jax.weights import files

SETTINGS = {
    'channels': 12, 'groups': 3, 'units': 1, 'scale_channels': 6, 'rates': [1, 2], 'encoder_stride': 1,
    'norm': 'batch', 'share_groups': True, 'share_scales': True, 'dtype': 'float32',
}  # fmt: skip


def split(path):
    """(header, data) of a safetensors file."""
    content = path.read_bytes()
    length = struct.unpack('<Q', content[:8])[0]
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def join(path, header, data=b'', size=None):
    """A safetensors file of any header; size: of the data, all holes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    with path.open('wb') as file:
        file.write(struct.pack('<Q', len(text)) + text + data)
        if size is not None:
            file.truncate(8 + len(text) + size)


def refusal(path, read=files.load_weights):
    """The one line that a file is refused with."""
    with pytest.raises(UserError) as error:
        read(path)
    message = str(error.value)
    assert message.isprintable() and len(message) < 1100, message
    return message
