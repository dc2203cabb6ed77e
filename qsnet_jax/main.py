"""python -m qsnet_jax.main --config=configs/NAME.py [--config.field=value ...] [--workdir=DIR] [--mode=MODE]."""

import os
import pathlib
import sys

from absl import app, flags, logging
from ml_collections import config_flags

from qsnet_jax import Stopped, UserError

_CONFIG = config_flags.DEFINE_config_file('config', None, 'Settings; configs/default.py lists and explains them all.')
_WORKDIR = flags.DEFINE_string('workdir', None, 'Folder of the run; runs/NAME for --config=configs/NAME.py.')
_WEIGHTS = flags.DEFINE_string(
    'weights',
    None,
    'eval, derain, sparsity: a weights file (.safetensors, .pth), or a name of those in the package, as default.',
)
_CHECKPOINT = flags.DEFINE_string('checkpoint', 'latest', 'eval: latest, best (by validation) or a step.')
_FRAMEWORK = flags.DEFINE_enum(
    'framework',
    'jax',
    ['jax', 'torch'],
    'eval: torch restores with the PyTorch twin, on the CPU, and writes to eval-torch.',
)
_INPUT = flags.DEFINE_string('input', None, 'derain, sparsity: a photo or a folder of photos.')
_OUTPUT = flags.DEFINE_string('output', None, 'derain: folder for the results, under the same names.')
_TILE = flags.DEFINE_integer(
    'tile', None, 'derain, eval: side in pixels of the tiles of larger images; else 512, and in derain by free memory.'
)
_DTYPE = flags.DEFINE_enum('dtype', None, ['float32', 'bfloat16'], 'derain: computes in this, not as in training.')
_CACHE = flags.DEFINE_string('compilation_cache', None, 'Folder that keeps what XLA compiled for the next start.')
_OVERLAP = flags.DEFINE_bool('overlap', False, 'prepare: also find backgrounds that training and evaluation share.')
_RESULTS = flags.DEFINE_string(
    'results', 'results', 'study, sparsity, report, compare, bench: folder for rows and figures.'
)
_DISTRIBUTED = flags.DEFINE_string(
    'distributed',
    None,
    'train, study: several processes as one; auto (Slurm and other clusters) or HOST:PORT,PROCESSES,INDEX.',
)
_ONLY = flags.DEFINE_string('only', None, 'study: these variants alone, as in V1,V2.')
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
        if _DISTRIBUTED.value:
            from qsnet_jax.training import parallel

            parallel.start(_DISTRIBUTED.value)
        return _VERBS[_MODE.value]()
    except UserError as error:
        print(f'error: {error}', file=sys.stderr)
        if _DISTRIBUTED.value:
            from qsnet_jax.training import parallel

            return parallel.leave(1)
        return 1
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum


def _train() -> int:
    from qsnet_jax.training import study

    config, workdir = _run()
    if 'study' in config:
        raise UserError('This config holds several variants: choose one (--config=FILE:VARIANT), or --mode=study.')
    study.run(config, workdir, _tile())
    return 0


def _study() -> int:
    from qsnet_jax.training import study

    config, workdir = _run()
    return 3 if study.study(config, workdir, _results(), _ONLY.value) else 0  # 3: runs failed, and left rows


def _eval() -> int:
    from qsnet_jax import derain
    from qsnet_jax.training import study, train
    from qsnet_jax.weights import files

    config, workdir = _run()
    if _WEIGHTS.value:
        variables, settings = files.load_weights(_WEIGHTS.value)
        record = files.load_record(_WEIGHTS.value)
        config.model.update(settings)  # what is scored and recorded
    else:
        variables, record = train.restore_variables(config, workdir, _CHECKPOINT.value)
        settings = config.model.to_dict()
    if _FRAMEWORK.value == 'torch':
        from qsnet_jax.peers import torch_twin

        if _TILE.value:
            raise UserError('--tile is not for --framework=torch, which restores every image in one piece.')
        derainer = torch_twin.Derainer(torch_twin.build(variables, settings))
        notes = {'framework': f'torch {torch_twin.torch.__version__}, cpu'}
        study.score(config, workdir / 'eval-torch', derainer, record, notes)
    else:
        study.score(config, workdir / 'eval', derain.Derainer(variables, settings, _tile()), record)
    return 0


def _derain() -> int:
    from qsnet_jax import derain

    if not _INPUT.value or not _OUTPUT.value:
        raise UserError('--mode=derain needs --input=FILE_OR_FOLDER and --output=FOLDER.')
    derainer = derain.load(_WEIGHTS.value, _TILE.value, _DTYPE.value)
    return int(derain.derain_files(derainer, _INPUT.value, _OUTPUT.value, _LAYERS.value) > 0)


def _prepare() -> int:
    from qsnet_jax.data import prepare

    config, _ = _run()
    prepare.prepare(config, _OVERLAP.value)
    return 0


def _sparsity() -> int:
    from qsnet_jax.evidence import sparsity

    config = None if _INPUT.value and _CONFIG.value is None else _run()[0]
    sparsity.run(config, _INPUT.value, _WEIGHTS.value, _results())
    return 0


def _report() -> int:
    from qsnet_jax.evidence import report

    report.report(_results())
    return 0


def _compare() -> int:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two frameworks share a GPU
    from qsnet_jax.peers import compare

    config, workdir = _run()
    compare.compare(config, workdir, _results())
    return 0


def _bench() -> int:
    os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two frameworks share a GPU
    from qsnet_jax.peers import bench

    config, _ = _run()
    bench.bench(config, _results() / 'bench')
    return 0


def _results() -> pathlib.Path:
    """Folder of rows, figures and the report."""
    return pathlib.Path(_RESULTS.value).expanduser()


def _tile() -> int:
    """Side of the tiles of scored images."""
    from qsnet_jax import derain

    return _TILE.value or derain.TILE


def _run():
    """The config and the folder of its run."""
    config = _CONFIG.value
    if config is None:
        raise UserError(f'--mode={_MODE.value} needs --config=configs/NAME.py; start with configs/quickstart.py.')
    try:
        hasattr(config, 'model')
    except OSError as error:  # ml_collections says at the first use of a config that it could not be loaded
        raise UserError(str(error)) from error
    if _MODE.value == 'study' and 'study' in config:  # studies share the runs of the method itself
        return config, _workdir(config.study.size)
    name = pathlib.Path(config_flags.get_config_filename(flags.FLAGS['config'])).name
    default = name.replace('.py:', '-').removesuffix('.py').replace(':', '-')
    if _MODE.value == 'eval' and _WEIGHTS.value:  # of these weights, not of the run of that config
        default += f'-{pathlib.Path(_WEIGHTS.value).stem}'
    return config, _workdir(default)


def _workdir(default: str) -> pathlib.Path:
    """Folder of the run."""
    return pathlib.Path(_WORKDIR.value).expanduser() if _WORKDIR.value else pathlib.Path('runs') / default


def _parse(arguments: list[str]) -> list[str]:
    """Flags; a field that the config does not have is a message, not a traceback."""
    try:
        return app.parse_flags_with_usage(arguments)
    except AttributeError as error:
        sys.exit(f'error: {error}')


_VERBS = {
    'train': _train,
    'eval': _eval,
    'derain': _derain,
    'prepare': _prepare,
    'study': _study,
    'sparsity': _sparsity,
    'report': _report,
    'compare': _compare,
    'bench': _bench,
}
_MODE = flags.DEFINE_enum('mode', 'train', list(_VERBS), 'What to do.')

if __name__ == '__main__':
    app.run(main, flags_parser=_parse)
