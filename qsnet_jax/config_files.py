"""Finds and loads configs: by name those of the package from any folder, by path any file; names the nearest."""

import importlib.util
import inspect
import os
import pathlib
import sys
from typing import Any

from ml_collections import config_dict

import qsnet_jax.configs
from qsnet_jax import UserError, fields, spelling, storage
from qsnet_jax.configs import bench


def names() -> list[str]:
    """Configs of the package; what begins with a dot, as copies from a Mac bring along, is none."""
    paths = [path for folder in qsnet_jax.configs.__path__ for path in pathlib.Path(folder).glob('[!.]*.py')]
    return sorted({path.stem for path in paths} - {'__init__', 'studies'})


def find(value: str) -> tuple[pathlib.Path, str]:
    """File and variant of 'NAME', 'NAME:VARIANT' (of the package), 'FILE.py' or 'FILE.py:VARIANT'.

    configs/NAME.py means the package's where the folder at hand has no such file.
    """
    if value.endswith('.py'):
        place, variant = value, ''  # a folder may have a colon in its name
    else:
        place, _, variant = value.rpartition('.py:') if '.py:' in value else value.partition(':')
        place += '.py' if '.py:' in value else ''
    path = storage.expanded(place)
    if path.suffix == '.py' and path.is_file():
        return path, variant
    if path in (pathlib.Path(path.stem), pathlib.Path('configs') / f'{path.stem}.py') and path.stem in names():
        folder = next(each for each in qsnet_jax.configs.__path__ if (pathlib.Path(each) / f'{path.stem}.py').is_file())
        return pathlib.Path(folder) / f'{path.stem}.py', variant
    if pathlib.Path(f'{place}.py').is_file():
        raise UserError(f'--config={value} is no name of the package; for the file write --config={place}.py.')
    if path.is_symlink() and not path.exists():
        raise UserError(f'--config={value} is a link to {os.readlink(path)}, which does not exist.')
    if path.is_file():
        raise UserError(f'--config={value} does not end in .py, as a config file does; rename it.')
    if path.is_dir():
        raise UserError(f'--config={value} is a folder; name a file in it, as {path}/my_study.py.')
    raise UserError(
        f'--config={value}: configs/{path.stem}.py is not there{spelling.nearest(path.stem, names())}. Name a file, as '
        f'my/study.py, or one of {", ".join(names())}.'
    )


def load(value: str) -> config_dict.ConfigDict:
    """The config of a value of --config. Raises UserError where there is none, and for a file that is none."""
    path, variant = find(value)
    spec = importlib.util.spec_from_file_location('qsnet_config', path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    folder = str(path.parent.resolve())
    is_new = folder not in sys.path
    if is_new:
        sys.path.append(folder)  # for what lies beside it; what is installed comes first
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, 'get_config'):
            raise UserError(f'--config={value} has no get_config(); see configs/default.py for what it returns.')
        if variant and not inspect.signature(module.get_config).parameters:
            raise UserError(
                f'--config={value}: this config has no variants; write --config={value.removesuffix(f":{variant}")}.'
            )
        config = module.get_config(*([variant] if variant else []))
    except UserError:
        raise
    except PermissionError as error:
        place = error.filename or path
        raise UserError(
            f'--config={value}: {place} cannot be read: {error.strerror or error}. {storage.remedy(error, True)}.'
        ) from error
    except (Exception, SystemExit) as error:  # of somebody's own file, whatever it trips over
        raise UserError(f'--config={value} does not load: {_first_line(error)}') from error
    finally:
        if is_new and folder in sys.path:
            sys.path.remove(folder)
    if not isinstance(config, config_dict.ConfigDict):
        raise UserError(f'--config={value} returns a {type(config).__name__}; expected a ConfigDict from get_config().')
    _check_complete(value, config)
    config.lock()
    return config


def _check_complete(value: str, config: config_dict.ConfigDict) -> None:
    """Raises UserError for a config without fields that every config has, and with some that nothing reads."""
    found, known = fields.flat(config.to_dict()), fields.default_fields()
    sections = {name.partition('.')[0] for name in known}
    needed = [*known, *(f'bench.{name}' for name in bench.get_config().bench if 'bench' in config)]
    needed += [f'study.{name}' for name in ('size', 'seeds', 'variants') if 'study' in config]
    there = {*found, *(f'{name}.{field}' for name in ('bench', 'study') for field in _names_in(config, name))}
    missing = [name for name in needed if name not in there]
    if missing:
        raise UserError(
            f'--config={value} lacks {", ".join(missing[:8])}{" and others" if len(missing) > 8 else ""}. Begin with '
            'config = default.get_config() of qsnet_jax.configs and change fields of it.'
        )
    for name in found:
        if name not in known and (name.partition('.')[0] in sections or '.' not in name):
            raise UserError(f'--config={value} has a field {name}, which nothing reads{spelling.nearest(name, known)}.')


def _names_in(config: config_dict.ConfigDict, section: str) -> list[str]:
    """What a section holds; nothing where it is none."""
    place = config.get(section)
    return list(place) if isinstance(place, config_dict.ConfigDict) else []


def name_of(value: str) -> str:
    """What the folder of a run is called: NAME or NAME-VARIANT."""
    path, variant = find(value)
    return f'{path.stem}-{variant}' if variant else path.stem


def check_field(path: str, config: config_dict.ConfigDict, flag: str) -> None:
    """Raises UserError with the nearest name where a config has no field `a.b`, or it is a section."""
    place: Any = config
    *sections, field = path.split('.')
    for number, name in enumerate([*sections, field]):
        if not isinstance(place, config_dict.ConfigDict):
            raise UserError(f'{flag}: {".".join(sections[:number])} is a field and has nothing below it.')
        if name not in place:
            within = f' of {".".join(sections[:number])}' if number else ''
            kind = 'section' if number < len(sections) else 'field'
            raise UserError(f'{flag}: there is no {kind} {name!r}{within}{spelling.nearest(name, list(place))}.')
        place = place.get_ref(name).get() if name not in sections else place[name]
    if isinstance(place, config_dict.ConfigDict) and not path.startswith('study.'):
        raise UserError(f'{flag}: {path} is a section; give one of its fields: {", ".join(place)}.')


def _first_line(error: BaseException) -> str:
    if isinstance(error, SystemExit):
        return f'it ends the program ({error!r}); expected a get_config() that returns a config.'
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else repr(error)
    return text if isinstance(error, ValueError) else f'{type(error).__name__}: {text}'
