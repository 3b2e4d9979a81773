"""Blocks of an options file as pydantic models, and the way from such a block to its values or to our sentences.

A block is parsed key by key, so that one wrong value leaves the others usable, and all that is wrong is found at once.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, GetJsonSchemaHandler, TypeAdapter, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError, core_schema

from rsr_basicsr.options.messages import MissingKey, Problems, SeveralProblems
from rsr_basicsr.options.types import refusal, shown
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.hints import did_you_mean, nearest

#: Keys that BasicSR's parser adds to the top level: no file has them, so none is misspelt
ADDED_BY_BASICSR = ('is_train', 'dist', 'rank', 'world_size', 'auto_resume')
_NOT_A_BLOCK = 'not_a_block'


class Block(BaseModel):
    """A block that takes the keys of its fields and no others; a key without a value is absent.

    A field whose default is None is left to the class that the block is for.
    """

    model_config = ConfigDict(extra='forbid', protected_namespaces=())

    @model_validator(mode='before')
    @classmethod
    def _without_empty(cls, value: Any) -> Any:
        if isinstance(value, BaseModel):
            return value
        if not isinstance(value, Mapping):
            raise PydanticCustomError(_NOT_A_BLOCK, 'not a block of keys')
        return {str(name): entry for name, entry in value.items() if entry is not None}

    @classmethod
    def __get_pydantic_json_schema__(
        cls, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        described = handler(schema)
        target = handler.resolve_ref_schema(described)
        for name, entry in target.get('properties', {}).items():
            if name not in target.get('required', ()) and {'type': 'null'} not in entry.get('anyOf', ()):
                notes = {key: entry.pop(key) for key in ('title', 'description', 'default', *_NOTES) if key in entry}
                target['properties'][name] = {'anyOf': [entry, {'type': 'null'}], **notes}
        return described

    def plain(self) -> Any:
        """The block as an options file holds it: what is set, or has a default, in its final type."""
        return {name: _plain(value) for name in type(self).model_fields if (value := getattr(self, name)) is not None}


class OpenBlock(Block):
    """A block that other classes read too, and that may hold more keys."""

    model_config = ConfigDict(extra='ignore', protected_namespaces=())


#: What :func:`key` adds to the JSON schema of a field
_NOTES = ('unit', 'values', 'by_default')

Model = TypeVar('Model', bound=Block)


def key(
    description: str,
    default: Any = None,
    *,
    unit: str | None = None,
    values: str | None = None,
    by_default: str | None = None,
) -> Any:
    """A field of a block, with what docs and editors say of it.

    Args:
        description: its meaning, in Markdown.
        default: the value of an absent key, or the class that makes it; ``...`` for a required key; None leaves it to
            the class of the block.
        unit: of a number, such as ``1/255``.
        values: what it takes, where the type does not tell.
        by_default: what an absent key means, where ``default`` does not tell.
    """
    notes: dict[str, Any] = {
        name: note
        for name, note in (('unit', unit), ('values', values), ('by_default', by_default))
        if note is not None
    }
    if isinstance(default, type):
        return Field(default_factory=default, description=description, json_schema_extra=notes)
    if isinstance(default, (dict, list)):
        notes['default'] = default
        factory = functools.partial(copy.deepcopy, default)
        return Field(default_factory=factory, description=description, json_schema_extra=notes)
    return Field(default, description=description, json_schema_extra=notes)


def parse_block(block: Any, model: type[Block], where: str) -> dict[str, Any]:
    """Check one block and return it with every value in its final type.

    Args:
        block: the block; None is an empty one.
        model: the keys it takes.
        where: what it is called in messages.

    Raises:
        OptionsError: for everything that is wrong a sentence with the key, the value and what is expected.
    """
    block = {} if block is None else block
    problems, parsed = Problems(), {}
    if not isinstance(block, Mapping):
        raise OptionsError(_not_a_block(block, model, where))
    refuse_unknown(block, model.model_fields, where, problems)
    for name, field in model.model_fields.items():
        with problems.noted():
            value = _value(block, name, field, where)
            if value is not None:
                parsed[name] = _plain(value)
    problems.stop()
    return parsed


def parse_open(options: dict[str, Any], model: type[Block], where: str) -> None:
    """Put the values of a model's keys into their final types, in place; other keys stay as they are.

    Raises:
        OptionsError: as :func:`parse_block` does.
    """
    problems = Problems()
    parse_each(options, (model,), where, problems)
    problems.stop()


def parse_each(options: dict[str, Any], models: Iterable[type[Block]], where: str, problems: Problems) -> None:
    """As :func:`parse_open`, for the keys of several models, but problems are noted with their place.

    Where two models have the same key, the last one counts.
    """
    missing = []
    fields = {name: field for model in models for name, field in model.model_fields.items()}
    for name, field in fields.items():
        part = _join(where, name)
        with problems.noted(part=part):
            try:
                value = _value(options, name, field, where)
            except MissingKey as error:
                if error.hint:
                    raise
                missing += [error] if problems.lacks(error) else []
                problems.spoil(part)
                continue
            if value is not None:
                options[name] = _plain(value)
    if missing:
        others = ', '.join(repr(error.key) for error in missing[1:])
        more = f', and so {"is" if len(missing) == 2 else "are"} {others}'
        problems.append(f'{missing[0]}{more if others else ""}')


def parse_keys(
    options: dict[str, Any],
    names: Iterable[str],
    kind: Any,
    where: str,
    problems: Problems | None = None,
    required: bool = False,
) -> None:
    """As :func:`parse_each`, for keys that are known only from the file, all of one type.

    Raises:
        OptionsError: ``problems`` is None, and something is wrong.
    """
    noted = Problems() if problems is None else problems
    fields = {name: FieldInfo.from_annotation(kind) for name in names}
    for name, field in fields.items():
        with noted.noted(part=_join(where, name)):
            if options.get(name) is None and not required:
                continue
            options[name] = _plain(_value(options, name, field, where))
    if problems is None:
        noted.stop()


def typed(model: type[Model], options: Mapping[str, Any]) -> Model:
    """A block whose values have been checked, as an object."""
    return model.model_validate({name: options[name] for name in model.model_fields if name in options})


def refuse_unknown(options: Iterable[Any], known: Iterable[str], where: str, problems: Problems) -> None:
    """Note the keys that are not known, with what they may mean."""
    known = list(known)
    for name in options:
        if name not in known:
            problems.append(_unknown(name, known, where))
            meant = nearest(name, known)
            if meant is not None:
                problems.mistaken(where, meant)


def _value(options: Mapping[str, Any], name: str, field: FieldInfo, where: str) -> Any:
    """The value of one key in its final type, or its default."""
    value = options.get(name)
    if value is None:
        if field.is_required():
            raise MissingKey(where, name, '' if where else _near_miss(name, options))
        return field.get_default(call_default_factory=True)
    try:
        annotation: Any = field.annotation
        return _adapter(annotation, tuple(field.metadata)).validate_python(value)
    except ValidationError as error:
        sentences = list(_sentences(error, field, _join(where, name)))
        raise (SeveralProblems(sentences) if len(sentences) > 1 else OptionsError(sentences[0])) from None


@functools.cache
def _adapter(annotation: Any, metadata: tuple[Any, ...]) -> TypeAdapter[Any]:
    """The validator of one field: pydantic keeps what ``Annotated`` holds apart from the type."""
    for note in metadata:
        annotation = Annotated[annotation, note]
    return TypeAdapter(annotation)


def _sentences(error: ValidationError, field: FieldInfo, where: str) -> Iterator[str]:
    """Our sentences for pydantic's errors of one field; unknown keys first, since they may explain missing ones."""
    misspelt = set()
    for found in sorted(error.errors(), key=lambda found: found['type'] != 'extra_forbidden'):
        of_a_key = found['type'] in ('extra_forbidden', 'missing')
        *_, name = found['loc'] or ('',)
        place, model = _located(found['loc'][:-1] if of_a_key else found['loc'], field, where)
        if found['type'] == 'extra_forbidden' and model is not None:
            misspelt.add((place, nearest(name, model.model_fields)))
            yield _unknown(name, model.model_fields, place)
        elif found['type'] == 'missing':
            if (place, name) not in misspelt:
                yield str(MissingKey(place, str(name)))
        elif found['type'] == _NOT_A_BLOCK and model is not None:
            yield _not_a_block(found['input'], model, place)
        else:
            yield f'{place}: {refusal(found)}, got {shown(found["input"])}'


def _located(loc: Iterable[int | str], field: FieldInfo, where: str) -> tuple[str, type[Block] | None]:
    """A location inside a field as messages write it, and the model of the block there, if it is one."""
    model = block_in(field.annotation)
    for part in loc:
        if isinstance(part, int):
            where += f', number {part + 1}' if model is not None else ''  # numbers of a list are shown themselves
        elif not part.startswith('('):  # the tag of a union
            where = _join(where, part)
            model = block_in(model.model_fields[part].annotation) if model is not None else None
    return where, model


def block_in(annotation: Any) -> type[Block] | None:
    """The model inside of an annotation, such as that of the entries of a list."""
    if isinstance(annotation, type) and issubclass(annotation, Block):
        return annotation
    return next(filter(None, map(block_in, get_args(annotation))), None)


def _plain(value: Any) -> Any:
    if isinstance(value, Block):
        return value.plain()
    return [_plain(entry) for entry in value] if isinstance(value, list) else value


def _join(where: str, name: str) -> str:
    return f'{where}.{name}' if where else name


def _unknown(name: Any, known: Iterable[str], where: str) -> str:
    return f'{where}{": " * bool(where)}unknown key {name!r}; {did_you_mean(name, known)}'


def _not_a_block(value: Any, model: type[Block], where: str) -> str:
    return f'{where}: {shown(value)} is not a block of keys; it takes {", ".join(model.model_fields)}'


def _near_miss(name: str, options: Mapping[str, Any]) -> str:
    # The discriminator of a file without a network_g is no misspelling of it.
    close = nearest(name, [key for key in options if key not in (*ADDED_BY_BASICSR, 'network_d')])
    return f'; did you mean {name!r} where it says {close!r}?' if close else ''
