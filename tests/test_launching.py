"""The process group of a launcher: which GPU a process takes, which backend, and how long it waits."""

import os
import socket
import stat
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from helpers import paired_options, write
from rsr_basicsr import launching
from rsr_basicsr.cli import main
from rsr_basicsr.launching import init_dist, local_device
from rsr_basicsr.utils.errors import OptionsError

SLURM = {'SLURM_PROCID': '5', 'SLURM_NTASKS': '6', 'SLURM_LOCALID': '1', 'SLURM_NODELIST': 'a[1-2]'}


@pytest.fixture
def environment(monkeypatch):
    """Sets variables of this process, among them a free port; what a run adds is taken back."""
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        port = listener.getsockname()[1]
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK='0', WORLD_SIZE='1', LOCAL_RANK='0')
    monkeypatch.setattr(multiprocessing, 'set_start_method', lambda method: None)
    return os.environ


@pytest.fixture
def four_gpus(monkeypatch, environment):
    """Four GPUs that are not there; returns what would have been called."""
    calls = {}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 4)
    monkeypatch.setattr(torch.cuda, 'set_device', lambda device: calls.update(device=device))
    monkeypatch.setattr(dist, 'is_nccl_available', lambda: True)
    monkeypatch.setattr(
        dist, 'init_process_group', lambda backend, **arguments: calls.update(backend=backend, **arguments)
    )
    return calls


@pytest.mark.parametrize(
    'launcher, gpus, environment, expected',
    [
        # Rank 5 is the second process of a machine with two GPUs, behind one with four: 5 % 2 is right by chance.
        ('pytorch', 2, {'RANK': '5', 'LOCAL_RANK': '1', 'LOCAL_WORLD_SIZE': '2'}, 1),
        ('pytorch', 4, {'RANK': '5', 'LOCAL_RANK': '3', 'LOCAL_WORLD_SIZE': '4'}, 3),
        # Two processes on each machine with four GPUs: rank 2 is the first one of the second machine.
        ('pytorch', 4, {'RANK': '2', 'LOCAL_RANK': '0', 'LOCAL_WORLD_SIZE': '2'}, 0),
        ('pytorch', 4, {'RANK': '6'}, 2),  # no launcher, variables set by hand: as BasicSR
        ('slurm', 4, {**SLURM, 'SLURM_LOCALID': '2'}, 2),
        ('slurm', 1, {**SLURM, 'SLURM_LOCALID': '2'}, 0),  # slurm shows each task its own GPU
    ],
)
def test_device_is_the_local_rank(launcher, gpus, environment, expected):
    assert local_device(launcher, gpus, environment) == expected


@pytest.mark.parametrize(
    'launcher, gpus, environment, sentence',
    [
        (
            'pytorch',
            2,
            {'LOCAL_RANK': '0', 'LOCAL_WORLD_SIZE': '4'},
            r'--launcher pytorch: 4 processes on this machine, but torch sees 2 GPUs; start them with '
            r'--nproc_per_node=2, or write num_gpu: 0',
        ),
        ('pytorch', 1, {'LOCAL_RANK': '1'}, '2 processes on this machine, but torch sees 1 GPU;'),
        ('slurm', 2, {**SLURM, 'SLURM_LOCALID': '2'}, '3 processes .* sees 2 GPUs; .*--ntasks-per-node=2'),
        (
            'slurm',
            2,
            {**SLURM, 'SLURM_LOCALID': '0', 'SLURM_STEP_TASKS_PER_NODE': '2(x2),3', 'SLURM_NODEID': '2'},
            '3 processes .* sees 2 GPUs',
        ),
    ],
)
def test_more_processes_than_gpus_are_refused(launcher, gpus, environment, sentence):
    with pytest.raises(OptionsError, match=sentence):
        local_device(launcher, gpus, environment)


def test_gpus_take_nccl_alone_with_their_device(four_gpus, environment):
    environment['LOCAL_RANK'] = '3'
    init_dist('pytorch', timeout=90)
    device = torch.device('cuda', 3)
    assert four_gpus == {'backend': 'nccl', 'device': device, 'device_id': device, 'timeout': timedelta(seconds=90)}


@pytest.mark.parametrize('num_gpu, backend, devices', [(0, 'nccl', 0), (4, 'gloo', 1)])
def test_gloo_gets_no_device(num_gpu, backend, devices, four_gpus):
    init_dist('pytorch', backend, num_gpu=num_gpu)
    assert four_gpus.pop('backend') == 'gloo' and len(four_gpus) == devices and 'device_id' not in four_gpus


@pytest.mark.parametrize('launcher', ['pytorch', 'slurm'])
def test_timeout_of_a_real_group(launcher, environment, tmp_path):
    environment.update(SLURM_PROCID='0', SLURM_NTASKS='1', SLURM_LOCALID='0', PATH=str(tmp_path))  # no scontrol
    init_dist(launcher, timeout=123)
    try:
        backend = dist.group.WORLD._get_backend(torch.device('cpu'))
        assert backend.options._timeout == timedelta(seconds=123)
    finally:
        dist.destroy_process_group()


def test_slurm_names_its_first_machine(environment, tmp_path):
    """The list of the step, not of the job, is given to slurm's own command, by no shell."""
    scontrol = tmp_path / 'scontrol'
    scontrol.write_text('#!/bin/sh\n[ "$3" = "b[4-5]; true" ] && echo b4 && echo b5\n')
    scontrol.chmod(scontrol.stat().st_mode | stat.S_IXUSR)
    environment.update(SLURM, PATH=f'{tmp_path}:{environment["PATH"]}', SLURM_STEP_NODELIST='b[4-5]; true')
    launching._name_first_machine(1234)
    found = [environment[name] for name in ('MASTER_ADDR', 'MASTER_PORT', 'RANK', 'WORLD_SIZE', 'LOCAL_RANK')]
    assert found == ['b4', '1234', '5', '6', '1']
    environment['PATH'] = ''
    del environment['MASTER_ADDR']
    with pytest.raises(OptionsError, match='scontrol does not name the first machine; set MASTER_ADDR'):
        launching._name_first_machine(None)


@pytest.mark.parametrize(
    'key, value, sentence',
    [
        ('timeout', 0, 'dist_params.timeout: expected a number above 0, got 0'),
        ('backend', 'mpi', "dist_params.backend: expected one of nccl, gloo, got 'mpi'"),
        ('port', 70000, 'dist_params.port: expected a whole number of at least 1 and at most 65535, got 70000'),
        ('timout', 60, "dist_params: unknown key 'timout'; did you mean 'timeout'?"),
    ],
)
def test_wrong_dist_params_are_named(key, value, sentence, pairs, photos, tmp_path, monkeypatch, capsys):
    opt = paired_options(pairs, photos=photos)
    opt['dist_params'] = {key: value}
    monkeypatch.chdir(tmp_path)
    assert main(['train', '-opt', str(write(opt, tmp_path / 'o.yml'))]) == 2
    assert sentence in capsys.readouterr().err
