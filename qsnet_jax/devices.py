"""JAX as the environment wants it: a variable that it cannot follow is one line, not a traceback of JAX's."""

import functools
import os
import re
import subprocess
import sys

from qsnet_jax import UserError

_FLAG_FAULT = re.compile(r'flags\w*\.cc:\d+\] (.*?)\.?$', re.MULTILINE)  # in the log of XLA
_PLATFORMS = ('JAX_PLATFORMS', 'JAX_PLATFORM_NAME')  # in the order in which JAX heeds them


def import_jax() -> None:
    """Imports JAX, which reads its variables then. Raises UserError that names one whose value it does not take."""
    try:
        import jax
    except ValueError as error:
        named = _named(str(error))
        if not named:
            raise
        shown = ' and '.join(f'{name}={os.environ[name]}' for name in named)
        raise UserError(
            f'{shown} is not what JAX takes: {" ".join(str(error).split())[:300]}. Unset it (unset {" ".join(named)}), '
            'or give it a value that JAX knows.'
        ) from error
    for name, value in (('jax_numpy_dtype_promotion', 'standard'), ('jax_transfer_guard', 'allow')):
        if name.upper() in os.environ:  # no number depends on them, and Optax and every start need these
            jax.config.update(name, value)


def _named(message: str) -> list[str]:
    """The variables of JAX whose name a message has, as jax_x or JAX_X or jax.x; else those whose value it has."""
    given = {name: value for name, value in os.environ.items() if name.startswith('JAX_')}
    words = set(re.findall(r'\w+', message.lower().replace('jax.', 'jax_')))
    return [name for name in given if name.lower() in words] or [
        name for name, value in given.items() if f"'{value}'" in message or f'"{value}"' in message
    ]


def check() -> None:
    """Starts JAX. Raises UserError where it finds no device, as where a variable names a backend that is not there."""
    import jax

    if given := os.environ.get('XLA_FLAGS'):
        _try_xla_flags(given)
    names = [name for name in _PLATFORMS if os.environ.get(name)]
    try:
        jax.devices()
        names = ['JAX_DEFAULT_DEVICE']
        if isinstance(jax.config.values['jax_default_device'], str):
            jax.devices(jax.config.values['jax_default_device'])
    except (RuntimeError, AssertionError) as error:
        if not names or names[0] not in os.environ:
            raise UserError(f'JAX finds no device: {" ".join(str(error).split())[:300]}{_set()}') from error
        given = os.environ[names[0]]
        if given != (plain := given.lower().replace(' ', '')):
            remedy = f'write {plain}, or unset it (unset {names[0]})'
            raise UserError(f'{names[0]}={given} is not how JAX spells backends (abc,de); {remedy}.') from error
        raise UserError(
            f'{names[0]}={given} names a backend that is not installed, or that has no device here. '
            f'Unset it (unset {names[0]}) for what is there, or install it (cuda: pip install "qsnet-jax[cuda12]").'
            f'{_flags()}'
        ) from error


@functools.cache
def _try_xla_flags(given: str) -> None:
    """XLA ends the process for flags that it does not know, so another process tries them. given: XLA_FLAGS."""
    if not sys.executable or getattr(sys, 'frozen', False):  # Python within another program
        return
    command, environment = [sys.executable, '-c', 'import jax; jax.devices()'], {**os.environ, 'JAX_PLATFORMS': 'cpu'}
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, errors='replace', timeout=120)
    except (OSError, subprocess.TimeoutExpired):
        return
    if fault := done.returncode and _FLAG_FAULT.search(done.stderr):
        raise UserError(
            f'XLA_FLAGS={given} is not what XLA takes: {fault[1]}. Unset it (unset XLA_FLAGS), or give it flags that '
            'XLA knows.'
        )


def _set() -> str:
    """What of JAX's variables is set, which may be the reason, as the end of a message."""
    given = [f'{name}={value}' for name, value in os.environ.items() if name.startswith(('JAX_', 'XLA_FLAGS'))]
    return f'. Unset what may be the reason: {", ".join(given)}.' if given else ''


def _flags() -> str:
    """That XLA's flags may be the reason, where there are any, as the end of a message."""
    given = os.environ.get('XLA_FLAGS')
    return f' XLA_FLAGS={given} may be the reason too.' if given else ''
