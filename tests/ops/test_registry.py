"""The registry of option blocks: names, arguments, and what is refused."""

import pytest
from basicsr.utils.registry import Registry

from rsr_basicsr.ops.registry import TypeRegistry, check_arguments, parameters_of, take_type
from rsr_basicsr.utils.hints import did_you_mean, nearest


class Base:
    def __init__(self, net, *, size, speed=1):
        self.net, self.size, self.speed = net, size, speed


class Handing(Base):
    def __init__(self, net, *, colour='red', **common):
        super().__init__(net, **common)


class Bare:
    pass


def accepting(net, times=2, **rest):
    return net, times, rest


@pytest.fixture
def registry():
    made = TypeRegistry('thing')
    made.register(Base)
    made.register(name='other')(Handing)
    return made


def test_reads_as_a_mapping(registry):
    assert list(registry) == list(registry.keys()) == ['Base', 'other'] and len(registry) == 2
    assert 'other' in registry and 'Handing' not in registry
    assert registry['other'] is registry.get('other') is Handing
    with pytest.raises(KeyError):
        registry['Handing']


def test_a_taken_name_changes_nothing(registry):
    with pytest.raises(AssertionError, match="'Base' was already registered"):
        registry.register(name='Base')(Handing)
    assert registry['Base'] is Base


def test_decorator_returns_the_class(registry):
    assert registry.register()(Bare) is Bare and registry['Bare'] is Bare


@pytest.mark.parametrize('kind', [TypeRegistry, Registry, dict])
def test_take_type(kind):
    if kind is dict:
        registry = {'Base': Base}
    else:
        registry = kind('thing')
        registry.register(Base)
    block = {'type': 'Base', 'size': 3}
    assert take_type(block, registry, 'thing') == ('Base', Base, {'size': 3})
    assert block == {'type': 'Base', 'size': 3}


@pytest.mark.parametrize(
    'block, message',
    [
        ('Base', "expected thing as a block with type and arguments, got 'Base'"),
        ({'size': 3}, "the thing block {'size': 3} has no type; known are Base, other"),
        ({'type': 'base'}, "there is no thing of type 'base'; did you mean 'Base'?"),
        ({'type': 'xyz'}, "there is no thing of type 'xyz'; known are Base, other"),
        ({'type': ['Base']}, "there is no thing of type ['Base']; did you mean 'Base'?"),
    ],
    ids=str,
)
def test_take_type_exception(registry, block, message):
    with pytest.raises(ValueError) as error:
        take_type(block, registry, 'thing')
    assert str(error.value) == message


def test_parameters():
    assert list(parameters_of(Handing, given=1)) == ['colour', 'size', 'speed']
    assert list(parameters_of(Base)) == ['net', 'size', 'speed']
    assert list(parameters_of(accepting, given=1)) == ['times', 'rest']
    assert parameters_of(Bare) == {}


@pytest.mark.parametrize(
    'maker, given, message',
    [
        (Handing, {'size': 1, 'sped': 2}, "it has no argument 'sped'; did you mean 'speed'?"),
        (Handing, {'net': 1}, "it has no argument 'net'; it takes colour, size, speed"),
        (Handing, {'speed': 1}, 'it needs size; add what is missing to its block'),
    ],
)
def test_check_arguments_exception(maker, given, message):
    with pytest.raises(ValueError) as error:
        check_arguments('it', given, parameters_of(maker, given=1))
    assert str(error.value) == message


def test_check_arguments_of_a_class_without_any():
    with pytest.raises(ValueError, match="Bare has no argument 'size'; it takes none"):
        check_arguments('Bare', ['size'], parameters_of(Bare))


def test_keywords_accept_any_name():
    check_arguments('accepting', ['whatever', 'times'], parameters_of(accepting, given=1))
    with pytest.raises(ValueError, match='accepting needs net'):
        check_arguments('accepting', ['times'], parameters_of(accepting))


def test_nearest_ignores_case():
    assert nearest('JPG', ['jpeg', 'median']) == 'jpeg'
    assert nearest('zzz', ['jpeg', 'median']) is None
    assert nearest('median', ['JPEG', 'Median'], cutoff=1.0) == 'Median'


def test_did_you_mean():
    assert did_you_mean('jpg', ['JPEG', 'Median']) == "did you mean 'JPEG'?"
    assert did_you_mean('zzz', ['JPEG', 'Median'], 'it takes') == 'it takes JPEG, Median'
    assert did_you_mean('zzz', []) == 'there is none'
