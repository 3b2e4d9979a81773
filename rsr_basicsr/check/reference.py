"""The options models as a JSON schema for editors, and as the tables of docs/options.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic.json_schema import models_json_schema

from rsr_basicsr.benchmark.options import BenchmarkAttackOptions, BenchmarkNetworkOptions, BenchmarkOptions
from rsr_basicsr.data.adversarial_set_options import AdversarialSetOptions
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.blocks import (
    ClassifierTrainOptions,
    DefenseOptions,
    NetworkOptions,
    RunOptions,
    TrainOptions,
    ValOptions,
)
from rsr_basicsr.options.degradation_blocks import DegradedImageOptions
from rsr_basicsr.options.host_blocks import AdversarialImagesDataset, AdversarialSetDataset, DistParams
from rsr_basicsr.options.parsing import Block, block_in
from rsr_basicsr.utils.errors import OptionsError

#: The tables of docs/options.md, by the name in their marker
TABLES: dict[str, type[Block]] = {
    'network_g.defense': DefenseOptions,
    'attack': AttackOptions,
    'train': TrainOptions,
    'train of FrequencyClassifierModel': ClassifierTrainOptions,
    'datasets': AdversarialSetDataset,
    'DegradedImageDataset': DegradedImageOptions,
    'adversarial set': AdversarialSetOptions,
    'val': ValOptions,
    'dist_params': DistParams,
}
#: Keys that begin a table
_FIRST = {'type': 0, 'photos': 0, 'dataroot': 1, 'eps': 2}
_MARKED = re.compile(r'(<!-- table of (.+?) -->\n).*?(<!-- end of table -->)', re.DOTALL)


def json_schema() -> dict[str, Any]:
    """A JSON schema, draft 2020-12, of the options files of all commands.

    It knows our keys; the blocks of BasicSR's own take any others.
    """
    models = (
        RunOptions,
        AdversarialSetOptions,
        BenchmarkOptions,
        BenchmarkNetworkOptions,
        BenchmarkAttackOptions,
        AdversarialSetDataset,
        AdversarialImagesDataset,
        DegradedImageOptions,
        DistParams,
    )
    _, schema = models_json_schema([(model, 'validation') for model in models], ref_template='#/$defs/{model}')
    defs = schema['$defs']
    defs['RunOptions']['properties']['datasets'] = _named(
        {
            'allOf': [
                _of_type('AdversarialSetDataset', _ref(AdversarialSetDataset)),
                _of_type('AdversarialImagesDataset', _ref(AdversarialImagesDataset)),
                _of_type('DegradedImageDataset', _ref(DegradedImageOptions)),
            ]
        }
    )
    defs['RunOptions']['properties']['dist_params'] = {'anyOf': [_ref(DistParams), {'type': 'null'}]}
    defs['AdversarialSetOptions']['properties']['networks'] |= _named(_ref(NetworkOptions))
    benchmark = defs['BenchmarkOptions']['properties']
    benchmark['networks'] |= _named({'allOf': [_ref(NetworkOptions), _ref(BenchmarkNetworkOptions)]})
    benchmark['attacks'] |= _named(_ref(BenchmarkAttackOptions))
    return {
        '$schema': 'https://json-schema.org/draft/2020-12/schema',
        'title': 'RSR-BasicSR options file',
        'type': 'object',
        'if': _has('model_type', 'network_g'),
        'then': _ref(RunOptions),
        'else': {
            'if': _has('photos', 'kinds', 'count'),
            'then': _ref(AdversarialSetOptions),
            'else': _ref(BenchmarkOptions),
        },
        '$defs': defs,
    }


def _ref(model: type[Block]) -> dict[str, Any]:
    return {'$ref': f'#/$defs/{model.__name__}'}


def _has(*names: str) -> dict[str, Any]:
    return {'anyOf': [{'required': [name]} for name in names]}


def _of_type(name: str, then: dict[str, Any]) -> dict[str, Any]:
    return {'if': {'properties': {'type': {'const': name}}, 'required': ['type']}, 'then': then}


def _named(block: dict[str, Any]) -> dict[str, Any]:
    """Blocks by names of the user's choice; one without a value is taken out."""
    return {'type': 'object', 'additionalProperties': {'anyOf': [block, {'type': 'null'}]}}


def with_tables(text: str) -> str:
    """The text of a Markdown file with every marked table as the models have it.

    Raises:
        OptionsError: a marker names no table.
    """

    def table(found: re.Match[str]) -> str:
        begin, name, end = found.groups()
        if name not in TABLES:
            raise OptionsError(f'<!-- table of {name} -->: there is none; write one of {", ".join(TABLES)}')
        rows = '\n'.join(f'| {" | ".join(row)} |' for row in _rows(TABLES[name]))
        return f'{begin}| key | values (default) | meaning |\n|---|---|---|\n{rows}\n{end}'

    return _MARKED.sub(table, text)


def _rows(model: type[Block], prefix: str = '') -> Iterator[tuple[str, str, str]]:
    schema = model.model_json_schema()
    fields = sorted(model.model_fields.items(), key=lambda field: _FIRST.get(field[0], len(_FIRST)))
    for name, field in fields:
        entry = schema['properties'][name]
        inner = block_in(field.annotation)
        if inner is not None and 'values' not in entry and _values(entry) == 'a block':
            yield from _rows(inner, f'{name}: ')
            continue
        values = ', '.join(filter(None, (entry.get('values') or _values(entry), entry.get('unit'))))
        default = 'required' if field.is_required() else entry.get('by_default') or _default(entry.get('default'))
        yield f'`{prefix}{name}`', f'{values}{f" ({default})" if default else ""}', str(field.description)


def _values(entry: dict[str, Any]) -> str:
    """What an entry takes, in words."""
    members = [one for key in ('anyOf', 'oneOf', 'allOf') for one in entry.get(key, ()) if one != {'type': 'null'}]
    if members:
        return ', or '.join(map(_values, members))
    if '$ref' in entry:
        return 'a block'
    if 'enum' in entry:
        return ', '.join(f'`{word}`' for word in entry['enum'])
    kind = entry['type']
    if kind == 'number':
        return '0 to 1' if entry.get('maximum') == 1 else 'number'
    if kind == 'array':
        return '[low, high]' if entry.get('maxItems') == 2 else 'list'
    return {'boolean': 'true, false', 'integer': 'whole number', 'string': 'text', 'object': 'block'}[kind]


def _default(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f'{value:g}'
    if isinstance(value, list) and value:
        return f'[{", ".join(map(_default, value))}]'
    return f'`{value}`' if isinstance(value, str) and value else ''
