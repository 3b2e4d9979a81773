"""The process group of a run that torchrun or slurm starts: device, backend and timeout of each process."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch import multiprocessing

from rsr_basicsr.utils.errors import OptionsError

_PORT = 29500  # torch.distributed's default
#: Environment variables of this process's number on its machine
_LOCAL_RANK = {'pytorch': 'LOCAL_RANK', 'slurm': 'SLURM_LOCALID'}


def init_dist(
    launcher: str,
    backend: str = 'nccl',
    *,
    num_gpu: int | str = 'auto',
    timeout: float | None = None,
    port: int | None = None,
) -> None:
    """Replaces BasicSR's function of this name: make the process group, and choose the GPU of this process.

    With GPUs there is NCCL alone: no collective of BasicSR or this package is on CPU tensors, and gloo beside it would
    need a network interface of its own on several machines.

    Args:
        launcher: ``pytorch`` or ``slurm``.
        backend: with GPUs; without, it is gloo.
        num_gpu: of the options; 0 means no GPU, even if there is one.
        timeout: seconds that a process waits for the others; None for torch's default.
        port: of the first process, started by slurm; None takes MASTER_PORT of the environment, or 29500.

    Raises:
        OptionsError: there are more processes than GPUs on this machine, or slurm's first machine is not known.
    """
    # As BasicSR does: a forked loader worker may not use CUDA.
    if multiprocessing.get_start_method(allow_none=True) is None:
        multiprocessing.set_start_method('spawn')
    if launcher == 'slurm':
        _name_first_machine(port)
    arguments: dict[str, Any] = {} if timeout is None else {'timeout': timedelta(seconds=timeout)}
    if num_gpu == 0 or not torch.cuda.is_available():
        backend = 'gloo'
    else:
        device = torch.device('cuda', local_device(launcher, torch.cuda.device_count(), os.environ))
        torch.cuda.set_device(device)
        if backend == 'nccl' and not dist.is_nccl_available():  # Windows
            backend = 'gloo'
        if backend == 'nccl':
            arguments['device_id'] = device  # or a barrier has to guess it
    dist.init_process_group(backend, **arguments)


def local_device(launcher: str, gpus: int, environment: Mapping[str, str]) -> int:
    """Number of the GPU for this process.

    Args:
        launcher: ``pytorch`` or ``slurm``.
        gpus: how many this process sees.
        environment: variables of this process.

    Raises:
        OptionsError: there are more processes than GPUs on this machine.
    """
    if launcher == 'slurm' and gpus == 1:
        return 0  # slurm shows each task its own GPU, as with --gpus-per-task=1
    rank = environment.get(_LOCAL_RANK[launcher])
    if rank is None:  # set by hand, as RANK is
        return int(environment.get('RANK', 0)) % gpus
    processes = max(int(rank) + 1, _processes_here(launcher, environment))
    if processes > gpus:
        flag = '--nproc_per_node' if launcher == 'pytorch' else '--ntasks-per-node'
        raise OptionsError(
            f'--launcher {launcher}: {processes} processes on this machine, but torch sees {gpus} GPU'
            f'{"s" * (gpus != 1)}; start them with {flag}={gpus}, or write num_gpu: 0 to train on the CPU'
        )
    return int(rank)


def _processes_here(launcher: str, environment: Mapping[str, str]) -> int:
    """Number of processes on this machine, so that all of them refuse to start; 0 where it is not known."""
    if launcher == 'pytorch':
        return int(environment.get('LOCAL_WORLD_SIZE', 0))
    # For example 4(x2),3: four tasks on each of two machines, and three on the last one.
    counts: list[int] = []
    for tasks, machines in re.findall(r'(\d+)(?:\(x(\d+)\))?', environment.get('SLURM_STEP_TASKS_PER_NODE', '')):
        counts += int(machines or 1) * [int(tasks)]
    number = int(environment.get('SLURM_NODEID', 0))
    return counts[number] if number < len(counts) else 0


def _name_first_machine(port: int | None) -> None:
    """Set the environment variables that torch reads, from those of slurm.

    Raises:
        OptionsError: the name of the first machine is not known.
    """
    environment = os.environ
    nodes = environment.get('SLURM_STEP_NODELIST', environment.get('SLURM_NODELIST', ''))
    try:
        found = subprocess.run(
            ['scontrol', 'show', 'hostnames', nodes], capture_output=True, text=True, check=True
        ).stdout.split()
    except (OSError, subprocess.CalledProcessError):  # scontrol is often missing in a container
        found = []
    if found:
        environment['MASTER_ADDR'] = found[0]
    elif 'MASTER_ADDR' not in environment:
        raise OptionsError(
            '--launcher slurm: scontrol does not name the first machine; set MASTER_ADDR to its name before srun'
        )
    environment['MASTER_PORT'] = str(port or environment.get('MASTER_PORT', _PORT))
    environment['RANK'], environment['WORLD_SIZE'] = environment['SLURM_PROCID'], environment['SLURM_NTASKS']
    environment['LOCAL_RANK'] = environment.get('SLURM_LOCALID', '0')
