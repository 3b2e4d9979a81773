"""From a type name and arguments to an object: the registries of option blocks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from basicsr.utils.registry import Registry

from rsr_basicsr.utils.hints import did_you_mean


class TypeRegistry(Registry):
    """BasicSR's registry, read as a mapping: ``registry[name]``, ``len(registry)``, and iteration over the names.

    BasicSR's own iterates over pairs, and prints a line for each name that it does not find.
    """

    def register(
        self, obj: Callable[..., Any] | None = None, suffix: str | None = None, *, name: str | None = None
    ) -> Any:
        """As BasicSR's; ``name`` registers under another name than ``obj.__name__``.

        Raises:
            AssertionError: the name is taken.
        """
        if obj is None:
            return lambda made: self.register(made, suffix, name=name)
        self._do_register(name or obj.__name__, obj, suffix)
        return obj

    def __getitem__(self, name: str) -> Any:
        return self._obj_map[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._obj_map)

    def __len__(self) -> int:
        return len(self._obj_map)


def take_type(options: Any, registry: Registry | Mapping[str, Any], what: str) -> tuple[str, Any, dict[str, Any]]:
    """Split an options block into its type and its arguments.

    Args:
        options: the block, a mapping with ``type``; it is not changed.
        registry: what there is by the name of ``type``.
        what: the word for such an object in messages: ``attack``.

    Returns:
        The name, what is registered under it, and the arguments.

    Raises:
        ValueError: it is no block, or its type is missing or unknown.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f'expected {what} as a block with type and arguments, got {options!r}')
    arguments = dict(options)
    name = arguments.pop('type', None)
    names = list(registry.keys())
    if name is None:
        raise ValueError(f'the {what} block {options!r} has no type; known are {", ".join(names)}')
    if not isinstance(name, str) or name not in names:
        raise ValueError(f'there is no {what} of type {name!r}; {did_you_mean(name, names)}')
    return name, registry.get(name), arguments


def parameters_of(maker: Callable[..., Any], given: int = 0) -> dict[str, inspect.Parameter]:
    """The arguments that a block can give to a class or a function.

    Of a class whose ``__init__`` hands ``**keywords`` on, the arguments of its parents count too.

    Args:
        maker: the class or function.
        given: number of arguments at the front that come from the caller, not from the block.

    Returns:
        Parameters by name, those of the class itself first; the last one is of kind ``VAR_KEYWORD`` if any name is
        accepted.
    """
    makers = [maker]
    if isinstance(maker, type):
        makers = [vars(parent)['__init__'] for parent in maker.__mro__[:-1] if '__init__' in vars(parent)]
        given += 1  # self
    found: dict[str, inspect.Parameter] = {}
    keywords: list[inspect.Parameter] = []
    for function in makers:
        own = list(inspect.signature(function).parameters.values())[given:]
        for parameter in own:
            if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                found.setdefault(parameter.name, parameter)
        keywords = [parameter for parameter in own if parameter.kind is parameter.VAR_KEYWORD]
        if not keywords:
            break
    return {**found, **{parameter.name: parameter for parameter in keywords}}


def check_arguments(owner: str, given: Iterable[str], known: Mapping[str, inspect.Parameter]) -> None:
    """Refuse arguments that are unknown, and those that are missing.

    Args:
        owner: the name that messages begin with.
        given: names of the arguments.
        known: see :func:`parameters_of`.

    Raises:
        ValueError: an argument is unknown or missing.
    """
    given = list(given)
    check_known(owner, given, known)
    missing = [
        name
        for name, parameter in known.items()
        if name not in given and parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if missing:
        raise ValueError(f'{owner} needs {" and ".join(missing)}; add what is missing to its block')


def check_known(owner: str, given: Iterable[str], known: Mapping[str, inspect.Parameter]) -> None:
    """Refuse unknown arguments; see :func:`check_arguments`.

    Raises:
        ValueError: an argument is unknown.
    """
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        return
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known, 'it takes') if known else 'it takes none'
            raise ValueError(f'{owner} has no argument {name!r}; {hint}')
