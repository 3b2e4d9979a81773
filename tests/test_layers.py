"""Who imports whom: the rooms of the package stand in layers, and an import goes down, never up.

A room is a folder of ``rsr_basicsr``, or a module beside the folders. Imports inside functions count as well; those for
type checkers alone do not.
"""

import ast
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / 'rsr_basicsr'

# Lowest first: a room imports only rooms of the lines above its own, and of those only the ones named.
# docs/contributing.md shows the same table.
LAYERS = {
    'utils': '',
    'catalog': 'utils',
    'registration': '',
    'leaderboard': 'catalog, utils',
    'weights': 'catalog, utils',
    'ops': 'weights',
    'archs': 'ops, weights, catalog, utils',
    'attacks': 'ops, weights, utils',
    'losses': 'ops',
    'metrics': 'ops',
    'defenses': 'attacks, ops, weights',
    'options': 'metrics, attacks, archs, ops, weights, catalog, utils',
    'checkpoints': 'archs, ops, weights, utils',
    'launching': 'utils',
    'workers': 'checkpoints',
    'compat': 'workers, checkpoints, launching, weights, utils',
    'inference': 'checkpoints, options, archs, ops, weights, catalog, utils',
    'data': 'inference, options, attacks, ops, weights, utils',
    'models': 'compat, checkpoints, options, metrics, attacks, archs, ops, weights, catalog, utils',
    'defend_file': 'models, options, archs, catalog, utils',
    'export': 'data, inference, archs, ops, weights, utils',
    'benchmark': 'options, defenses, metrics, attacks, archs, ops, weights, leaderboard, catalog, utils',
    'stability': 'benchmark, inference, metrics, attacks, archs, ops, weights, catalog, utils',
    'check': 'benchmark, models, data, checkpoints, options, metrics, attacks, archs, ops, weights, utils',
    'pipeline': 'check, compat, launching, data, models, options, utils',
    'quickstart': 'benchmark, data, weights, catalog, utils',
    'cli': (
        'pipeline, check, stability, benchmark, export, defend_file, data, inference, options, archs, weights, '
        'leaderboard, registration, catalog, utils'
    ),
    'train': 'cli',
    'test': 'cli',
    '__init__': 'registration',
}
FLOOR = 'utils'  # any room may import it; the rows that do not yet need it leave it out
LOOSE = {
    '__init__',
    'checkpoints',
    'compat',
    'launching',
    'pipeline',
    'quickstart',
    'registration',
    'test',
    'train',
    'workers',
}

# Public names that two modules define. Each has one meaning in the whole package, or a reason to be here.
SAME_NAME = {
    'CLEAN': 'the class of the classifier; the row of a benchmark without an attack',
    'Generators': 'alias of a type; an attack may go without a generator',
    'INPUT': 'the mask point in front of a network; the input of an exported graph',
    'SMALLEST': 'the smallest side of an image: of a classifier, a data set, an exported graph, a metric',
    'TensorMap': 'alias of a type: tensors in, tensors out',
    'State': 'alias of one type, the same in each module',
}
# A schema of the options of a class has the name of the class, which is what an options file says.
SCHEMAS = {'AdversarialImagesDataset', 'AdversarialSetDataset'}


def modules():
    """Dotted name to path of each module."""
    found = {}
    for path in sorted(PACKAGE.rglob('*.py')):
        parts = path.relative_to(ROOT).with_suffix('').parts
        found['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = path
    return found


def room(module):
    return module.split('.')[1] if '.' in module else '__init__'


def at_run_time(tree):
    """All nodes but those under ``if TYPE_CHECKING:``, which name types of a room above and import nothing."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == 'TYPE_CHECKING'):
            yield from at_run_time(child)


def imported(module, tree, known):
    """(line, target) of each import of the package, and of each ``rsr_basicsr.NAME`` after ``import rsr_basicsr``."""
    for node in at_run_time(tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names if alias.name != 'rsr_basicsr']
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'rsr_basicsr':
            targets = [f'rsr_basicsr.{node.attr}']
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f'{module}:{node.lineno}: imports are absolute in this package'
            names = [f'{node.module}.{alias.name}' for alias in node.names]
            targets = [name if name in known or node.module == 'rsr_basicsr' else node.module for name in names]
        else:
            continue
        yield from ((node.lineno, target) for target in targets if target.split('.')[0] == 'rsr_basicsr')


@pytest.fixture(scope='module')
def directions():
    """(room, imported room) to the places where it is imported."""
    known = modules()
    found = defaultdict(list)
    for module, path in known.items():
        for line, target in imported(module, ast.parse(path.read_text(encoding='utf-8')), known):
            if target != 'rsr_basicsr.__version__' and room(target) != room(module):
                found[room(module), room(target)].append(f'{path.relative_to(ROOT)}:{line} imports {target}')
    return found


def allowed(name):
    return set(filter(None, LAYERS[name].split(', ')))


def test_every_room_has_its_layer():
    assert {room(module) for module in modules()} == set(LAYERS)


def test_the_table_itself_only_points_down():
    rooms = list(LAYERS)
    for number, name in enumerate(rooms):
        assert allowed(name) <= set(rooms[:number]), f'{name} is declared to import a room that is not below it'


def test_imports_follow_the_table(directions):
    wrong = [
        f'{name} -> {target} is not in LAYERS: {", ".join(places)}'
        for (name, target), places in directions.items()
        if target not in allowed(name) | {FLOOR}
    ]
    assert not wrong, '\n'.join(wrong)


def test_the_table_allows_no_more_than_is_used(directions):
    unused = [f'{name} -> {target}' for name in LAYERS for target in allowed(name) if (name, target) not in directions]
    assert not unused, f'no import goes this way, remove it from LAYERS: {unused}'


def test_contributing_shows_the_table():
    page = (ROOT / 'docs' / 'contributing.md').read_text(encoding='utf-8')
    table = '\n'.join(f'| `{name}` | {LAYERS[name] or "nothing"} |' for name in LAYERS)
    assert f'|---|---|\n{table}\n' in page, f'the table should be:\n{table}'


def test_no_other_module_lies_beside_the_rooms():
    assert {path.stem for path in PACKAGE.glob('*.py')} == LOOSE


def defined(tree):
    """Public classes and constants of a module; an alias of a type is a constant."""
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            yield node.name
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [part for target in targets for part in ast.walk(target) if isinstance(part, ast.Name)]
            yield from (part.id for part in names if isinstance(part.ctx, ast.Store))


def test_a_public_name_is_defined_once():
    places = defaultdict(list)
    for module, path in modules().items():
        for name in set(defined(ast.parse(path.read_text(encoding='utf-8')))):
            if not name.startswith('_'):
                places[name].append(module)
    twice = {name: where for name, where in places.items() if len(where) > 1}
    assert {name: twice[name] for name in set(twice) - set(SAME_NAME) - SCHEMAS} == {}
    assert set(SAME_NAME) <= set(twice), 'defined once now: remove it from SAME_NAME'
