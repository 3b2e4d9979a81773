"""docs/method.md points to existing code and options, and the code in the documents runs."""

import re
from pathlib import Path

import cv2
import pytest
import torch
import yaml
from basicsr.losses import build_loss
from torch import nn

from networks import DefendedGain, Gain
from rsr_basicsr import attacks
from rsr_basicsr.options.attack_blocks import AttackOptions
from rsr_basicsr.options.blocks import DefenseOptions, TrainOptions
from rsr_basicsr.options.parsing import parse_block, parse_open

ROOT = Path(__file__).parents[1]
SECTIONS = re.split(r'^## ', (ROOT / 'docs' / 'method.md').read_text(encoding='utf-8'), flags=re.MULTILINE)


def rows(title):
    section = next(section for section in SECTIONS if section.startswith(title))
    return [
        [cell.strip() for cell in line.strip('|').split('|')]
        for line in section.splitlines()
        if line.startswith('| ') and not line.startswith('| |')
    ]


EQUATIONS = [row for row in rows('Every equation')[1:] if row[1]]


@pytest.mark.parametrize('what, files, names', EQUATIONS, ids=[row[0] for row in EQUATIONS])
def test_equations_are_in_the_named_files(what, files, names):
    paths = [ROOT / 'rsr_basicsr' / file for file in re.findall(r'`([^`]+\.(?:py|yml))`', files)]
    assert paths and all(path.is_file() for path in paths)
    source = '\n'.join(path.read_text(encoding='utf-8') for path in paths)
    found = re.findall(r'`([A-Za-z_.0-9]+)`', names)
    assert found or not names or '-opt' in names
    for name in found:
        for part in filter(None, name.split('.')):
            assert re.search(rf'(def|class) {part}\b|^@?{part}\b', source, flags=re.MULTILINE), f'{name} in {files}'


def test_published_variants_are_options():
    options = [
        yaml.safe_load(code)
        for row in rows('The paper, the published code') + rows('Beyond the paper')
        for code in re.findall(r'`([a-z]+: [^`]+)`', row[4] if len(row) > 4 else row[1])
    ]
    assert len(options) >= 24
    for option in options:
        ((block, values),) = option.items()
        if block == 'defense':
            assert parse_block(values, DefenseOptions, block)
        elif block == 'train':
            parse_open(values, TrainOptions, block)
        elif block == 'pixel_opt':
            build_loss(values)
        elif block == 'path':
            assert set(values) <= {'pretrain_network_g'}  # of BasicSR
        elif block == 'attack':
            parse_block({'type': 'IFGSM', 'eps': 8, 'steps': 3, **values}, AttackOptions, block)
        else:
            parse_block({'type': 'IFGSM', 'eps': 8, 'steps': 3, **option}, AttackOptions, 'attack')


def code(path, title):
    section = (ROOT / path).read_text(encoding='utf-8').split(f'## {title}')[1].split('\n## ')[0]
    return re.findall(r'```python\n(.*?)```', section, flags=re.DOTALL)


SNIPPETS = [('docs/attacks.md', title) for title in ('Attacks that know the defence', 'Is it robust', 'Arguments of')]
SNIPPETS += [('docs/training.md', 'From weights and photos'), ('docs/attacks.md', 'Attack your own network')]
SNIPPETS += [('docs/stability.md', 'In Python')]
SNIPPETS += [('docs/python.md', title) for title in ('Upscale', 'Detect', 'Measure stability')]


@pytest.mark.parametrize('path, title', SNIPPETS)
def test_code_in_the_documents_runs(path, title, tmp_path, monkeypatch, capsys, photo):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('photo.png', (photo[0, :, :12, :12] * 255).permute(1, 2, 0).numpy())
    Path('photos').mkdir()
    cv2.imwrite('photos/photo.png', (photo[0, :, :20, :20] * 255).permute(1, 2, 0).numpy())
    # The smallest classifier: the attacks ask it thousands of times.
    net = DefendedGain(defense={'classifier': {'type': 'paper', 'weights': 'untrained'}}).eval()
    known = {
        'net': net,
        'lq': torch.rand(1, 3, 8, 8),
        'another_net': nn.Upsample(None, 2),
        'MyNetwork': Gain,
        **{name: getattr(attacks, name) for name in attacks.__all__},
    }
    snippets = code(path, title)
    assert snippets
    for snippet in snippets:
        exec(snippet, known)
    if title == 'Attack your own network':
        noise, attack = map(float, re.findall(r'stability (\S+) dB', capsys.readouterr().out))
        assert attack <= noise


def test_first_example_of_the_attacks():
    (snippet,) = re.findall(r'```python\n(.*?)```', (ROOT / 'docs/attacks.md').read_text().split('\n## ')[0], re.DOTALL)
    known = {'net': Gain(), 'lq': torch.rand(1, 3, 8, 8), 'gt': torch.rand(1, 3, 16, 16)}
    exec(snippet, known)
    assert 3.9 < (known['attacked'] - known['lq']).abs().max() * 255 < 4.1
