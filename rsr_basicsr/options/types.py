"""Types of values in an options file, as annotations of pydantic models, each with the sentence that refuses a value.

``--force_yml`` delivers ``1e-4``, ``-1`` and ``[2, 8]`` as text, so numbers are read from text too.
"""

from __future__ import annotations

import os
import os.path as osp
import re
import reprlib
import sys
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    Tag,
    ValidationError,
)
from pydantic_core import core_schema

#: Values of ``broken_images``, the default first
ON_BROKEN = ('stop', 'skip')
_LONGEST_NAME = 200  # bytes of 255: BasicSR and this package append to it
#: Characters and endings that no file has on Windows, and the names of its devices
_NOT_ON_WINDOWS = re.compile(r'[<>:"|?*\x00-\x1f]|[. ]$|^(con|prn|aux|nul|com[0-9]|lpt[0-9])(\.|$)', re.IGNORECASE)
_SHORT = reprlib.Repr()  # aliases let a file of a few lines hold a value whose text has no end
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 2, 120, 120


def shown(value: Any) -> str:
    """A value as messages show it."""
    return _SHORT.repr(value)


@dataclass(frozen=True, eq=False)
class Range:
    """Annotates an int or a float: a finite number within limits."""

    ge: float | None = None
    gt: float | None = None
    le: float | None = None

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        whole = source is int
        limits: dict[str, Any] = {name: limit for name, limit in vars(self).items() if limit is not None}
        number = core_schema.int_schema(**limits) if whole else core_schema.float_schema(allow_inf_nan=False, **limits)

        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                if isinstance(value, bool):
                    raise ValueError
                return inner(float(value) if whole and isinstance(value, str) else value)
            except ValueError:
                raise ValueError(f'expected a {"whole " if whole else ""}number {self}') from None

        return core_schema.no_info_wrap_validator_function(check, number)

    def __str__(self) -> str:
        least = f'of at least {self.ge:g}' if self.gt is None else f'above {self.gt:g}'
        return least if self.le is None else f'{least} and at most {self.le:g}'


@dataclass(frozen=True, eq=False)
class Expect:
    """Annotates any type: one sentence in place of pydantic's own."""

    sentence: str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            try:
                return inner(value)
            except ValidationError:
                raise ValueError(self.sentence) from None

        return core_schema.no_info_wrap_validator_function(check, handler(source))


@dataclass(frozen=True, eq=False)
class OneOf:
    """Annotates a str: one of some words, which may be registered later."""

    words: Collection[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any) -> str:
            if value not in list(self.words):
                raise ValueError(f'expected one of {", ".join(self.words)}')
            return value

        return core_schema.no_info_plain_validator_function(check)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {'enum': list(self.words)}


@dataclass(frozen=True, eq=False)
class OrWord:
    """Annotates a union with str: what another type takes, or one of some words."""

    words: tuple[str, ...]
    other: Any

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if isinstance(value, str) and value in self.words:
                return value
            try:
                return inner(value)
            except ValidationError as error:
                raise ValueError(f'{refusal(error.errors()[0])}, or {" or ".join(self.words)}') from None

        return core_schema.no_info_wrap_validator_function(check, handler.generate_schema(self.other))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {'anyOf': [{'enum': list(self.words)}, handler(schema)]}


@dataclass(frozen=True, eq=False)
class Parsed:
    """Annotates a type with the function that makes such a value of an entry, and the JSON schema of the entry."""

    parse: Callable[[Any], Any]
    json_type: str | list[str]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_plain_validator_function(self.parse)

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {'type': self.json_type}


@dataclass(frozen=True, eq=False)
class Listed:
    """Annotates a list: at least one entry; two with ``pair``, in ascending order with ``ascending``."""

    pair: bool = False
    ascending: bool = False

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        def check(value: Any, inner: core_schema.ValidatorFunctionWrapHandler) -> Any:
            if not isinstance(value, (list, tuple)) or (len(value) != 2 if self.pair else not value):
                raise ValueError(f'expected {"two numbers" if self.pair else "a list"} in brackets')
            entries = inner(value)
            if self.ascending and entries[0] > entries[1]:
                raise ValueError('expected [low, high] with low <= high')
            return entries

        return core_schema.no_info_wrap_validator_function(check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), 'minItems': 1 + self.pair, **({'maxItems': 2} if self.pair else {})}


def refusal(error: Mapping[str, Any]) -> str:
    """What an error of pydantic says of the value, in our words where a type of this module raised it."""
    cause = error.get('ctx', {}).get('error')
    return str(cause) if isinstance(cause, ValueError) else str(error['msg'])


def names(value: Any) -> list[str]:
    """A list of words, or of one word."""
    entries = [value] if isinstance(value, str) else value
    if not isinstance(entries, (list, tuple)) or not all(isinstance(entry, str) for entry in entries):
        raise ValueError('expected a list of names')
    return list(entries)


def _plain_name(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r'[^/\\\0]+', value) or value in ('.', '..'):
        raise ValueError('expected a plain name, since it becomes a folder')
    if len(value.encode(errors='surrogateescape')) > _LONGEST_NAME:
        raise ValueError(f'expected a name of at most {_LONGEST_NAME} bytes, since it becomes a folder')
    if sys.platform == 'win32' and _NOT_ON_WINDOWS.search(value):
        raise ValueError('it becomes a folder, which Windows does not allow; take another name')
    return value


def _keys(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValueError('expected a block of keys')
    return value  # as it is: BasicSR and our checks write into it


def _existing_file(value: Any) -> str:
    if not isinstance(value, (str, os.PathLike)):
        raise ValueError('expected a text')
    path = osp.expanduser(os.fspath(value))
    if not osp.isfile(path):
        raise ValueError('no such file')
    return path


def _not_a_fraction(value: Any) -> Any:
    if isinstance(value, str) and '/255' in value:
        raise ValueError(f'this is in 1/255 units already; write {value.split("/")[0].strip()}')
    return value


def _in_levels(radius: float) -> float:
    if 0 < radius < 0.25:
        raise ValueError(f'this is in 1/255 units (did you mean {radius * 255:.3g}?)')
    return radius


def _above_zero(radius: float) -> float:
    if radius == 0:
        raise ValueError('expected a number above 0')
    return radius


Count = Annotated[int, Range(ge=1)]
Natural = Annotated[int, Range(ge=0)]
Share = Annotated[float, Range(ge=0, le=1)]
PositiveShare = Annotated[float, Range(gt=0, le=1)]
NonNegative = Annotated[float, Range(ge=0)]
Positive = Annotated[float, Range(gt=0)]

Flag = Annotated[bool, Strict(), Expect('expected true or false')]
Text = Annotated[str, Strict(), Expect('expected a text')]
PlainName = Annotated[str, Parsed(_plain_name, 'string')]
Names = Annotated[list[str], Parsed(names, ['string', 'array'])]
ExistingFile = Annotated[str, Parsed(_existing_file, 'string')]
#: A block that other classes check; it stays the object that it is
Keys = Annotated[dict[str, Any], Parsed(_keys, 'object')]
AnyList = Annotated[list[Any], Expect('expected a list in brackets')]
NumGpu = Annotated[int | str, OrWord(('auto',), Natural)]

#: A length in 1/255
Distance = Annotated[float, Range(ge=0, le=255), BeforeValidator(_not_a_fraction)]
#: An attack budget in 1/255: a fraction such as 8/255 or 0.031 is taken for the mistake it is
Eps = Annotated[Distance, AfterValidator(_in_levels)]
PositiveEps = Annotated[Eps, AfterValidator(_above_zero)]

ShareRange = Annotated[list[Share], Listed(pair=True, ascending=True)]
NonNegativeRange = Annotated[list[NonNegative], Listed(pair=True, ascending=True)]


def _form(value: Any) -> str:
    return LIST if isinstance(value, (list, tuple)) else ONE


#: Tags of unions, which stand in the location of pydantic's errors
ONE, LIST, BLOCK = '(one)', '(list)', '(block)'
one_or_list = Discriminator(_form)
EpsRange = Annotated[
    Annotated[Eps, Tag(ONE)] | Annotated[list[Eps], Listed(pair=True, ascending=True), Tag(LIST)], one_or_list
]
PositiveEpsRange = Annotated[
    Annotated[PositiveEps, Tag(ONE)] | Annotated[list[PositiveEps], Listed(pair=True, ascending=True), Tag(LIST)],
    one_or_list,
]
NumberOrList = Annotated[Annotated[NonNegative, Tag(ONE)] | Annotated[AnyList, Tag(LIST)], one_or_list]
