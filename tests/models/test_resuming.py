"""A resume with other options than the training state: other learning rates, another network."""

import json
import os
import re

import pytest
import torch

from helpers import paired_options, train, write
from rsr_basicsr.cli import main
from rsr_basicsr.models import DefendedSRModel


@pytest.fixture
def opt(pairs, photos):
    opt = paired_options(pairs, photos=photos, iterations=2)
    opt['train']['scheduler'] = {'type': 'MultiStepLR', 'milestones': [3], 'gamma': 0.5}
    opt['train']['optim_g']['lr'] = 1e-4
    opt['logger'].update(save_checkpoint_freq=2, print_freq=1)
    return opt


def rates(folder):
    """Learning rate per iteration, from the last log."""
    log = max(folder.glob('train_*.log'), key=lambda path: path.stat().st_mtime).read_text()
    found = re.findall(r'iter: +(\d+), lr:\(([\d.e-]+),', log)
    return {int(number): float(rate) for number, rate in found}, log


@pytest.mark.parametrize(
    'source, expected', [(None, {3: 1e-4, 4: 5e-5, 5: 5e-5}), ('options', {3: 1e-6, 4: 1e-7, 5: 1e-7})]
)
def test_edited_learning_rates(source, expected, opt, tmp_path, monkeypatch):
    train(opt, tmp_path, monkeypatch)
    opt['train'].update(total_iter=5)
    opt['train']['optim_g']['lr'] = 1e-6
    opt['train']['scheduler']['gamma'] = 0.1
    if source:
        opt['train']['resume_from'] = source
    folder = train(opt, tmp_path, monkeypatch, '--auto_resume')
    found, log = rates(folder)
    assert found == pytest.approx(expected)
    said = (
        'goes on with lr 0.0001 (the options: 1e-06); gamma 0.5 (the options: 0.1). Write train: resume_from: options'
    )
    assert (said in log) == (source is None)


def test_same_options_say_nothing(opt, tmp_path, monkeypatch):
    train(opt, tmp_path, monkeypatch)
    opt['train'].update(total_iter=4)
    found, log = rates(train(opt, tmp_path, monkeypatch, '--auto_resume'))
    assert found == pytest.approx({3: 1e-4, 4: 5e-5}) and 'goes on with' not in log


def test_moments_are_kept_with_rates_of_the_options(opt, tmp_path, monkeypatch):
    train(opt, tmp_path, monkeypatch)
    opt['train'].update(total_iter=4, resume_from='options')
    opt['train']['optim_g'].update(lr=1e-6, betas=[0.5, 0.99])
    folder = train(opt, tmp_path, monkeypatch, '--auto_resume')
    state = torch.load(folder / 'training_states' / '4.state', weights_only=False)['optimizers'][0]
    assert list(state['param_groups'][0]['betas']) == [0.5, 0.99] and state['state'][0]['step'] == 4


@pytest.mark.parametrize(
    'error, sentence',
    [
        (
            'CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has',
            'out of memory (Tried to allocate 9.00 GiB); take a',
        ),
        ('CUDA error: unspecified launch failure', 'the GPU has failed (CUDA error: unspecified launch failure)'),
    ],
)
def test_checkpoints_are_kept_without_memory(error, sentence, opt, tmp_path, monkeypatch, capsys):
    folder = train(opt, tmp_path, monkeypatch)
    kept = {path: path.read_bytes() for path in folder.rglob('*') if path.suffix in ('.pth', '.state')}
    opt['train']['total_iter'] = 4
    with monkeypatch.context() as patch:
        patch.setattr(DefendedSRModel, 'optimize_parameters', lambda *_: _raise(RuntimeError(error)))
        assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml')), '--auto_resume']) == 1
    said = capsys.readouterr().err
    assert 'Traceback' not in said and said.splitlines()[-1].startswith(f'rsr train: {sentence}')
    assert said.rstrip().endswith('; continue with --auto_resume')
    assert kept and {path: path.read_bytes() for path in kept} == kept
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    assert (folder / 'training_states' / '4.state').is_file()


def _raise(error):
    raise error


def test_another_network(opt, tmp_path, monkeypatch, capsys):
    train(opt, tmp_path, monkeypatch)
    opt['network_g']['num_feat'] = 12
    file = write(opt, tmp_path / 'other.yml')
    assert main(['train', '-opt', str(file), '--auto_resume']) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith('rsr train: ') and 'net_g_2.pth holds weights of another network: body.0.weight is' in last
    assert last.endswith('resume with the network_g that the training began with, or rename it')


@pytest.mark.parametrize('lost', ['whole', 'second data set', 'nothing'])
def test_validation_behind_a_checkpoint_is_made_up(lost, opt, pairs, tmp_path, monkeypatch):
    """A kill after the checkpoint of an iteration and before the end of its validation."""
    gt, lq = pairs / 'gt', pairs / 'lq'
    backend = {'type': 'disk'}
    val = {'type': 'PairedImageDataset', 'dataroot_gt': str(gt), 'dataroot_lq': str(lq), 'io_backend': backend}
    opt['datasets'].update(val={**val, 'name': 'first'}, val_2={**val, 'name': 'second'})
    opt['val'] = {'val_freq': 2, 'save_img': True, 'metrics': {'psnr': {'type': 'calculate_psnr', 'crop_border': 4}}}
    folder = train(opt, tmp_path, monkeypatch)
    images = sorted((folder / 'visualization').rglob('*_2.png'))
    note = folder / 'validated.json'
    assert images and json.loads(note.read_text())['iteration'] > 2  # the validation at the end
    if lost == 'nothing':
        (folder / 'visualization' / '.x.png.0123456789ab.part').write_bytes(b'')
        os.utime(folder / 'visualization' / '.x.png.0123456789ab.part', (0, 0))
    else:
        names = ['first'] if lost == 'second data set' else []
        note.write_text(json.dumps({'iteration': 2, 'datasets': names}))
    for path in images:
        path.unlink()
    opt['train'].update(total_iter=3)
    _, log = rates(train(opt, tmp_path, monkeypatch, '--auto_resume'))
    made_up = re.findall(r'Validation of iteration 2 was not finished; it is made up: (.*)\.', log)
    assert made_up == {'whole': ['first, second'], 'second data set': ['second'], 'nothing': []}[lost]
    assert all(path.exists() == (lost != 'nothing') for path in images)
    assert not list(folder.rglob('*.part'))
