"""The command line: what each verb does and which flags it reads. `qsnet --help`, `qsnet --mode=VERB --help`."""

if __name__ == '__main__':  # before anything else is imported, so that no signal is lost
    from qsnet_jax import signals

    signals.install()

import gc
import logging as standard_logging
import os
import pathlib
import sys
from typing import Any

from absl import flags, logging

from qsnet_jax import Stopped, UserError, command_line, devices, memory, signals, spelling, storage, streams
from qsnet_jax.command_line import Given, Verb
from qsnet_jax.flag_table import FLAGS


def _train(given: Given) -> int:
    from qsnet_jax.training import study

    if 'study' in given.config:
        raise UserError('This config holds several variants: choose one (--config=NAME:VARIANT), or --mode=study.')
    workdir = _workdir(given, given.name)
    signals.keep(f'Checkpoints, if any, are kept in {workdir}; the same command goes on from the latest, or begins.')
    study.run(given.config, workdir, given.values.tile, given.values.checkpoint)
    return 0


def _study(given: Given) -> int:
    from qsnet_jax.training import study

    name = given.config.study.size if 'study' in given.config else given.name  # studies share the method's own runs
    workdir = _workdir(given, name)
    fields = command_line.given_fields(given.values)
    failed = study.study(given.config, workdir, _results(given), given.values.only, fields)
    return 3 if failed else 0  # 3: runs failed


def _eval(given: Given) -> int:
    from qsnet_jax import derain
    from qsnet_jax.training import study

    values, weights = given.values, given.values.weights
    if weights and given.is_given('checkpoint'):
        raise UserError('--checkpoint is of the run in --workdir and --weights of a file; give one of them.')
    if values.framework == 'torch' and given.is_given('tile'):
        raise UserError('--tile is not for --framework=torch, which restores every image in one piece.')
    name = f'{given.name}-{pathlib.Path(weights).stem}' if weights else given.name  # not of the run of that config
    notes = None
    if values.framework == 'torch':
        from qsnet_jax.peers import torch_twin

        notes = {'framework': f'torch {torch_twin.torch.__version__}, cpu', 'device': torch_twin.DEVICE}

    def make(variables: Any, settings: dict[str, Any]) -> Any:
        if notes:
            return torch_twin.Derainer(torch_twin.build(variables, settings))
        return derain.Derainer(variables, settings, values.tile)

    asked = given.fields_of('model')
    study.evaluate_stored(given.config, _workdir(given, name), weights, values.checkpoint, make, notes, asked)
    return 0


def _derain(given: Given) -> int:
    from qsnet_jax import derain, photos

    values, runtime = given.values, None
    if values.runtime != 'jax':
        from qsnet_jax.peers import runtimes

        if values.dtype not in (None, 'float32'):
            raise UserError(f'--runtime={values.runtime} computes in float32; leave --dtype={values.dtype} out.')
        runtime = runtimes.load(values.weights or 'default', values.runtime)
    is_folder = os.path.isdir(storage.expanded(values.input))  # of photos of many sizes
    derainer = derain.load(values.weights, values.tile or 0, values.dtype, is_folder, runtime)
    asked = (values.input, values.output, values.layers, values.overwrite)
    failed = photos.derain_files(derainer, *asked, made_by=derainer.fingerprint)
    return int(failed > 0)


def _prepare(given: Given) -> int:
    from qsnet_jax.data import prepare

    prepare.prepare(given.config, given.values.overlap)
    return 0


def _sparsity(given: Given) -> int:
    from qsnet_jax.evidence import sparsity

    return int(sparsity.run(given.config, given.values.input, given.values.weights, _results(given)) > 0)


def _score(given: Given) -> int:
    from qsnet_jax.evidence import score

    values = given.values
    named = {field: getattr(values, field) for field in ('dataset', 'luma', 'border', 'against')}
    workdir = _workdir(given, f'score-{values.name}')
    score.run(values.restored, values.clean, values.rainy, _results(given), values.name, workdir, **named)
    return 0


def _figures(given: Given) -> int:
    from qsnet_jax.evidence import figures, methods

    values, output = given.values, given.values.output or _results(given) / 'figures'
    if given.fields_of('sparsity'):
        raise UserError("config.sparsity is of --mode=sparsity; these figures are the paper's, of d_x.")
    fields = {field: getattr(values, field) for field in ('clean', 'count', 'crop', 'name')}
    named, output = tuple(methods.split(values.methods)), storage.expanded(output)
    figures.run(values.figure, values.input, output, named, given.config, **fields)
    return 0


def _demo(given: Given) -> int:
    from qsnet_jax import demo

    demo.run(given.values.weights, given.values.port)
    return 0


def _export(given: Given) -> int:
    from qsnet_jax.peers import export

    export.run(given.values.weights, given.values.output, given.values.overwrite)
    return 0


def _report(given: Given) -> int:
    from qsnet_jax.evidence import report

    report.report(_results(given))
    return 0


def _compare(given: Given) -> int:
    from qsnet_jax.peers import compare

    compare.compare(given.config, _workdir(given, given.name), _results(given))
    return 0


def _bench(given: Given) -> int:
    from qsnet_jax.peers import bench

    bench.bench(given.config, _results(given) / 'bench')
    return 0


_DATA = '--config.data.root=PAIRS --config.data.train=pairs --config.data.eval=pairs'
VERBS = {
    'train': Verb(
        _train,
        'Trains, goes on by itself where the workdir holds a checkpoint, and scores at the end.',
        ('workdir', 'checkpoint', 'tile', 'distributed'),
        (
            '--config=quickstart',
            '--config=qsnet --config.data.root=PAIRS',
            '--config=losses:small-V1 --config.data.root=PAIRS',
        ),
        'Checkpoints, if any, are kept; the same command goes on from the latest, or begins.',
        meanings={'checkpoint': 'latest, or a step to go back to where all later ones are damaged; they are removed.'},
    ),
    'eval': Verb(
        _eval,
        'Restores a checkpoint of a run, or weights, and scores every set of config.data.eval.',
        ('workdir', 'checkpoint', 'weights', 'framework', 'tile'),
        ('--config=quickstart --checkpoint=best', f'--config=quickstart --weights=default {_DATA}'),
        'Scores of the sets that were finished are kept; the same command scores again.',
    ),
    'derain': Verb(
        _derain,
        'Removes rain from photos and videos.',
        ('input', 'output', 'weights', 'tile', 'dtype', 'runtime', 'layers', 'overwrite'),
        ('--input=photos --output=clean', '--input=photos --output=clean --weights=heavy --layers'),
        'The photos that were written are whole; the same command does the others, with --overwrite all of them again.',
        config='',
        needed=('input', 'output'),
        meanings={'output': 'Folder for the results, under the same names; of a single photo also the file.'},
    ),
    'prepare': Verb(
        _prepare,
        "Checks a public set's download, prepares it, and tables what all sets of a config hold.",
        ('overlap',),
        ('--config=qsnet --config.data.eval=rain100h --config.data.root=DOWNLOADS --overlap',),
        'Sets that were prepared are kept; the same command prepares the others.',
    ),
    'study': Verb(
        _study,
        'Runs every variant and seed of a study that has no row yet.',
        ('workdir', 'results', 'only', 'distributed'),
        (
            '--config=losses:small --config.data.root=PAIRS --results=my_results',
            '--config=losses --config.data.root=PAIRS --results=my_results --only=V1,V2',
        ),
        'Rows and checkpoints are kept; the same command goes on.',
    ),
    'sparsity': Verb(
        _sparsity,
        'Sec. 3.1: how sparse rain is, in photos or data sets.',
        ('input', 'weights', 'results'),
        ('--input=photos', '--config=qsnet --config.data.root=PAIRS'),
        'Nothing of this one was written; the same command starts again.',
        config='read',
    ),
    'score': Verb(
        _score,
        "Scores a folder of any program's results, as ours are scored, and writes a row beside ours.",
        ('restored', 'clean', 'rainy', 'name', 'dataset', 'luma', 'border', 'against', 'results', 'workdir'),
        (
            '--name=PReNet --restored=prenet --clean=norain',
            '--name=mine --restored=a --clean=b --rainy=c --against=light',
        ),
        'Nothing of this one was written; the same command starts again.',
        config='',
        needed=('name', 'restored', 'clean'),
        meanings={
            'name': 'Of the method; its row is score-NAME.json in rows of --results.',
            'workdir': 'Folder for scores and pictures; else runs/score-NAME.',
            'dataset': 'Which set these images are, as config.data.eval calls it; rain100h stands in Table 1.',
        },
    ),
    'figures': Verb(
        _figures,
        "The paper's figures for photos or a set: results, rain layers, scales, sparsity.",
        ('figure', 'input', 'methods', 'clean', 'count', 'crop', 'name', 'output', 'results'),
        ('--figure=1,8 --input=photo.jpg', '--figure=6 --config=quickstart --methods=default,theirs=out'),
        'The figures that were written are whole; the same command makes all of them again.',
        config='read',
        meanings={
            'name': 'Of the images, in the names of the files; else as they are called.',
            'output': 'Folder for the figures; else figures in --results.',
        },
    ),
    'export': Verb(
        _export,
        'Writes weights for other programs, checked against JAX (extra [export]).',
        ('weights', 'output', 'overwrite'),
        ('--weights=default --output=qsnet.onnx', '--weights=light --output=light.stablehlo'),
        'Nothing was written; the same command starts again.',
        config='',
        needed=('output',),
        meanings={
            'output': 'File to write; its extension says in which format: .onnx, .stablehlo, .pth, .pt, .safetensors.',
            'overwrite': 'Replaces a file that is there already.',
        },
    ),
    'demo': Verb(
        _demo,
        'Opens a page on this machine to try a photo (extra [demo]).',
        ('weights', 'port'),
        ('', '--weights=light --port=8000'),
        'No photo was kept; the same command opens the page again.',
        config='',
    ),
    'report': Verb(
        _report,
        'Collects rows into README.md, tables.md, figures and report.html.',
        ('results',),
        ('', '--results=runs/release'),
        'Rows are as they were; the same command writes the report again.',
        config='',
    ),
    'compare': Verb(
        _compare,
        'Trains the network and its PyTorch twin side by side.',
        ('workdir', 'results'),
        (f'--config=quickstart {_DATA}',),
        'Steps so far are in the workdir; the same command starts again.',
    ),
    'bench': Verb(
        _bench,
        'Times and weighs the network, its parts and its peers.',
        ('results',),
        ('--config=bench:small', '--config=bench:gpu'),
        'Cases that were finished are kept; the same command starts again.',
    ),
}
TWO_FRAMEWORKS = ('compare', 'bench')
LEARNING = ('train', 'study', 'compare', 'prepare')  # that read the sets of training too


def run(arguments: list[str]) -> int:
    """Does what a command line says; returns the exit status. Mistakes and signals end in one line each."""
    spelling.print_escaped()
    return streams.with_patient_output(lambda: _end(arguments))


def _end(arguments: list[str]) -> int:
    """The exit status of a command line, and its last line."""
    try:
        status = _run(arguments)
        return signals.end(signals.received()) if signals.received() else status  # of one that was swallowed
    except (UserError, OSError) as error:  # the second of a drive, met where nobody expected one
        print(spelling.shown(f'error: {storage.explained(error)}'), file=sys.stderr)
        return _leave(1)
    except Stopped as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except signals.Interrupted as stop:
        return signals.end(stop.signum)
    except Exception as error:
        if signals.received():  # an import that was interrupted fails with an error of its own
            return signals.end(signals.received())
        if not (shortage := memory.shortage(error)):
            raise
        print(spelling.shown(f'error: {shortage}'), file=sys.stderr)
        return _leave(1)
    finally:
        signals.uninstall()


def _leave(status: int) -> int:
    """Of a run of several processes ends this one at once, for the others would wait for it."""
    parallel = sys.modules.get('qsnet_jax.training.parallel')
    return parallel.leave(status) if parallel else status


def _run(arguments: list[str]) -> int:
    command_line.check_words(arguments, VERBS)
    mode, rest = command_line.take(arguments, 'mode')
    asked = [each.lstrip('-').partition('=') for each in rest if each.startswith('-')]
    asked = [each for each in asked if each[0] in ('help', 'h', 'helpfull', 'helpshort')]
    if asked and not mode:
        mode = asked[-1][2]  # of --help=VERB
    name, table = mode or 'train', command_line.Table(VERBS, FLAGS)
    os.environ['MPLBACKEND'] = 'agg'  # plots go to files, whatever a notebook asks of its commands
    if {'--version', '-version'} & {each.partition('=')[0] for each in rest}:
        print(command_line.version())
        return 0
    if name not in VERBS:
        raise UserError(f'--mode={name} is not known{spelling.nearest(name, VERBS)}.')
    if asked:
        print(command_line.help_of(table, name) if mode else command_line.help_of_all(table))
        return 0
    given = command_line.parse(name, rest, table)
    signals.keep(VERBS[name].kept)
    flags.FLAGS(['qsnet'])  # the libraries' own
    logging.use_absl_handler()
    standard_logging.getLogger('asyncio').setLevel('CRITICAL')  # of Orbax's threads, whose errors come otherwise too
    logging.set_verbosity(logging.ERROR if given.values.verbosity is None else given.values.verbosity)
    if given.values.verbosity is None:
        logging.get_absl_logger().addFilter(_tells_no_trace)
    gc.disable()  # what is imported stays; to look for garbage in it takes a tenth of the start
    try:
        _start_jax(name, given)
        gc.freeze()
    finally:
        gc.enable()
    if given.config is not None and given.config.data.root:
        from qsnet_jax.data import unread

        unread.note(given.config, name in LEARNING)
    return VERBS[name].run(given)


def _tells_no_trace(record: standard_logging.LogRecord) -> bool:
    """Whether a line of a log is shown: traces of errors that Orbax's threads pass on are not, for they are said."""
    return not (record.exc_info and 'orbax' in record.pathname)


def _start_jax(name: str, given: Given) -> None:
    """Settings that JAX must have before it starts, and a backend that is there; the report starts it late."""
    devices.import_jax()
    if name == 'report':
        return
    if name in TWO_FRAMEWORKS:
        os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')  # two frameworks share a GPU
    from qsnet_jax import cache

    cache.use(given.values.compilation_cache)
    if 'distributed' in VERBS[name].flags and given.values.distributed:
        from qsnet_jax.training import parallel

        parallel.start(given.values.distributed)
    devices.check()


def _workdir(given: Given, default: str) -> pathlib.Path:
    """Folder of the run."""
    workdir = given.values.workdir
    return storage.expanded(workdir) if workdir else pathlib.Path('runs') / default


def _results(given: Given) -> pathlib.Path:
    """Folder of rows, figures and the report, in which can be written."""
    results = storage.expanded(given.values.results)
    storage.check_writable(results, 'results')
    return results


if __name__ == '__main__':
    signals.leave(run(sys.argv[1:]))
