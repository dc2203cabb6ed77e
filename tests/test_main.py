"""The command line: every slip is one line with the nearest right name, and nothing is begun."""

import errno
import logging
import os
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time

import pytest
from absl import logging as absl_logging

from qsnet_jax import UserError, command_line, config_files, main, signals, storage

ROOT = pathlib.Path(__file__).parents[1]
QUICK = '--config=quickstart'
DRAWN = ('--config.data.train=drawn_light', '--config.data.eval=drawn_light')


def say(capsys, *arguments):
    """(exit status, lines on stderr) of the program, in this process."""
    status = main.run(list(arguments))
    return status, capsys.readouterr().err.splitlines()


def test_of_a_field_given_twice_the_last_counts():
    """Also of one that holds several numbers, in either spelling; flags between them stay where they were."""
    given = ['--config.model.rates=(2,)', '--config.train.steps=3', '--config.model.rates', '(4, 6)', '--config.seed=1']
    given += ['--config.train.steps=5', '--workdir=x']
    table = command_line.Table(main.VERBS, main.FLAGS)
    parsed = command_line.parse('train', [QUICK, *given], table)
    config = parsed.config
    assert (tuple(config.model.rates), config.train.steps, config.seed) == ((4, 6), 5, 1)
    assert parsed.values.workdir == 'x'


def test_a_field_of_names_takes_names():
    """As `bench.precisions`; one of numbers does not."""
    config = config_files.load('bench:small')
    config.bench.precisions = ('bfloat16',)
    command_line.check_tuples(['--config.bench.precisions=x'], config, 'bench:small')
    config.bench.sizes = ('big',)
    with pytest.raises(UserError, match='sizes=big: expected numbers'):
        command_line.check_tuples(['--config.bench.sizes=x'], config, 'bench:small')
    config = config_files.load('bench:choices')  # which trains nothing
    config.bench.training = ('big',)
    with pytest.raises(UserError, match='training=big: expected numbers'):
        command_line.check_tuples(['--config.bench.training=x'], config, 'bench:choices')


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--mode=trian'], 'did you mean train?'),
        (['--mode='], '--mode has no value'),
        ([], 'needs --config'),
        ([QUICK, '--weights=X'], '--weights is not read by --mode=train. It reads --config, --workdir'),
        ([QUICK, '--only=V1'], '--only is not read by --mode=train'),
        ([QUICK, '--wrkdir=x'], 'did you mean --workdir?'),
        (['--config=quikstart'], 'did you mean quickstart?'),
        (['--config=configs/quikstart.py'], 'did you mean quickstart?'),
        (['--config=losses:V9'], "no variant 'V9'"),
        (['--config=losses'], 'choose one'),
        (['--config=losses:smal'], 'paper, V1, V2, V3; and small and wide, all of them at that size'),
        (['--config=release:smal'], 'heavy; and cpu and wide,'),
        (['--config=quickstart:x'], 'this config has no variants; write --config=quickstart.'),
        (['--config=.'], 'is a folder'),
        ([f'--config={ROOT}/README.md'], 'README.md does not end in .py'),
        (['--cofnig=quickstart'], '--cofnig is not known (did you mean --config?)'),
        (['--moed=derain', '--input=a', '--output=b'], '--moed is not known (did you mean --mode?)'),
        (['--Mode', 'derain', '--input=a', '--output=b'], '--Mode is not known (did you mean --mode?)'),
        (['--mode', '--input=a'], '--mode has no value'),
        (['--flagfile=none'], '--flagfile is not known'),
        ([QUICK, '--config.data.EVAL=pairs'], 'did you mean eval?'),
        ([QUICK, '--config.data.eval=Rain100H', '--workdir=none'], "'Rain100H' (did you mean rain100h?)"),
        (['--mode=derain', '--input=.', '--output=b', '--weights=haevy'], 'in the package (did you mean heavy?)'),
        (['--versoin'], '--versoin is not known (did you mean --version?)'),
        (['--config.seed=3'], 'needs --config'),
        ([QUICK, '--confg.train.steps=3'], '--confg.train.steps is not known (did you mean --config.train.steps?)'),
        ([QUICK, '--train.steps=3'], '(did you mean --config.train.steps?)'),
        (['--mode=derain', '--layers=yes'], '--layers=yes is neither true nor false'),
        ([QUICK, '--config.modl.channels=3'], "no section 'modl' (did you mean model?)"),
        ([QUICK, '--config.model.chanels=3'], "no field 'chanels' of model (did you mean channels?)"),
        ([QUICK, '--config.sed=3'], 'did you mean seed?'),
        ([QUICK, '--config.model=3'], 'model is a section'),
        ([QUICK, '--config.seed.x=3'], 'seed is a field'),
        ([QUICK, '--config.train.steps=abc'], 'steps=abc is no whole number; expected int, as 800'),
        ([QUICK, '--config.train.steps=1.5'], 'expected int, as 800'),
        ([QUICK, '--config.train.learning_rate=fast'], 'expected float, as 0.003'),
        ([QUICK, '--config.data.flip=maybe'], 'expected bool'),
        ([QUICK, '--config.model.decoder_groups=x'], 'decoder_groups=x is no whole number'),
        ([QUICK, '--config.model.rates=x'], 'expected numbers'),
        ([QUICK, '--config.train.learning_rate=nan'], 'train.learning_rate is nan; expected a finite number'),
        ([QUICK, '--mode=compare', '--config.data.cache_gib=inf'], 'data.cache_gib is inf'),
        ([QUICK, '--mode=eval', '--weights=default', '--config.loss.detail=-inf'], 'loss.detail is -inf'),
        ([QUICK, '--config.seed=99999999999999999999999'], 'seed is 99999999999999999999999; expected a whole number'),
        ([QUICK, '--config.model.rates=(1.5,2)'], 'expected whole numbers'),
        ([QUICK, '--config.data.train=drawn_light:nan'], 'not positive and finite'),
        ([QUICK, '--config.train.steps'], 'config.train.steps'),
        ([QUICK, 'train'], "'train' stands alone (did you mean --mode=train?)"),
        (['eval'], "'eval' stands alone (did you mean --mode=eval?)"),
        (['derain', '--input=a', '--output=b'], 'did you mean --mode=derain?'),
        (['\u2014mode=derain', '\u2014input=a'], 'begins with a dash of another kind (did you mean --mode=derain?)'),
        (['--mode=derain', '--input=a', '-\u2013output=b'], 'did you mean --output=b?'),
        (['photo.jpg'], 'photo.jpg not understood; flags are written --name=value'),
        (['--mode=derain', '--input', 'eval', '--output', '\u2013a'], '--input=eval does not exist'),
        (['--mode=derain'], 'needs --input=... and --output=...'),
        (['--mode=derain', '--input=a', '--output=b', '--tile=0'], '--tile=0'),
        (['--mode=derain', '--input=a', '--output=b', '--tile=big'], '--tile=big is no whole number'),
        (['--mode=derain', '--input=a', '--output=b', '--dtype=int8'], '--dtype=int8'),
        (['--mode=derain', '--input=a', '--output=b', QUICK], 'reads no config'),
        (['--mode=report', '--config.seed=1'], 'reads no config'),
        (['--mode=eval', QUICK, '--weights=default', '--checkpoint=best'], 'give one of them'),
        (['--mode=eval', QUICK, '--weights=none'], 'does not exist'),
        (['--mode=eval', QUICK, '--framework=torch', '--tile=64', '--weights=default'], '--tile is not for'),
        (['--mode=demo', '--port=-1'], '--port=-1'),
        (['--mode=demo', '--port=99999'], '--port=99999'),
        (['--mode=sparsity'], 'needs --input'),
        (['--mode=sparsity', '--input='], '--input= has no value'),
        (['--mode=eval', QUICK, '--weights='], '--weights= has no value'),
        (['--mode=study', '--config=losses:small', '--only='], '--only= has no value'),
        (['--mode=report', '--results='], '--results= has no value'),
        ([QUICK, '--workdir', ''], '--workdir= has no value'),
        ([QUICK, '--config.data.root='], '--config.data.root= has no value'),
        ([QUICK, '--config.train.start_from='], '--config.train.start_from= has no value'),
        ([QUICK, '--tile=1', '--workdir=none'], 'A tile of 1 pixels leaves nothing'),
        (['--mode=study', '--config=losses:small', '--config.study.seeds=(0.5,)'], 'one of study.seeds is 0.5'),
        (['--mode=study', '--config=losses:small', '--config.study.seeds=(0,-1)'], 'one of study.seeds is -1'),
        (['--mode=study', '--config=losses:small', '--config.train.learning_rate=-1'], 'paper: train.learning_rate'),
        (['--mode=study', '--config=losses:small', *DRAWN, '--config.seed=3'], '--config.seed changes nothing'),
        (['--mode=study', '--config=losses:small', *DRAWN, '--config.study.size=../x'], "which '../x' cannot"),
        (['--mode=figures', '--input=a', '--methods=light', '--name=../../x'], '--name=../../x: expected letters'),
        (['--mode=figures', '--input=a', QUICK, '--config.sparsity.bins=8'], 'config.sparsity is of --mode=sparsity'),
        ([QUICK, '--config.data.train=drawn_light:1e-320,drawn_heavy'], 'not positive and finite'),
        ([QUICK, '--config.train.learning_rate=1e300'], 'below 1e38'),
        (
            ['--mode=study', '--config=losses:small', '--config.study.seeds=(0,'],
            'seeds=(0, is no tuple; expected tuple',
        ),
        (
            ['--mode=study', '--config=losses:small', '--config.study.variants.V3=x'],
            "is no section; expected dict, as {'",
        ),
        (['--mode=derain', '--input', '--output=b'], '--input has no value; write --input=VALUE'),
        (['--mode=derain', '--input', '-output=b'], '--input has no value; write --input=VALUE'),
        ([QUICK, '--config.data.root', '--workdir=x'], '--config.data.root has no value'),
        (['--mode=study', QUICK], 'variants'),
        (['--config=bench:small'], '--config=bench:small says what is timed; --mode=bench reads it'),
        (['--mode=eval', '--config=bench:gpu'], '--mode=bench reads it'),
        ([QUICK, '--config.data.eval=rain200h', '--workdir=none'], "Unknown data set 'rain200h' (there are"),
        (['--mode=bench', QUICK], 'configs/bench.py'),
        (['--mode=eval', QUICK, '--config.data.eval=nothing', '--workdir=none'], 'no run'),
        ([QUICK, '--config.loss.filters=x', '--workdir=none'], 'loss.filters'),
        ([QUICK, '--config.data.train=pairs', '--workdir=none'], 'config.data.root'),
        ([QUICK, '--config.data.train=pairs', '--workdir=none', '--config.data.root=~nonesuch'], '~nonesuch is not a'),
        (['--config=~nonesuch/a.py'], '~nonesuch/a.py: configs/a.py is not there'),
        (['--mode=derain', '--input=~nonesuch/a', '--output=~nonesuch'], '--input=~nonesuch/a does not exist'),
        (['--mode=export', '--output=~nonesuch/a'], '--output=~nonesuch/a must end in'),
        (['--mode=eval', QUICK, '--workdir=~nonesuch'], 'no run'),
        (['--mode=figures', '--input=~nonesuch'], '--input=~nonesuch does not exist'),
        (['--mode=score', '--name=a', '--restored=~nonesuch', '--clean=a'], '--restored=~nonesuch: ~nonesuch is not a'),
    ],
)
def test_a_slip_is_one_line(capsys, arguments, message, tmp_path, monkeypatch):
    """Exit status 1, no traceback, and what was meant."""
    monkeypatch.chdir(tmp_path)
    status, lines = say(capsys, *arguments)
    assert status == 1 and len(lines) == 1 and lines[0].startswith('error: ') and message in lines[0]
    assert 'NoneType' not in lines[0]


def test_every_verb_has_its_help(capsys):
    """Alone, with its flags and no others, and examples that it understands."""
    for name, verb in main.VERBS.items():
        assert main.run([f'--mode={name}', '--help']) == 0
        text = capsys.readouterr().out
        assert verb.does in text
        flags = set(re.findall(r'^  --(\w+) ', text, re.MULTILINE))
        assert flags == {*verb.flags, *command_line.COMMON, *(['config'] if verb.config else [])}
        for example in verb.examples:
            table = command_line.Table(main.VERBS, main.FLAGS)
            given = command_line.parse(name, example.split(), table)
            assert bool(given.config) == ('--config=' in example)
    for name in ('derain', 'report'):
        assert main.run([f'--mode={name}', '--help']) == main.run([f'--help={name}']) == 0
        text = capsys.readouterr().out
        assert text[: len(text) // 2] * 2 == text and f'--mode={name}:' in text
    assert main.run(['--help']) == 0
    lines = capsys.readouterr().out.splitlines()
    assert all(any(line.startswith(f'  {name} ') for line in lines) for name in main.VERBS)


def test_a_notebooks_backend_of_plots_stops_nothing(tmp_path):
    """Notebooks hand it on to their commands, where it is not installed; plots go to files."""
    command = [sys.executable, '-m', 'qsnet_jax.main', '--mode=sparsity', '--input=none', '--results=results']
    there = {**os.environ, 'MPLBACKEND': 'module://nothing.of.that.name', 'PYTHONPATH': str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=there, capture_output=True, text=True)
    assert ended.returncode == 1 and ended.stderr.startswith('error: --input=none does not exist')


def test_the_version_is_told_without_jax():
    """Of any verb, and at once."""
    code = 'import sys; from qsnet_jax import main; status = main.run(sys.argv[1:]); assert "jax" not in sys.modules'
    for arguments in (['--version'], ['--mode=derain', '--version'], ['--version=1']):
        done = subprocess.run([sys.executable, '-c', code, *arguments], cwd=ROOT, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, '') and re.fullmatch(r'qsnet-jax \d[\w.]*\n', done.stdout)


def test_training_leaves_pytorch_where_it_is():
    """Not loaded, loaded, or hidden: nothing that trains loads it, which takes seconds."""
    for there in ('', 'sys.modules["torch"] = types.SimpleNamespace(Tensor=int)', 'sys.modules["torch"] = None'):
        code = (
            f'import sys, types; {there}\nbefore = sys.modules.get("torch", 0)\nfrom qsnet_jax.training import study\n'
        )
        code += 'assert sys.modules.get("torch", 0) is before'
        subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_help_says_what_a_flag_means_to_its_verb(capsys):
    """Where --output is a file, and whose --name it is."""
    shown = {}
    for name, verb in main.VERBS.items():
        assert set(verb.meanings) <= set(verb.flags)
        main.run([f'--mode={name}', '--help'])
        shown[name] = dict(re.findall(r'^  --(\w+) +(.*)$', capsys.readouterr().out, re.MULTILINE))
    assert shown['export']['output'].startswith('File to write') and '.onnx' in shown['export']['output']
    assert shown['derain']['output'].startswith('Folder') and shown['figures']['output'].startswith('Folder')
    assert 'method' in shown['score']['name'] and 'images' in shown['figures']['name']


def commands(path):
    """What a text tells its reader to type, without those of a study that the reader is to write."""
    found = re.findall(r'(?:python -m qsnet_jax\.main|qsnet) (--[^\n`#$]*)', re.sub(r'\\+\n', ' ', path.read_text()))
    return [command for command in found if not re.search(r'my_study|--help|--config=configs/NAME\.py', command)]


TEXTS = [
    *(
        ROOT / name
        for name in ('README.md', 'qsnet_jax/weights/WEIGHTS.md', 'qsnet_jax/data/DATA.md', 'launch/README.md')
    ),
    *sorted(path for path in (ROOT / 'configs').iterdir() if path.suffix in ('.py', '.md')),
]


@pytest.mark.parametrize('path', [path for path in TEXTS if commands(path)], ids=lambda path: path.name)
def test_commands_are_understood_as_they_are_printed(path):
    """Those of the READMEs and of the heads of configs: verbs, flags and fields that there are."""
    for command in commands(path):
        mode, rest = command_line.take(shlex.split(re.sub(r'\[.*?\]', '', command)), 'mode')
        command_line.parse(mode or 'train', rest, command_line.Table(main.VERBS, main.FLAGS))


def test_configs_are_found_by_name_and_by_path(tmp_path, monkeypatch):
    """From any folder; a file of one's own comes before the package's of the same path."""
    monkeypatch.chdir(tmp_path)
    for value in ('quickstart', 'configs/quickstart.py'):
        assert config_files.load(value).train.steps == 800
        assert config_files.name_of(value) == 'quickstart'
    assert config_files.load('release:cpu-default').model.channels == 48
    assert config_files.name_of('configs/release.py:cpu-default') == 'release-cpu-default'
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs/quickstart.py').write_text(
        'from qsnet_jax.configs import quickstart\n\n\n'
        'def get_config():\n    config = quickstart.get_config()\n    config.train.steps = 7\n    return config\n'
    )
    assert config_files.load('configs/quickstart.py').train.steps == 7
    assert config_files.load('quickstart').train.steps == 800
    (tmp_path / 'mine.py').write_text('def get_config():\n    return 3\n')
    with pytest.raises(UserError, match='returns a int; expected a ConfigDict'):
        config_files.load('mine.py')
    with pytest.raises(UserError, match='write --config=mine.py'):
        config_files.load('mine')
    (tmp_path / 'mine.py').write_text('raise PermissionError(13, "Permission denied", "kept")\n')
    with pytest.raises(UserError, match='kept cannot be read: Permission denied. Take the rights to read it'):
        config_files.load('mine.py')
    (tmp_path / 'mine.py').write_text('import nothing_there\n')
    with pytest.raises(UserError, match='does not load: ModuleNotFoundError'):
        config_files.load('mine.py')
    (tmp_path / 'mine.py').write_text('')
    with pytest.raises(UserError, match=r'mine.py has no get_config\(\)'):
        config_files.load('mine.py')
    (tmp_path / 'link.py').symlink_to('gone.py')
    with pytest.raises(UserError, match=r'link.py is a link to gone.py, which does not exist'):
        config_files.load('link.py')


@pytest.mark.parametrize(
    ('body', 'message'),
    [
        ('del config.loss', 'lacks loss.content, '),
        ('del config.seed', 'lacks seed'),
        ('del config.model.rates', 'lacks model.rates'),
        ('config.data = 5', 'does not load|lacks data.train'),
        ('config.train.stepz = 5', 'has a field train.stepz, which nothing reads .did you mean train.steps'),
        ('config.sed = 5', 'has a field sed, which nothing reads .did you mean seed'),
        ('config.study = default.config_dict.ConfigDict()', 'lacks study.size, study.seeds, study.variants'),
        ('config.study = 5', 'lacks study.size'),
        ('raise SystemExit(3)', r'ends the program \(SystemExit\(3\)\)'),
        ('config.bench = default.config_dict.ConfigDict()', 'lacks bench.'),
    ],
)
def test_a_config_of_ones_own_is_complete(tmp_path, body, message):
    """What it lacks is named when it is read, and what nothing would read."""
    path = tmp_path / 'mine.py'
    text = 'from qsnet_jax.configs import default\ndef get_config():\n    config = default.get_config()\n'
    path.write_text(f'{text}    {body}\n    return config\n')
    with pytest.raises(UserError, match=message):
        config_files.load(str(path))


def test_a_config_may_use_what_lies_beside_it(tmp_path, monkeypatch):
    """As a study does its author's own base; afterwards nothing looks there, and what is installed comes first."""
    (tmp_path / 'my_base_of_this_test.py').write_text('from qsnet_jax.configs.quickstart import get_config\n')
    (tmp_path / 'colorsys.py').write_text('raise RuntimeError\n')
    monkeypatch.delitem(sys.modules, 'colorsys', raising=False)
    (tmp_path / 'mine.py').write_text('import colorsys\nfrom my_base_of_this_test import get_config\n')
    before = list(sys.path)
    assert config_files.load(str(tmp_path / 'mine.py')).model.channels == 24
    (tmp_path / 'broken.py').write_text('1 / 0\n')
    with pytest.raises(UserError, match='ZeroDivisionError'):
        config_files.load(str(tmp_path / 'broken.py'))
    assert sys.path == before
    monkeypatch.setattr(sys, 'path', [str(tmp_path), *before])  # as where the program was started there
    (tmp_path / 'moves.py').write_text(
        'import os\nfrom qsnet_jax.configs.quickstart import get_config\nos.chdir("/")\n'
    )
    monkeypatch.chdir(tmp_path)
    config_files.load('moves.py')
    assert sys.path == [str(tmp_path), *before]
    monkeypatch.setattr(sys, 'path', list(before))
    monkeypatch.chdir(tmp_path)
    config_files.load('moves.py')
    assert sys.path == before


def test_folders_may_have_colons_in_their_names(tmp_path):
    """Of a path that ends in .py nothing is a variant."""
    (tmp_path / 'a:b').mkdir()
    path = tmp_path / 'a:b/study.py'
    path.write_text('from qsnet_jax.configs import losses\nget_config = losses.get_config\n')
    assert config_files.find(str(path)) == (path, '')
    assert config_files.find(f'{path}:small') == (path, 'small')
    assert config_files.name_of(f'{path}:small') == 'study-small'
    with pytest.raises(UserError, match='missing.py is not there'):
        config_files.find(str(tmp_path / 'a:b/missing.py'))


def test_files_with_a_dot_in_front_are_no_configs(tmp_path, monkeypatch):
    """As a Mac's copies bring them along."""
    for name in ('mine', '._mine'):
        (tmp_path / f'{name}.py').touch()
    monkeypatch.setattr(config_files.qsnet_jax.configs, '__path__', [str(tmp_path)])
    assert config_files.names() == ['mine']


def test_every_config_of_the_package_is_complete():
    for name in config_files.names():
        config_files.load(name)


def test_the_study_of_the_readme_works(tmp_path):
    """The file as it is printed there, with the commands below it."""
    text = (ROOT / 'configs/README.md').read_text()
    (tmp_path / 'my_study.py').write_text(text.partition('```python\n')[2].partition('```')[0])
    config = config_files.load(f'{tmp_path}/my_study.py:small')
    assert list(config.study.variants) == ['paper', 'wider', 'wider_and_flipped']
    assert config_files.load(f'{tmp_path}/my_study.py:small-wider').model.scale_channels == 24
    for name in config_files.names():
        assert f'`{name}`' in text or name == 'default'


def test_faults_of_drives_are_one_line(capsys, tmp_path):
    """A file where the results must go, found before anything is computed; a row that lies where no file can."""
    (tmp_path / 'file').write_text('')
    photo = ROOT / 'results/figures/before_after.jpg'
    for arguments in (
        ['--mode=sparsity', f'--input={photo}'],
        ['--mode=study', '--config=losses:small'],
        ['--mode=score', '--name=a', f'--restored={tmp_path}', f'--clean={tmp_path}'],
        ['--mode=compare', QUICK],
        ['--mode=bench', '--config=bench:small'],
        ['--mode=report'],
    ):
        status, lines = say(capsys, *arguments, f'--results={tmp_path}/file/results')
        assert status == 1 and len(lines) == 1 and lines[0].startswith(f'error: --results={tmp_path}/file/results'), (
            lines
        )
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_photos_in_a_folder_that_may_not_be_entered(capsys, tmp_path, deny):
    """Are told of as such, not as what cannot be written."""
    deny(lambda path: 'closed' in path)
    status, lines = say(capsys, '--mode=derain', f'--input={tmp_path}/closed/a', f'--output={tmp_path}/out')
    assert status == 1 and lines == [
        f'error: --input={tmp_path}/closed/a cannot be read: Permission denied. Check the path and its permissions.'
    ]


def test_an_error_of_the_system_that_nobody_expected_is_one_line(capsys, monkeypatch):
    """With its file, in one line whatever that is called, and what to do; traces of Orbax's threads are not shown."""

    def fail(_given):
        absl_logging.get_absl_logger().handle(record)
        raise OSError(errno.EIO, os.strerror(errno.EIO), 'a\n\x1b[31m')

    trace = (ValueError, ValueError('thread'), None)
    record = logging.LogRecord('absl', logging.ERROR, '/x/orbax/future.py', 1, 'raised', (), trace)
    monkeypatch.setitem(main.VERBS, 'report', main.VERBS['report']._replace(run=fail))
    status, lines = say(capsys, '--mode=report')
    assert status == 1
    assert lines == [f'error: a\\n\\x1b[31m: Input/output error. {storage._REMEDIES[errno.EIO]}.']


@pytest.mark.parametrize(
    'error',
    [
        MemoryError('Unable to allocate 71.5 GiB for an array'),
        RuntimeError('RESOURCE_EXHAUSTED: Out of memory allocating 3 bytes.\nMore'),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        ImportError('libXau.so: failed to map segment from shared object'),
        MemoryError(),
    ],
)
def test_memory_that_ran_out_is_one_line(capsys, monkeypatch, error):
    """Of NumPy, XLA and PyTorch, also behind another error; what to make smaller. Other errors keep their traceback."""

    def fail(_given):
        raise RuntimeError('in a thread') from error

    def fail_otherwise(_given):
        raise RuntimeError('other')

    monkeypatch.setitem(main.VERBS, 'report', main.VERBS['report']._replace(run=fail))
    status, lines = say(capsys, '--mode=report')
    assert status == 1 and len(lines) == 1 and lines[0].startswith('error: Memory ran out (')
    assert '--config.data.crop' in lines[0] and '--tile' in lines[0]
    monkeypatch.setitem(main.VERBS, 'report', main.VERBS['report']._replace(run=fail_otherwise))
    with pytest.raises(RuntimeError, match='other'):
        main.run(['--mode=report'])


@pytest.mark.parametrize(('last', 'status'), [(signal.SIGTERM, 143), (0, -signal.SIGABRT)])
def test_a_signal_ends_the_process_at_once(last, status):
    """Python is not taken down first, as it is without a signal: what is registered for its end, an abort, is left."""
    code = (
        'import atexit, os, sys; from qsnet_jax import signals; atexit.register(os.abort); '
        f'signals._watch.last = {int(last)}; signals.leave(143)'
    )
    assert subprocess.run([sys.executable, '-c', code], cwd=ROOT).returncode == status


def test_a_signal_while_a_library_loads_raises_nothing():
    """JAX's crash when an exception comes while they start; a module of Python's own is left by one."""
    program = (
        'import os, signal, sys\nfrom qsnet_jax import signals\nsignals.install()\n'
        'class ExtensionFileLoader:\n'
        '    def create_module(self, signum): os.kill(os.getpid(), signum); return True\n'
        'try:\n'
        '    ExtensionFileLoader().create_module(signal.SIGTERM)\n'
        'finally:\n'
        '    print("went on", flush=True)\n'
    )
    for name, printed in (('ExtensionFileLoader', ''), ('SourceFileLoader', 'went on\n')):
        command = [sys.executable, '-c', program.replace('ExtensionFileLoader', name)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert (done.returncode, done.stdout) == (143, printed), done.stderr
        assert done.stderr == f'Stopped by SIGTERM. {signals.BEFORE}\n'


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('after', [0.0, 0.4, 1.3, pytest.param(4.0, marks=pytest.mark.slow)])
def test_a_signal_at_any_moment_ends_quietly(signum, after, tmp_path):
    """In imports, in compilation, in training: one line of what was kept, the signal's status, no traceback."""
    command = [sys.executable, '-m', 'qsnet_jax', QUICK, f'--workdir={tmp_path / "run"}']
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, 'JAX_PLATFORMS': 'cpu'}, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    status = pathlib.Path(f'/proc/{process.pid}/status')
    while int(re.findall(r'SigCgt:\s*(\w+)', status.read_text())[0], 16) & 1 << signal.SIGTERM - 1 == 0:
        time.sleep(0.005)  # Python itself is not up yet
    time.sleep(after)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 128 + signum, errors
    lines = [line for line in errors.splitlines() if line.strip()]
    assert lines[-1].startswith(f'Stopped by {signum.name}') and 'the same command' in lines[-1]
    assert 'Traceback' not in errors


def test_a_signal_that_an_import_swallows_is_not_lost():
    """And one that comes while the main thread is in C: the process ends all the same."""
    for work in (
        'try:\n    time.sleep(9)\nexcept BaseException:\n    pass\ntime.sleep(30)',
        'zlib.crc32(bytes(10**10))',
    ):
        code = (
            'import time, zlib\nfrom qsnet_jax import signals\n'
            f'signals.PATIENCE = signals.UNWINDING = 1.0\nsignals.install()\nprint("up", flush=True)\n{work}\n'
        )
        process = subprocess.Popen(
            [sys.executable, '-c', code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=20)
        assert process.returncode == 128 + signal.SIGTERM and 'Stopped by SIGTERM' in errors
