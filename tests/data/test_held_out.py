"""What is held out of training to watch it."""

import dataclasses

import pytest

from qsnet_jax import UserError
from qsnet_jax.data import held_out


@dataclasses.dataclass
class Scenes:
    """A source that only knows its scenes, two items of each."""

    scenes: list[str]

    def __post_init__(self):
        self.groups = [scene for scene in self.scenes for _ in range(2)]
        self.names = [f'{scene}-{number}' for number, scene in enumerate(self.groups)]
        self.notes = {}


def test_whole_scenes_by_their_names_alone():
    """In every source alike, whatever the order, and about as many as asked for."""
    many = [f'scene {number}' for number in range(400)]
    first, second = Scenes(many), Scenes(many[:200][::-1])
    training, validation = held_out.split({'a': first, 'b': second}, 0.05)
    kept, held = (set(part['a'].groups) for part in (training, {'a': validation['held_out/a']}))
    assert not kept & held and kept | held == set(many) and 10 <= len(held) <= 32
    assert set(validation['held_out/b'].groups) == held & set(many[:200])
    assert not set(training['b'].groups) & held
    again, _ = held_out.split({'a': Scenes(many[::-1])}, 0.05)
    assert set(again['a'].groups) == kept


def test_small_sources_hold_one_out():
    """And one that has a single scene is refused with what to do."""
    training, validation = held_out.split({'a': Scenes(['x', 'y', 'z'])}, 0.0)
    assert len(set(training['a'].groups)) == 2 and len(set(validation['held_out/a'].groups)) == 1
    with pytest.raises(UserError, match='config.data.validation'):
        held_out.split({'a': Scenes(['x'])}, 0.05)
