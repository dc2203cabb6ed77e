"""What every result carries: commit, command, config, versions, device, precision, time; and none replaces another."""

import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from qsnet_jax import UserError, fields, spelling, storage

_PACKAGES = (
    *('jax', 'jaxlib', 'flax', 'optax', 'orbax-checkpoint', 'grain', 'tensorflow-datasets', 'array-record', 'numpy'),
    *('opencv-python-headless', 'pillow'),
)
_OF_ANOTHER_REPOSITORY = (
    *('GIT_DIR', 'GIT_WORK_TREE', 'GIT_INDEX_FILE', 'GIT_COMMON_DIR', 'GIT_OBJECT_DIRECTORY'),
    'GIT_ALTERNATE_OBJECT_DIRECTORIES',
)  # as its hooks set them


def collect(config: dict[str, Any], seed: int | None) -> dict[str, Any]:
    """A record of how a number came about, equal to itself read back from JSON; `config` is stored whole."""
    import jax  # which the report's claims, who ask git alone, do without

    device = jax.devices()[0]
    return {
        'seed': seed,
        'commit': _commit(),
        'config': json.loads(json.dumps(config)),
        'command': shlex.join(_command()),
        'versions': {'python': platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        'device': {'platform': device.platform, 'kind': device.device_kind, 'count': jax.device_count()},
        'precision': {
            'dtype': config.get('model', {}).get('dtype'),
            'matmul': jax.config.values['jax_default_matmul_precision'] or 'default',
            'x64': bool(jax.config.values['jax_enable_x64']),
            'xla_flags': os.environ.get('XLA_FLAGS', ''),
        },
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
    }


def _commit() -> str:
    """Commit of the source tree, '+changes' where files differ from it; the package's version outside a checkout."""
    root = pathlib.Path(__file__).resolve().parents[1]
    try:
        top = git(root, 'rev-parse', '--show-toplevel').strip()
        if pathlib.Path(top) != root:
            raise FileNotFoundError('the package is not its own checkout')
        changes = git(root, 'status', '--porcelain', '-uno').strip()
        return git(root, 'rev-parse', 'HEAD').strip() + ('+changes' if changes else '')
    except (OSError, subprocess.CalledProcessError):
        return f'qsnet-jax {version("qsnet-jax")}'


def git(root: pathlib.Path, *arguments: str) -> str:
    """What git says of the checkout `root`. Raises OSError without git, CalledProcessError where it fails."""
    command, encoding = ['git', '-C', str(root), *arguments], sys.getfilesystemencoding()
    own = {name: value for name, value in os.environ.items() if name not in _OF_ANOTHER_REPOSITORY}
    # names of folders may be none of the locale
    return subprocess.run(
        command, capture_output=True, encoding=encoding, errors='surrogateescape', check=True, env=own
    ).stdout


def _command() -> list[str]:
    """The command line as a user types it."""
    script, arguments = pathlib.Path(sys.argv[0]), sys.argv[1:]
    if script.parent.name == 'qsnet_jax' and script.name in ('main.py', '__main__.py'):
        return ['python', '-m', 'qsnet_jax.main', *arguments]
    return ['qsnet', *arguments] if script.name == 'qsnet' else ['python', script.name, *arguments]


def version(package: str) -> str:
    """Version of an installed distribution, 'absent' where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return 'absent'


Told: TypeAlias = Callable[[dict[str, Any]], dict[str, Any]]  # what a result is of


def claim(path: pathlib.Path, told: Told, made: dict[str, Any], way_out: str) -> pathlib.Path:
    """The path of a result that is about to be made; raises UserError where another result lies there.

    told: what a result is of, its data and settings, which is all that may not differ. made: what is known of the new
    result. A damaged file is no obstacle, which is said; one that cannot be read is. way_out: ends the message.
    """
    if not path.exists():
        return path
    now = told(made)
    try:
        different = fields.differences(told(storage.read_json(path)), now, ('data.root',))
    except (storage.Damaged, KeyError, TypeError, AttributeError) as error:
        if isinstance(error.__cause__, OSError):  # it may be whole
            raise UserError(f'{error} It may hold another result. Make it readable, or {way_out}.') from error
        print(spelling.shown(f'{path} is damaged and is replaced'))
        return path
    if different:
        rest = f'; and {len(different) - 10} more' if len(different) > 10 else ''
        raise UserError(f'{path} holds another result: {"; ".join(different[:10])}{rest}. Remove it, or {way_out}.')
    return path


def claim_beside(paths: Iterable[pathlib.Path], about: pathlib.Path, way_out: str) -> None:
    """Raises UserError where pictures or pages would be replaced, and no record `about` says that they are ours."""
    foreign = [] if about.exists() else [path for path in paths if os.path.lexists(path)]
    if foreign:
        where = f'{about.name} beside it' if foreign[0].parent == about.parent else f'{about}'
        raise UserError(
            f'{" and ".join(map(str, foreign))} would be replaced, and no {where} says that this program made it. '
            f'Move it away, or {way_out}.'
        )
