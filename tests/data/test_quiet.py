"""What libraries print is caught; what others print meanwhile is not lost."""

import os

import pytest

from qsnet_jax.data import quiet


def test_lines_of_a_library_are_caught_and_others_printed(capfd):
    """Also a message of two lines, and one without an end."""
    said = []
    lines = [
        'TIFFFillStrip: Read error.',
        'JPEGFixup: Improper factors 2,2',
        'Apparently should be 1,1.',
        '\rphotos:  10%|#  |',
    ]
    with quiet.printed(said):
        os.write(2, '\n'.join([*lines, 'I1125 07:00:00 a log', 'tempfile.tif: Using code not yet in table.']).encode())
    assert said == [
        'TIFFFillStrip: Read error.',
        'JPEGFixup: Improper factors 2,2 Apparently should be 1,1.',
        'Using code not yet in table.',
    ]
    assert capfd.readouterr().err == '\rphotos:  10%|#  |\nI1125 07:00:00 a log\n'


def test_standard_error_comes_back_after_an_exception(capfd):
    """And what was said until then is kept."""
    said = []
    with pytest.raises(KeyError), quiet.printed(said):
        os.write(2, b'LZWDecode: Not enough data.\n')
        raise KeyError
    os.write(2, b'after\n')
    assert said == ['LZWDecode: Not enough data.'] and capfd.readouterr().err == 'after\n'
