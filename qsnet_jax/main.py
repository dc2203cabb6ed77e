"""python -m qsnet_jax.main --config=configs/NAME.py [--config.field=value ...] [--workdir=DIR] [--mode=MODE]."""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from qsnet_jax import UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Settings; configs/default.py lists and explains them all.')
_MODE = flags.DEFINE_enum('mode', 'train', ['train', 'eval', 'derain', 'prepare', 'compare', 'bench'], 'What to do.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; runs/NAME for --config=configs/NAME.py.')
_WEIGHTS = flags.DEFINE_string(
    'weights', None, 'eval, derain: a weights file (.safetensors, .pth) instead of a checkpoint.'
)
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', 'eval: latest, best (by validation) or a step.')
_INPUT = flags.DEFINE_string('input', None, 'derain: a photo or a folder of photos.')
_OUTPUT = flags.DEFINE_string('output', None, 'derain: folder for the results, under the same names.')
_TILE = flags.DEFINE_integer(
    'tile', None, 'derain, eval: side in pixels of the tiles of larger images; else 512, and in derain by free memory.'
)
_DTYPE = flags.DEFINE_enum('dtype', None, ['float32', 'bfloat16'], 'derain: computes in this, not as in training.')
_CACHE = flags.DEFINE_string('compilation_cache', None, 'Folder that keeps what XLA compiled for the next start.')
_OVERLAP = flags.DEFINE_bool('overlap', False, 'prepare: also find backgrounds that training and evaluation share.')
_RESULTS = flags.DEFINE_string('results', 'results', 'compare, bench: folder for rows and figures.')
_LAYERS = flags.DEFINE_bool('layers', False, 'derain: also write what was removed, as NAME.rain.png beside each photo.')


def main(arguments: list[str]) -> int:
    if len(arguments) > 1:
        raise app.UsageError(f'{arguments[1:]} not understood; flags are written --name=value.')
    if not flags.FLAGS['verbosity'].present:
        logging.set_verbosity(logging.WARNING)  # Orbax tells at length what it does
    if _CACHE.value:
        import jax

        jax.config.update('jax_compilation_cache_dir', str(pathlib.Path(_CACHE.value).expanduser().resolve()))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.0)
    try:
        return _MODES[_MODE.value]()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        return 1


def _train() -> int:
    from qsnet_jax import checkpoint, train

    config, workdir = _run()
    try:
        state, record = train.train(config, workdir)
    except train.Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    variables, settings = train.export(state), config.model.to_dict()
    scores = _evaluate(config, workdir, variables, settings, record)
    checkpoint.save_weights(workdir / 'weights.safetensors', variables, settings, {**record, 'scores': scores})
    return 0


def _eval() -> int:
    from qsnet_jax import checkpoint, train

    config, workdir = _run()
    if _WEIGHTS.value:
        variables, settings = checkpoint.load_weights(_WEIGHTS.value)
        record = checkpoint.load_record(_WEIGHTS.value)
    else:
        variables, record = train.restore_variables(config, workdir, _CHECKPOINT.value)
        settings = config.model.to_dict()
    _evaluate(config, workdir, variables, settings, record)
    return 0


def _derain() -> int:
    from qsnet_jax import derain

    if not _INPUT.value or not _OUTPUT.value:
        raise UserError('--mode=derain needs --input=FILE_OR_FOLDER and --output=FOLDER.')
    derainer = derain.load(_WEIGHTS.value, _TILE.value, _DTYPE.value)
    return int(derain.derain_files(derainer, _INPUT.value, _OUTPUT.value, _LAYERS.value) > 0)


def _prepare() -> int:
    from qsnet_jax import prepare

    config, _ = _run()
    prepare.prepare(config, _OVERLAP.value)
    return 0


def _compare() -> int:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two frameworks share a GPU
    from qsnet_jax import compare

    config, workdir = _run()
    compare.compare(config, workdir, pathlib.Path(_RESULTS.value))
    return 0


def _bench() -> int:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two frameworks share a GPU
    from qsnet_jax import bench

    config, _ = _run()
    bench.bench(config, pathlib.Path(_RESULTS.value) / 'bench')
    return 0


def _evaluate(config, workdir: pathlib.Path, variables, settings, training):
    """Scores all sets, prints and writes them; returns what weights files keep of them."""
    from qsnet_jax import derain, evaluate, provenance

    derainer = derain.Derainer(variables, settings, _TILE.value or derain.TILE)
    record = {**provenance.collect(config.to_dict(), config.seed), 'training': training}
    results = evaluate.evaluate(derainer, config, workdir / 'eval', record)
    print(f'scores and pictures are in {workdir / "eval"}')
    kept = ('count', 'rgb', 'y', 'input')
    return {name: {key: result[key] for key in kept} for name, result in results.items()}


def _run():
    """The config and the folder of its run."""
    config = _CONFIG.value
    if config is None:
        raise UserError(f'--mode={_MODE.value} needs --config=configs/NAME.py; start with configs/quickstart.py.')
    try:
        hasattr(config, 'model')
    except OSError as error:  # ml_collections says at the first use of a config that it could not be loaded
        raise UserError(str(error)) from error
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).name
    default = name.replace('.py:', '-').removesuffix('.py').replace(':', '-')
    return config, pathlib.Path(_WORKDIR.value or pathlib.Path('runs') / default)


def _parse(arguments: list[str]) -> list[str]:
    """Flags; a field that the config does not have is a message, not a traceback."""
    try:
        return app.parse_flags_with_usage(arguments)
    except AttributeError as error:
        sys.exit(f'error: {error}')


_MODES = {'train': _train, 'eval': _eval, 'derain': _derain, 'prepare': _prepare, 'compare': _compare, 'bench': _bench}

if __name__ == '__main__':
    app.run(main, flags_parser=_parse)
