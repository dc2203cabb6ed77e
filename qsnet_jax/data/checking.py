"""Whether all pictures that a run, a study or a figure is going to read can be read, before it begins."""

import concurrent.futures
import os
from collections.abc import Callable
from typing import Any

from qsnet_jax import UserError, progress
from qsnet_jax.data import sources


def check(name: str, source: sources.Source) -> None:
    """Reads every picture of a source once, whole. Raises one UserError for all that cannot be read."""
    pictures = layers(source)
    for index in range(len(source.names)):
        pictures |= source.pictures(index)
    check_pictures(f'data set {name}', pictures)


def check_pictures(what: str, pictures: sources.Pictures) -> None:
    """Reads pictures once, whole. Raises one UserError for all that cannot be read. what: they are together.

    The first DamagedSet is raised as it is: it speaks for the whole set, and names the remedy.
    """
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        found = pool.map(_fault, pictures.values())
        problems = [fault for fault in progress.bar(found, f'checking {what}', len(pictures), unit='file') if fault]
    if problems:
        rest = f'; and {len(problems) - 10} more' if len(problems) > 10 else ''
        raise UserError(
            f'{len(problems)} of the {len(pictures)} files of {what} cannot be read: '
            f'{"; ".join(problems[:10])}{rest}. Replace them and give the same command again.'
        )


def _fault(read: Callable[[], Any]) -> str:
    """What is wrong with a picture, empty where nothing is."""
    try:
        read()
        return ''
    except sources.DamagedSet:
        raise
    except (UserError, OSError) as error:
        return str(error)


def layers(source: sources.Source) -> sources.Pictures:
    """Layers that any item may get, whichever items are chosen; none of most sources."""
    if isinstance(source, sources.Joined):
        return {key: read for each in source.sources for key, read in layers(each).items()}
    return source.layer_pictures() if isinstance(source, sources.AnyLayer) else {}
