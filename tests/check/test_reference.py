"""The JSON schema and the tables of options: valid, complete, and of one mind with the check."""

import json
import re

import pytest
import yaml
from jsonschema import Draft202012Validator

from helpers import OPTIONS
from rsr_basicsr.check.reference import TABLES, json_schema, with_tables
from rsr_basicsr.cli import main
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.parsing import parse_block
from rsr_basicsr.utils.errors import OptionsError

DOCS = OPTIONS.parent / 'docs' / 'options.md'
FILES = sorted(OPTIONS.rglob('*.yml'))
TRAIN = OPTIONS / 'train' / 'train_defended_realesrnet_x4plus.yml'
BENCHMARK = next(file for file in FILES if file.parent.name == 'benchmark')
SET = next(file for file in FILES if file.parent.name == 'adversarial_set' and 'attacks:' in file.read_text())


@pytest.fixture(scope='module')
def validator():
    return Draft202012Validator(json_schema())


def problems(validator, opt):
    """Where the schema refuses a file, with all branches of its unions."""
    found, open_errors = [], list(validator.iter_errors(opt))
    while open_errors:
        error = open_errors.pop()
        open_errors += error.context or ()
        found.append((':'.join(map(str, error.absolute_path)), error.message))
    return found


def test_the_schema_is_printed_and_is_one(capsys):
    assert main(['options', '--schema']) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json_schema() and printed['$schema'] == 'https://json-schema.org/draft/2020-12/schema'
    Draft202012Validator.check_schema(printed)


@pytest.mark.parametrize('file', FILES, ids=lambda file: file.name)
def test_committed_files_fit_the_schema(file, validator):
    assert problems(validator, yaml.safe_load(file.read_text())) == []


@pytest.mark.parametrize(
    'file, path',
    [
        (TRAIN, 'attack'),
        (TRAIN, 'network_g:defense'),
        (TRAIN, 'network_g:defense:mask'),
        (TRAIN, 'network_g:defense:classifier'),
        (TRAIN, 'train:classifier_opt'),
        (TRAIN, 'val:attack'),
        (BENCHMARK, ''),
        (SET, ''),
        (SET, 'attacks:0'),
    ],
    ids=str,
)
def test_a_misspelt_key_of_ours_does_not_fit(file, path, validator):
    opt = yaml.safe_load(file.read_text())
    place = opt
    for part in filter(None, path.split(':')):
        place = place[int(part)] if part.isdigit() else place.setdefault(part, {})
    place['misspelt'] = 1
    assert any(where == path and "'misspelt' was unexpected" in message for where, message in problems(validator, opt))


def test_keys_of_basicsr_fit(validator):
    opt = yaml.safe_load(TRAIN.read_text())
    opt['anything'] = opt['train']['anything'] = opt['val']['anything'] = opt['network_g']['anything'] = 1
    assert problems(validator, opt) == []


@pytest.mark.parametrize(
    'key, value, fits',
    [
        ('eps', 4, True),
        ('eps', [1, 8], True),
        ('eps', [1, 8, 9], False),
        ('steps', 0, False),
        ('steps', None, True),
        ('mode', None, True),
        ('mode', 'half', False),
        ('share', 1.5, False),
        ('share', 0, False),
        ('clamp', 'end', True),
        ('clamp', False, True),
        ('clamp', 'late', False),
        ('keep_best', 1, False),
        ('region', [0, 0, 0.5, 2], False),
        ('objective', 'training_loss', True),
        ('objective', {'type': 'perceptual'}, True),
        ('objective', {'backbone': 'a.pth'}, False),
        ('attacks', [{'type': 'PGD', 'steps': 2}], True),
        ('attacks', [{'type': 'PGD', 'eps': 2}], False),
    ],
    ids=str,
)
def test_schema_and_check_agree(key, value, fits, validator):
    opt = yaml.safe_load(TRAIN.read_text())
    opt['attack'][key] = value
    assert (problems(validator, opt) == []) == fits
    try:
        parse_block(opt['attack'], AttackOptions, 'attack')
    except OptionsError:
        assert not fits
    else:
        assert fits


def test_keys_are_described(validator):
    attack = validator.schema['$defs']['AttackOptions']['properties']
    assert attack['step_size']['unit'] == '1/255' and attack['mode']['default'] == 'paired'
    ours = [name for name in validator.schema['$defs'] if name not in ('RunOptions', 'BenchmarkNetworkOptions')]
    for name in ours:
        for key, entry in validator.schema['$defs'][name]['properties'].items():
            assert entry.get('description'), f'{name}.{key}'


def test_the_tables_of_the_docs_are_those_of_the_models():
    text = DOCS.read_text(encoding='utf-8')
    assert with_tables(text) == text, 'run python scripts/generate_options_tables.py'
    assert re.findall('<!-- table of (.*) -->', text) == list(TABLES)
    with pytest.raises(OptionsError, match='nothing.*there is none; write one of network_g.defense'):
        with_tables('<!-- table of nothing -->\n<!-- end of table -->')
