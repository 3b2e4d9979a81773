"""``rsr check`` of whole files: those in order, those of other kinds, and those that are none."""

import copy
import os
import random
import re

import pytest
import torch
from basicsr.archs import build_network
from training_files import GAN, GENERAL, check, in_order

from helpers import read, shrink, write
from rsr_basicsr.check.survey import survey
from rsr_basicsr.cli import main


def small_photos(warning):
    return warning.startswith('datasets.train: ') and 'filled up to 400x400' in warning


@pytest.mark.parametrize('name', [GENERAL, GAN])
@pytest.mark.parametrize('defended', [True, False], ids=['defended', 'plain'])
def test_a_file_in_order_passes_and_nothing_is_written(name, defended, photos, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opt = in_order(shrink(read(name), photos))
    if not defended:
        opt['model_type'], opt['network_g']['type'] = opt['model_type'][8:], opt['network_g']['type'][8:]
        del opt['attack'], opt['network_g']['defense'], opt['val']['attack'], opt['val']['panel_freq']
        for key in ('train_classifier', 'optim_classifier', 'classifier_opt', 'target'):
            opt['train'].pop(key, None)
    errors, warnings, facts = check(opt, tmp_path, capsys)
    assert errors == [] and all(map(small_photos, warnings)) and os.listdir(tmp_path) == ['o.yml']
    assert facts[0].endswith('o.yml: a training (rsr train)')
    assert 'datasets.val.dataroot_lq: 5 images, 16x16' in facts
    assert any(fact.startswith('memory: ') and 'GiB per sample' in fact for fact in facts)
    assert any('attacks nothing; rsr defend' in fact for fact in facts) is not defended
    masks = [fact for fact in facts if fact.startswith('mask ')]
    assert masks[:1] == (['mask 1, input: the image, 3 x 16 x 16'] if defended else [])


def test_a_test_is_none_of_a_training(opt, pairs, tmp_path, capsys):
    torch.save({'params': build_network(dict(opt['network_g'])).state_dict()}, tmp_path / 'w.pth')
    test = {key: opt[key] for key in ('name', 'model_type', 'scale', 'num_gpu', 'manual_seed', 'network_g')}
    test.update(
        val={'save_img': False},
        path={'pretrain_network_g': str(tmp_path / 'w.pth')},
        datasets={
            'test_1': {
                'name': 'a',
                'type': 'PairedImageDataset',
                'dataroot_gt': str(pairs / 'gt'),
                'dataroot_lq': str(pairs / 'lq'),
                'io_backend': {'type': 'disk'},
            }
        },
    )
    errors, warnings, facts = check(test, tmp_path, capsys)
    assert (errors, warnings) == ([], []) and facts[0].endswith('a test (rsr test)')
    assert f'path.pretrain_network_g: {tmp_path / "w.pth"} has params; it fits DefendedSRVGGNetCompact' in facts
    test['val']['save_img'], test['datasets']['Set5'] = True, test['datasets'].pop('test_1')
    errors, _, _ = check(test, tmp_path, capsys)
    assert [error.split(',')[0] for error in errors] == [
        'datasets.Set5: BasicSR knows data sets by names such as test_1',
        "val: the key 'suffix' is missing",
    ]


def test_an_experiment_of_that_name_and_keys_that_stand_twice(opt, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'experiments' / opt['name']).mkdir(parents=True)
    file = write(opt, tmp_path / 'o.yml')
    file.write_text(f'{file.read_text()}scale: 4\n')
    assert main(['check', '-opt', 'o.yml', '--no-memory', '--decode', '0']) == 0
    out = capsys.readouterr().out
    assert re.search(r'scale is in line \d+ and again in line \d+, which counts; remove one of them', out)
    assert f'name: experiments/{opt["name"]} exists; BasicSR will rename it' in out and '0 errors, 2 warn' in out


@pytest.mark.parametrize(
    'content, sentence',
    [
        ({'photos': 'nowhere', 'count': 5, 'kinds': {'reduced': 1}}, 'photos: '),
        ({'photos': 'nowhere', 'count': 5, 'kindz': {'reduced': 1}}, "unknown key 'kindz'; did you mean 'kinds'?"),
        (
            {'name': 'a', 'networks': {}, 'attacks': {}, 'epz': [8], 'datasets': {}},
            "unknown key 'epz'; did you mean 'eps'",
        ),
    ],
)
def test_sets_and_benchmarks(content, sentence, tmp_path, capsys):
    errors, _, _ = check(content, tmp_path, capsys)
    assert any(sentence in error for error in errors)


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'a: [1',
        b'\x80\x04\x95',
        b'[]',
        b'a: 2001-99-99',
        b'[' * 600,
        b'a: !!int x',
        b'a: !!python/object/apply:os.system ["touch ran"]',
    ],
    ids=range(8),
)
def test_files_that_are_none(content, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'o.yml').write_bytes(content)
    assert main(['check', 'o.yml']) == 2
    out, err = capsys.readouterr()
    assert out == '' and err.startswith('rsr check: -opt o.yml') and len(err.splitlines()) == 1
    assert os.listdir(tmp_path) == ['o.yml']


def test_malformed_options_end_in_sentences(opt, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    odd = [None, [], {}, {'type': 5}, 'x', -1, float('nan'), 10**400, [[1]], True, {1: 2}, '{']
    aliases = 'a: &a [x, x, x, x, x, x, x, x]\n' + ''.join(
        f'{name}: &{name} [{", ".join([f"*{before}"] * 8)}]\n' for before, name in zip('abcdefghijk', 'bcdefghijkl')
    )
    for seed in range(25):
        broken, draw = copy.deepcopy(opt), random.Random(seed)
        for _ in range(draw.choice([1, 2, 5, 20])):
            place, key = draw.choice(list(places(broken)))
            place[key] = copy.deepcopy(draw.choice(odd))
        found = survey(str(write(broken, tmp_path / 'o.yml')), decoded=0, count_memory=False)
        assert all('\n' not in sentence for sentence in found)
    text = write(opt, tmp_path / 'o.yml').read_text()
    (tmp_path / 'o.yml').write_text(f'{aliases}{text}train: *l\nnetwork_g: &n\n  type: RRDBNet\n  defense: *n\n')
    found = survey('o.yml', count_memory=False)
    assert [len(sentence) < 400 for sentence in found if sentence.startswith('train: expected a block')] == [True]


def places(block):
    for key, value in block.items():
        yield block, key
        if isinstance(value, dict):
            yield from places(value)
