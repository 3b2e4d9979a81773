"""What docs/method.md says is where it says, and its options are options."""

import re
from pathlib import Path

import pytest
import yaml

from rsr_basicsr.options.blocks import ATTACK, DEFENSE, TRAIN
from rsr_basicsr.options.schema import parse_block, parse_open

ROOT = Path(__file__).parents[1]
SECTIONS = re.split(r'^## ', (ROOT / 'docs' / 'method.md').read_text(encoding='utf-8'), flags=re.MULTILINE)


def rows(title):
    section = next(section for section in SECTIONS if section.startswith(title))
    return [[cell.strip() for cell in line.strip('|').split('|')] for line in section.splitlines()
            if line.startswith('| ') and not line.startswith('| |')]


EQUATIONS = [row for row in rows('Every equation')[1:] if row[1]]


@pytest.mark.parametrize('what, files, names', EQUATIONS, ids=[row[0] for row in EQUATIONS])
def test_every_equation_is_where_the_table_says(what, files, names):
    paths = [ROOT / 'rsr_basicsr' / file for file in re.findall(r'`([^`]+\.(?:py|yml))`', files)]
    assert paths and all(path.is_file() for path in paths)
    source = '\n'.join(path.read_text(encoding='utf-8') for path in paths)
    found = re.findall(r'`([A-Za-z_.0-9]+)`', names)
    assert found or not names or '-opt' in names
    for name in found:
        for part in filter(None, name.split('.')):
            assert re.search(rf'(def|class) {part}\b|^@?{part}\b', source, flags=re.MULTILINE), f'{name} in {files}'


def test_published_ways_are_options():
    options = [yaml.safe_load(code) for row in rows('The paper, the published code') + rows('Beyond the paper')
               for code in re.findall(r'`([a-z]+: [^`]+)`', row[4] if len(row) > 4 else row[1])]
    assert len(options) >= 11
    for option in options:
        (block, values), = option.items()
        if block == 'defense':
            assert parse_block(values, DEFENSE, block)
        elif block == 'train':
            parse_open(values, TRAIN, block)
        elif block == 'attack':
            parse_block({'type': 'IFGSM', 'eps': 8, 'steps': 3, **values}, ATTACK, block)
        else:
            parse_block({'type': 'IFGSM', 'eps': 8, 'steps': 3, **option}, ATTACK, 'attack')
