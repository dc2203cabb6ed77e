"""What a run watches: scenes of the training sources that are left out of training, by a rule without chance."""

import hashlib

from qsnet_jax import UserError
from qsnet_jax.data import grouping, sources

NAME = 'held_out'  # as data.validation
Opened = dict[str, sources.Source]


def split(opened: Opened, share: float) -> tuple[Opened, Opened]:
    """(training, validation) of the training sources; the latter are called held_out/NAME.

    A scene is held out where the hash of its name lies in the first `share` of all hashes, and in every source of a
    mixture alike; where that is none, the scene with the smallest hash is. Scenes of one name are one, and so are those
    of one clean picture, which then go by their first name. Raises UserError where nothing is left.
    """
    called = _first_names(opened)
    scenes = set(called.values())
    held = {scene for scene in scenes if _rank(scene) < share} or {min(scenes, key=_rank)}
    chosen = {name for name, scene in called.items() if scene in held}
    training: Opened = {}
    validation: Opened = {}
    for name, source in opened.items():
        inside = [index for index, scene in enumerate(source.groups) if scene in chosen]
        outside = [index for index, scene in enumerate(source.groups) if scene not in chosen]
        if not outside:
            raise UserError(
                f'{name} has one scene, {source.groups[0]}, and it would be held out of training to watch the run. '
                'Name sets to watch by --config.data.validation.'
            )
        training[name] = sources.Joined([('', source, outside)], source.notes, source)
        if inside:
            notes = {**source.notes, 'held_out': True}
            validation[f'{NAME}/{name}'] = sources.Joined([('', source, inside)], notes, source)
    return training, validation


def _first_names(opened: Opened) -> dict[str, str]:
    """Of each scene the name that comes first, by the alphabet, among those that share a clean picture with it."""
    items = [(source, index) for source in opened.values() for index in range(len(source.names))]
    names = [source.groups[index] for source, index in items]
    groups = grouping.join([source.background(index) for source, index in items], names)
    first: dict[str, str] = {}
    for name, group in zip(names, groups, strict=True):
        first[group] = min(name, first.get(group, name))
    return {name: first[group] for name, group in zip(names, groups, strict=True)}


def _rank(scene: str) -> float:
    """Where a name lies among all hashes, in [0, 1)."""
    return int.from_bytes(hashlib.sha256(scene.encode(errors='surrogateescape')).digest()[:8]) / 2**64
