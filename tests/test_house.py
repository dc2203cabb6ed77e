"""The rules of the house: imports point down in no circle, files and functions are short, rooms say what they are."""

import ast
import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGE = ROOT / 'qsnet_jax'
LINES = {'file': 400, 'function': 50}
# Who may import whom: a module those of its own tier and below; of one tier no two rooms each other.
TIERS = {
    **dict.fromkeys(('data', 'weights', 'derain', 'photos', 'video', 'images', 'public', 'checkpoint'), 1),
    **{'demo': 2, 'evidence': 2, 'training': 3, 'peers': 4, 'torch_twin': 4, 'main': 5, '__main__': 6},
}


def modules() -> dict[str, pathlib.Path]:
    """Every module of the package by its dotted name, configs included."""
    paths = [(path, PACKAGE.parent) for path in PACKAGE.rglob('*.py')]
    found = {'.'.join(path.relative_to(base).with_suffix('').parts): path for path, base in paths}
    found |= {f'qsnet_jax.configs.{path.stem}': path for path in (ROOT / 'configs').glob('*.py')}
    return {name.removesuffix('.__init__'): path for name, path in found.items()}


def imports(path: pathlib.Path, known) -> set[str]:
    """Modules of the package that a file imports, wherever it does so."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f'{node.module}.{alias.name}' for alias in node.names} | {node.module}
    names = {name for name in found if name in known}
    # `from qsnet_jax.data import sets` runs the room's __init__, which holds a docstring and nothing else
    return {name for name in names if not any(other.startswith(f'{name}.') for other in known)}


def graph() -> dict[str, set[str]]:
    """Modules, and those that they import."""
    known = modules()
    return {name: imports(path, known) - {name} for name, path in known.items()}


def room(module: str) -> str:
    """The folder of a module, or its own name where it lies in none."""
    return (module.split('.') + [''])[1]


def cycle(edges: dict[str, set[str]]) -> list[str]:
    """The names of one cycle, empty where there is none."""
    done: set[str] = set()

    def walk(name: str, path: list[str]) -> list[str]:
        if name in path:
            return path[path.index(name) :]
        if name in done:
            return []
        for other in sorted(edges.get(name, ())):
            if found := walk(other, [*path, name]):
                return found
        done.add(name)
        return []

    return next((found for name in edges if (found := walk(name, []))), [])


def test_a_cycle_would_be_found():
    """Of three, behind one that is in none."""
    assert sorted(cycle({'a': {'b'}, 'b': {'c'}, 'c': {'d'}, 'd': {'b'}})) == ['b', 'c', 'd']
    assert not cycle({'a': {'b', 'c'}, 'b': {'c'}, 'c': set()})


def test_imports_go_down_and_in_no_circle():
    """Also those inside of functions; between modules and between rooms."""
    edges = graph()
    assert not cycle(edges)
    tiers = {name: TIERS.get(room(name), 0) for name in edges}
    upward = [f'{name} -> {other}' for name in edges for other in edges[name] if tiers[other] > tiers[name]]
    assert not upward
    rooms: dict[str, set[str]] = {}
    for name, others in edges.items():
        rooms.setdefault(room(name), set()).update({room(other) for other in others} - {room(name)})
    assert not cycle(rooms)


def test_the_library_imports_nothing_called_configs():
    """A top-level package of that name is somebody else's."""
    for path in modules().values():
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ''] if isinstance(node, ast.ImportFrom) else []
            assert not [name for name in names if name.split('.')[0] == 'configs'], path


@pytest.mark.parametrize('path', [pytest.param(path, id=name) for name, path in sorted(modules().items())])
def test_files_and_functions_are_short_and_say_what_they_are_for(path):
    """At most 400 lines and 50, and a docstring at the top."""
    text = path.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f'{path} does not say what it is for'
    assert len(text.splitlines()) <= LINES['file']
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: (node.end_lineno or 0) - node.lineno + 1 for node in functions}
    assert not {name: lines for name, lines in long.items() if lines > LINES['function']}


def test_rooms_say_what_they_are():
    """A folder with more than two files has its purpose in __init__.py."""
    for folder in {path.parent for path in modules().values()}:
        if len(list(folder.glob('*.py'))) > 2:
            assert ast.get_docstring(ast.parse((folder / '__init__.py').read_text())), folder
