"""What a block names and holds, against the registered class or function that it is for."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from basicsr.utils.registry import Registry

from rsr_basicsr.options.messages import MissingKey, Problems
from rsr_basicsr.options.parsing import refuse_unknown
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.hints import did_you_mean, nearest

#: How similar two names are, from 0 to 1, of which one counts as the other misspelt
ALIKE = 0.8


def registered(registry: Registry, name: str, where: str) -> Any:
    """The object of that name in a BasicSR registry, as BasicSR would find it.

    Raises:
        OptionsError: there is none.
    """
    suffix = '_basicsr'
    if name in registry:
        return registry.get(name)
    if f'{name}{suffix}' in registry:
        return registry.get(f'{name}{suffix}')
    known = [key[: -len(suffix)] if key.endswith(suffix) else key for key in registry.keys()]
    raise OptionsError(f'{where}: {name!r} is not registered; {did_you_mean(name, known)}')


def check_call(
    function: Callable[..., Any], options: Mapping[str, Any], where: str, given: int = 0, own: Iterable[str] = ()
) -> None:
    """Check that a function or class takes what a block holds, and gets what it needs.

    Args:
        function: what will be called with the block, less its ``type``.
        options: the block.
        where: what it is called in messages.
        given: number of arguments at the front that come from the caller.
        own: keys that the caller takes out of the block.

    Raises:
        OptionsError: keys are unknown or missing.
    """
    parameters = list(inspect.signature(function).parameters.values())[given:]
    problems, known = Problems(), [*(p.name for p in parameters), 'type', *own]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    if not takes_any:
        refuse_unknown(options, known, where, problems)
    elif function.__module__.split('.')[0] in ('basicsr', 'rsr_basicsr'):  # these ignore what they do not know
        absent = [name for name in known if name not in options]
        misspelt = [key for key in options if key not in known and nearest(key, absent, ALIKE)]
        refuse_unknown(misspelt, known, where, problems)
    for parameter in parameters:
        if (
            parameter.default is parameter.empty
            and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
            and parameter.name not in options
        ):
            with problems.noted():
                raise MissingKey(where, parameter.name)
    problems.stop()
