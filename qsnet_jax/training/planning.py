"""What runs a study has, what each of them is, and whether all of them can begin: variants x seeds."""

import functools
import json
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import ml_collections

from qsnet_jax import UserError, config_files, fields, model, storage
from qsnet_jax.configs import studies
from qsnet_jax.data import overlap, sets, sources
from qsnet_jax.training import settings, train


def plan(config: Any, only: str | None = None) -> list[tuple[str, int]]:
    """All (variant, seed) of a study, every variant with the first seed first. Raises UserError where it is none."""
    if 'study' not in config:
        raise UserError('--mode=study needs a config with variants, such as configs/losses.py, without one chosen.')
    seeds = config.study.seeds
    if not isinstance(seeds, list | tuple) or not seeds:
        raise UserError(f'study.seeds is {seeds!r}; give at least one, as in --config.study.seeds="(0,)".')
    for seed in seeds:
        fields.check_seed('one of study.seeds', seed)
    if not isinstance(config.study.variants, ml_collections.ConfigDict) or not config.study.variants:
        raise UserError(f'study.variants is {config.study.variants!r}; expected at least one, by its name.')
    names = [name.strip() for name in only.split(',')] if only else list(config.study.variants)
    for name in (config.study.size, *config.study.variants):
        if not isinstance(name, str) or name[:1] in ('', '.') or pathlib.PurePath(name).name != name:
            raise UserError(f'study.size and study.variants name folders, which {name!r} cannot.')
    for name in names:
        if name not in config.study.variants:
            raise UserError(f'--only={name} is no variant of this study; it has {", ".join(config.study.variants)}.')
    return list(dict.fromkeys((name, seed) for seed in seeds for name in names))  # each once


def variant(config: Any, name: str, seed: int, workdir: pathlib.Path | None = None) -> Any:
    """The config of one run of a study. Raises UserError where the variant names what the config does not have.

    workdir: of the study; without it weights that another run leaves there have no place (`studies.fill`).
    """
    try:
        chosen = studies.select(config, name)
    except (KeyError, TypeError, ValueError, AttributeError) as error:  # of somebody's own study
        _check_names(config, name)
        fault = ' '.join(str(error).strip('"').split())[:300]
        raise UserError(f'study.variants.{name} does not fit the config: {fault}') from error
    chosen.seed = seed
    return studies.fill(chosen, workdir) if workdir else chosen


def _check_names(config: Any, name: str) -> None:
    """Raises UserError where a variant is no table of fields, or names one that there is not."""
    overrides = config.study.variants[name]
    if not isinstance(overrides, ml_collections.ConfigDict):
        raise UserError(f'study.variants.{name} is {overrides!r}; expected fields, as {{"model.units": 6}}.')
    for field in fields.flat(overrides.to_dict()):
        config_files.check_field(field, config, f'study.variants.{name} does not fit the config')


def check(config: Any, runs: list[tuple[str, int]], workdir: pathlib.Path) -> None:
    """Raises UserError that names the variant where a run would before its first step: values, files, weights."""
    checked: set[str | tuple[str, str]] = set()
    left: dict[str, dict[str, Any]] = {}  # where the runs before leave weights, and of which network
    for name, seed in runs:
        try:
            chosen = variant(config, name, seed, workdir)
            if name not in checked:
                settings.check_fields(chosen)
                _check_sources(chosen.data.to_json())
            start = chosen.train.start_from
            if start and _place(start) in left:
                train.refuse_another_network(chosen, left[_place(start)])
            elif start and (name, start) not in checked:
                train.start_state(chosen)
        except UserError as error:
            raise UserError(f'{name}: {error}') from error
        checked |= {name, (name, start)}
        left[_weights(name, seed, workdir)] = model.current(chosen.model)


def waiting(config: Any, runs: list[tuple[str, int]], workdir: pathlib.Path) -> dict[tuple[str, int], tuple[str, int]]:
    """The runs that start from the weights which one before them leaves, and that one."""
    left: dict[str, tuple[str, int]] = {}
    found = {}
    for name, seed in runs:
        start = variant(config, name, seed, workdir).train.start_from
        if start and _place(start) in left:
            found[name, seed] = left[_place(start)]
        left[_weights(name, seed, workdir)] = name, seed
    return found


def _weights(name: str, seed: int, workdir: pathlib.Path) -> str:
    """Where a run leaves its weights."""
    return _place(workdir / f'{name}-{seed}' / 'weights.safetensors')


def _place(path: str | os.PathLike) -> str:
    """A path as it is compared."""
    return os.path.abspath(storage.expanded(path))


def own_fields(config: Any, name: str) -> set[str]:
    """Fields that a variant overrides, and that every run of a study has of its own."""
    return {'seed', *fields.flat(config.study.variants[name].to_dict())}


def say_overridden(config: Any, runs: list[tuple[str, int]], given: Sequence[str]) -> None:
    """Says which variants keep their own value of a field that was given by hand; raises UserError where all do."""
    names = list(dict.fromkeys(name for name, _ in runs))
    for field in given:
        own = [name for name in names if field in own_fields(config, name)]
        if own == names:
            instead = 'study.seeds="(VALUE,)"' if field == 'seed' else f'study.variants.{own[0]}.{field}=VALUE'
            raise UserError(
                f'--config.{field} changes nothing, for every variant that runs has its own ({", ".join(own)}); write '
                f'--config.{instead}.'
            )
        if own:
            print(f'--config.{field} is not for {", ".join(own)}, which have a value of their own')


@functools.cache
def _check_sources(data: str) -> None:
    """Raises UserError where sets of a `config.data`, as JSON, cannot be opened."""
    settings = ml_collections.ConfigDict(json.loads(data))
    names = [name for name, _ in sets.parse_names(settings.train)]
    opened = {name: sets.open_source(name, settings, 'train', sources.Cache(0)) for name in names}
    for beside, role in sets.beside_training(settings):
        found = sets.open_evaluation(settings, beside, sources.Cache(0), role)
        if (beside, role) == (settings.exclude, 'eval'):
            overlap.refuse_one_folder(opened, found, settings.root)
