"""Groups of items that share something."""

from qsnet_jax.data import grouping


def test_what_one_label_puts_together_is_one_group():
    """A rain layer on two backgrounds, one of which has another layer too, makes one group of three."""
    assert grouping.join(['x', 'y', 'y', 'z'], ['a', 'a', 'b', 'c']) == ['a', 'a', 'a', 'c']
    assert grouping.join(['x', 'y'], ['a', 'b']) == ['a', 'b'] and grouping.join([], []) == []
