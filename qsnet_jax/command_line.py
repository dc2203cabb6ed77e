"""From a command line to the values of one verb: a flag that it does not read, or a slip, is one line of help."""

import functools
import importlib.metadata
import itertools
import re
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

from absl import flags
from ml_collections import config_dict, config_flags

from qsnet_jax import UserError, config_files, spelling
from qsnet_jax import fields as config_fields

COMMON = ('compilation_cache', 'verbosity')
_DASHES = '-\u2010\u2011\u2012\u2013\u2014\u2015\u2212'  # that of flags, and others
_PLAIN = (  # what absl and Python say of a value, as a pattern, and the same for people
    (r"\('Non-boolean argument to boolean flag', .*\)", 'is neither true nor false'),
    (r'invalid literal for int\(\) with base 10: .*', 'is no whole number'),
    (r'could not convert string to float: .*', 'is no number'),
    (r'Error while parsing string: .* as tuple\. .*', 'is no tuple'),
    (r'Failed to parse .* as a ConfigDict: .*', 'is no section'),
)


class Flag(NamedTuple):
    """One flag: how it is defined, its default, and what it means."""

    define: Callable
    default: Any
    meaning: str
    options: dict[str, Any] = {}


class Given(NamedTuple):
    """What a command gives to its verb: values of the flags, the config with its fields, the name of the config."""

    values: flags.FlagValues
    config: Any
    name: str

    def is_given(self, flag: str) -> bool:
        return self.values[flag].present > 0

    def fields_of(self, section: str) -> list[str]:
        """Fields of a section of the config that the command line itself gives."""
        prefix = f'{section}.'
        return [field.removeprefix(prefix) for field in given_fields(self.values) if field.startswith(prefix)]


class Verb(NamedTuple):
    """One mode of the program."""

    run: Callable[[Given], int]
    does: str
    flags: tuple[str, ...]
    examples: tuple[str, ...]
    kept: str  # by a signal, and how to go on
    config: str = 'needed'  # 'needed', 'read' or ''
    needed: tuple[str, ...] = ()
    meanings: dict[str, str] = {}  # of flags that mean something else here than elsewhere


class Table(NamedTuple):
    """All that a command line can name."""

    verbs: dict[str, Verb]
    flags: dict[str, Flag]


def parse(name: str, arguments: list[str], table: Table) -> Given:
    """The flags of a verb. Raises UserError that names the nearest right one for what is not understood."""
    verb, values = table.verbs[name], flags.FlagValues()
    for flag in (*verb.flags, *COMMON):
        define, default, meaning, options = table.flags[flag]
        define(flag, default, help=meaning, flag_values=values, **options)
    source, rest = take(arguments, 'config')
    fields = _fields_of(rest)
    named = [each.lstrip('-').partition('=')[0] for each in rest if each.startswith('-')]
    own = [*verb.flags, *COMMON]
    for flag in sorted(named, key=table.flags.__contains__):  # slips first, such as one in --mode itself
        if flag[:1].isalpha() and not {flag, flag.removeprefix('no')} & {*own} and not _fields_of([flag]):
            raise UserError(_unknown(table, name, flag))
    if (source or fields) and not verb.config:
        raise UserError(f'--mode={name} reads no config. {_flags_of(table, name)}')
    config = define_config(source, rest, values) if source else None
    if config is not None:
        rest = last_of_tuples(rest, config)
    valued = {flag for flag in own if table.flags[flag].define is not flags.DEFINE_bool}
    held = config_fields.flat(config.to_dict()) if config is not None else {}
    valued |= {f'config.{field}' for field, value in held.items() if not isinstance(value, bool)}
    _refuse_without_value(rest, valued)
    lacks_config = not source and (fields or verb.config == 'needed')
    if lacks_config:  # which may be because of a slip in its name, to be told first
        rest = [each for each in rest if not _fields_of([each])]
    try:
        left = values(['qsnet', *rest])[1:]
    except flags.UnrecognizedFlagError as error:
        raise UserError(_unknown(table, name, error.flagname)) from None
    except (flags.Error, TypeError, ValueError, AttributeError) as error:
        raise UserError(wrong_value(str(error), config)) from None
    if left:
        raise UserError(f'{" ".join(left)} not understood; flags are written --name=value. {_flags_of(table, name)}')
    if lacks_config:
        raise UserError(f'--mode={name} needs --config=NAME or FILE.py; start with --config=quickstart.')
    if config is not None and 'bench' in config and name != 'bench':
        raise UserError(f'--config={source} says what is timed; --mode=bench reads it.')
    check_tuples(rest, config, source)
    if config is not None:
        config_fields.check_values(config)
    _refuse_empty(values, verb, _fields_of(rest), config)
    missing = [flag for flag in verb.needed if not values[flag].value]
    if missing:
        raise UserError(
            f'--mode={name} needs {" and ".join(f"--{flag}=..." for flag in missing)}. {_flags_of(table, name)}'
        )
    return Given(values, config, config_files.name_of(source) if source else '')


def _refuse_without_value(arguments: list[str], valued: Collection[str]) -> None:
    """Raises UserError for a flag that stands without a value before another one, which would be taken for it."""
    for before, word in zip(arguments, arguments[1:], strict=False):
        is_flag = word.startswith('--') or (word[:1] == '-' and word.lstrip('-').partition('=')[0] in valued)
        if is_flag and before.startswith('-') and before.lstrip('-') in valued:
            raise UserError(f'{before} has no value; write {before}=VALUE.')


def given_fields(values: flags.FlagValues) -> list[str]:
    """Fields of the config that a command line gives, 'a.b' each."""
    return [flag.removeprefix('config.') for flag in values if flag.startswith('config.')]


def check_words(arguments: list[str], verbs: Collection[str]) -> None:
    """Raises UserError for a verb without --mode=, and for a flag behind a dash that is not its own."""
    for before, word in zip(['', *arguments], arguments, strict=False):
        if before.startswith('-') and '=' not in before:  # whose value the word may be
            continue
        bare = word.lstrip(_DASHES)
        if word in verbs:
            raise UserError(f'{word!r} stands alone (did you mean --mode={word}?).')
        if not word.startswith('-' * (len(word) - len(bare))):
            raise UserError(f'{word!r} begins with a dash of another kind (did you mean --{bare}?).')


def _refuse_empty(values: flags.FlagValues, verb: Verb, given: list[str], config: Any) -> None:
    """Raises UserError for a text that was given without one, as by a variable of the shell that nobody set."""
    empty = [flag for flag in (*verb.flags, *COMMON) if values[flag].present and values[flag].value == '']
    if given:
        found = config_fields.flat(config.to_dict())
        usual = config_fields.default_fields() | {'data.exclude': ''}  # which may be empty: no set is left out
        names = [field.partition('.')[2] for field in given]
        empty += [f'config.{name}' for name in names if found.get(name) == '' != usual.get(name, '')]
    if empty:
        raise UserError(
            f'--{empty[0]}= has no value (a variable that is not set?); write --{empty[0]}=VALUE, or leave it out.'
        )


def define_config(source: str, arguments: list[str], values: flags.FlagValues) -> config_dict.ConfigDict:
    """The config of --config=SOURCE, whose fields `values` will read from the arguments.

    Raises UserError where there is no such config, or it has not such a field.
    """
    config = config_files.load(source)
    for field in _fields_of(arguments):
        config_files.check_field(field.partition('.')[2], config, f'--{field}')
    config_flags.DEFINE_config_dict('config', config, flag_values=values, sys_argv=['qsnet', *arguments])
    return config


def _fields_of(arguments: list[str]) -> list[str]:
    """'config.a.b' of each argument --config.a.b=VALUE."""
    names = [each.lstrip('-').partition('=')[0] for each in arguments]
    return [name for name in names if name.startswith(('config.', 'noconfig.'))]


def check_tuples(arguments: list[str], config: Any, source: str) -> None:
    """Refuses text in a field in which --config=SOURCE holds several numbers, which ml_collections lets pass."""
    for name in _fields_of(arguments):
        value = _field(config, name)
        is_text = isinstance(value, tuple) and any(isinstance(each, str) for each in value)
        held = _field(config_files.load(source), name) if is_text else ()
        if is_text and not (held and all(isinstance(each, str) for each in held)):
            raise UserError(f'--{name}={",".join(map(str, value))}: expected numbers, as --{name}="(1, 2)".')


def last_of_tuples(arguments: list[str], config: config_dict.ConfigDict) -> list[str]:
    """The arguments with the last value alone of each field that holds several in a config not yet changed by them.

    ml_collections would join the values, though of all other fields the last one counts.
    """
    held = config_fields.flat(config.to_dict())
    tuples = {f'config.{name}' for name, value in held.items() if isinstance(value, tuple)}
    kept: dict[Any, list[str]] = {}
    pending = iter(arguments)
    for number, each in enumerate(pending):
        flag, separator, _ = each.lstrip('-').partition('=')
        if each.startswith('-') and flag in tuples:
            kept[flag] = [each] if separator else [each, *itertools.islice(pending, 1)]
        else:
            kept[number] = [each]
    return [each for words in kept.values() for each in words]


def _field(config: Any, name: str) -> Any:
    """The value of 'config.a.b'."""
    return functools.reduce(lambda section, part: section[part], name.split('.')[1:], config)


def take(arguments: list[str], name: str) -> tuple[str, list[str]]:
    """The last value of a flag, as --name=value or --name value, and the arguments without it."""
    value, rest, pending = '', [], iter(arguments)
    for each in pending:
        flag, separator, given = each.partition('=')
        if flag in (f'--{name}', f'-{name}'):
            value = given if separator else next(pending, '')
            if not value or value.startswith('--'):
                raise UserError(f'--{name} has no value; write --{name}=NAME.')
        else:
            rest.append(each)
    return value, rest


def _unknown(table: Table, name: str, flag: str) -> str:
    """The message for a flag that a verb does not read."""
    if flag in table.flags:
        return f'--{flag} is not read by --mode={name}. {_flags_of(table, name)}'
    own = [*table.verbs[name].flags, *COMMON, 'config', 'mode', 'help', 'version']
    section, dot, field = flag.partition('.')
    if dot and table.verbs[name].config:  # a field of the config, with a slip in that word or without it
        own = [f'config.{flag if flag in config_fields.default_fields() else field}', *own]
    return f'--{flag} is not known{spelling.nearest(flag, own, "--")}. {_flags_of(table, name)}'


def wrong_value(message: str, config: config_dict.ConfigDict | None) -> str:
    """The message for a value that a flag does not take; of fields it says what they hold now."""
    line = ' '.join(message.split())
    for pattern, words in _PLAIN:
        line = re.sub(f': {pattern}$', f' {words}', line)
    name = line.partition('--config.')[2].partition('=')[0]
    if not name or config is None:
        return line.removeprefix('flag ')
    value: Any = config
    for part in name.split('.'):
        value = value[part]
    value = value.to_dict() if isinstance(value, config_dict.ConfigDict) else value
    expected = '' if value is None else f'; expected {type(value).__name__}, as {value!r}'
    return line.removeprefix('flag ') + expected


def _flags_of(table: Table, name: str) -> str:
    """What a verb reads, as the end of a message."""
    own = [
        f'--{flag}' for flag in (*(['config'] if table.verbs[name].config else []), *table.verbs[name].flags, *COMMON)
    ]
    return f'It reads {", ".join(own)}; see --mode={name} --help.'


def version() -> str:
    """Name and version of the package."""
    try:
        return f'qsnet-jax {importlib.metadata.version("qsnet-jax")}'
    except importlib.metadata.PackageNotFoundError:
        return 'qsnet-jax, not installed (pip install -e .), so that its version is not known'


def help_of_all(table: Table) -> str:
    """All verbs."""
    lines = [
        'qsnet --mode=VERB [flags], or python -m qsnet_jax.main; --mode=VERB --help tells of one. VERB is one of',
        '',
    ]
    lines += [f'  {name:10}{verb.does}' for name, verb in table.verbs.items()]
    return '\n'.join(
        [
            *lines,
            '',
            'Configs of the package: ' + ', '.join(config_files.names()),
            '--version tells which version this is.',
        ]
    )


def help_of(table: Table, name: str) -> str:
    """One verb, its flags and examples."""
    verb = table.verbs[name]
    lines = [f'qsnet --mode={name}: {verb.does}', '']
    if verb.config:
        is_needed = 'needed' if verb.config == 'needed' else 'optional'
        lines.append(f'  --{"config":19}NAME[:VARIANT] of the package or FILE.py[:VARIANT]; {is_needed}.')
        lines.append(f'  --{"config.SECTION.FIELD":19} Overrides a field; configs/default.py explains them all.')
    for flag in (*verb.flags, *COMMON):
        _, default, meaning, options = table.flags[flag]
        choice = f' One of {", ".join(options["enum_values"])}.' if 'enum_values' in options else ''
        meaning = verb.meanings.get(flag, meaning)
        shown = f' (default {default})' if default not in (None, False) else ''
        lines.append(f'  --{flag:19}{meaning}{choice}{shown}')
    return '\n'.join([*lines, '', *(f'  qsnet --mode={name} {example}'.rstrip() for example in verb.examples)])
