"""What is held out of training to watch it."""

import dataclasses

import pytest
from qsnet_jax.configs import default

from qsnet_jax import UserError
from qsnet_jax.data import held_out, images, sets, sources
from tests.drawn import draw_pair


@dataclasses.dataclass
class Scenes:
    """A source that only knows its scenes, two items of each."""

    scenes: list[str]
    pictures: dict[str, str] = dataclasses.field(default_factory=dict)  # of scenes that share one

    def __post_init__(self):
        self.groups = [scene for scene in self.scenes for _ in range(2)]
        self.names = [f'{scene}-{number}' for number, scene in enumerate(self.groups)]
        self.notes = {}

    def background(self, index):
        return self.pictures.get(self.groups[index], self.groups[index])


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


def test_one_clean_picture_under_two_names_is_one_scene():
    """In one source and across two, in any order; where nothing is shared the choice is as before."""
    many = [f'scene {number}' for number in range(400)]
    alone = set(held_out.split({'a': Scenes(many)}, 0.05)[1]['held_out/a'].groups)
    kept, held = (sorted(each) for each in (set(many) - alone, alone))
    pictures = {held[0]: 'one', kept[0]: 'one', held[1]: 'two', kept[1]: 'two', 'copy': 'two'}
    first, second = Scenes(many, pictures), Scenes(['copy', 'other'], pictures)
    choices = []
    for opened in ({'a': first, 'b': second}, {'b': second, 'a': first}):
        sides = held_out.split(opened, 0.05)
        left, right = ({each.background(i) for each in side.values() for i in range(len(each.names))} for side in sides)
        assert left and right and not left & right
        choices.append(set(sides[1]['held_out/a'].groups))
    assert choices[0] == choices[1] and choices[0] ^ alone <= {*held[:2], *kept[:2]}


def test_the_same_photo_twice_is_not_trained_on_and_watched(tmp_path):
    """Files of a folder, pairs as well as photos to draw rain on, of which each has a copy."""
    data = default.get_config().data
    data.update({'root': str(tmp_path), 'validation_share': 0.5, 'train': 'pairs/pairs,drawn_light/photos'})
    for number in range(8):
        picture = draw_pair(number % 4)[1]
        for name in (f'pairs/rain-{number}', f'pairs/norain-{number}', f'photos/photo {number}'):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            images.save(tmp_path / f'{name}.png', picture)
    opened = sets.open_run(data, sources.Cache(1e9))
    left, right = (
        {each.load(index)[1].tobytes() for each in side.values() for index in range(len(each.names))}
        for side in (opened.training, opened.validation)
    )
    assert len(left) + len(right) == 4 and not left & right


def test_small_sources_hold_one_out():
    """And one that has a single scene is refused with what to do."""
    training, validation = held_out.split({'a': Scenes(['x', 'y', 'z'])}, 0.0)
    assert len(set(training['a'].groups)) == 2 and len(set(validation['held_out/a'].groups)) == 1
    with pytest.raises(UserError, match='config.data.validation'):
        held_out.split({'a': Scenes(['x'])}, 0.05)
