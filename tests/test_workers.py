"""Loader workers: kept over epochs, with other random numbers in each, and after a resume."""

import itertools
import os
import random

import numpy as np
import pytest
import torch
from basicsr import train as basicsr_train
from torch.utils.data import Dataset

from helpers import paired_options, train
from rsr_basicsr.checkpoints import ResumingSampler
from rsr_basicsr.workers import LateCPUPrefetcher, LateCUDAPrefetcher

BLOCK = {'phase': 'train', 'num_worker_per_gpu': 2, 'batch_size_per_gpu': 1, 'persistent_workers': True}


class Numbers(Dataset):
    """Eight items: the process, the index, and a random number of each stream."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        streams = random.random(), np.random.random(), torch.rand((), dtype=torch.float64).item()
        return {'process': os.getpid(), 'index': index, 'streams': torch.tensor(streams, dtype=torch.float64)}


def epochs(seed=0, iteration=None, count=2, late=LateCPUPrefetcher, **changes):
    """Processes, indices and random numbers (24) of each epoch, taken as BasicSR's trainer takes them."""
    dataset = Numbers()
    ResumingSampler.resumed = None
    sampler = basicsr_train.EnlargedSampler(dataset, 1, 0)
    if iteration is not None:
        ResumingSampler.resumed = type('Resumed', (), {'state': {'iter': iteration, 'epoch': -1}})()
    torch.manual_seed(seed)
    try:
        loader = basicsr_train.build_dataloader(dataset, {**BLOCK, **changes}, 0, False, sampler, seed)
        prefetcher, found = late(loader), []
        for epoch in range(count):
            sampler.set_epoch(epoch)
            prefetcher.reset()
            items = list(iter(prefetcher.next, None))
            found.append(
                (
                    {item['process'].item() for item in items},
                    [item['index'].item() for item in items],
                    [number for item in items for number in item['streams'].flatten().tolist()],
                )
            )
    finally:
        ResumingSampler.resumed = None
    return found


@pytest.mark.parametrize('mode', [None, 'cpu'])
@pytest.mark.parametrize('kept', [True, False])
def test_epochs_differ(mode, kept):
    (processes, order, first), (again, other_order, second) = epochs(prefetch_mode=mode, persistent_workers=kept)
    assert len(processes) == 2 and os.getpid() not in processes and (again == processes) == kept
    assert sorted(order) == sorted(other_order) == list(range(8)) and order != other_order
    assert len(set(first + second)) == 2 * 8 * 3  # BasicSR's are those of the first epoch again


def test_random_numbers_depend_on_seed_and_iteration():
    first, again, other, resumed, later = (
        [numbers for _, _, numbers in epochs(**given)]
        for given in ({}, {}, {'seed': 1}, {'iteration': 100}, {'iteration': 101})
    )
    assert first == again
    assert len(set(itertools.chain(*first, *other, *resumed, *later))) == 4 * 2 * 8 * 3


def test_without_workers_there_is_nothing_to_keep():
    (processes, order, _), _ = epochs(num_worker_per_gpu=0)
    assert processes == {os.getpid()} and sorted(order) == list(range(8))
    loader = basicsr_train.build_dataloader(Numbers(), {**BLOCK, 'phase': 'val'})
    assert not loader.persistent_workers and loader.num_workers == 0


def test_prefetcher_of_cuda_starts_workers_once(monkeypatch):
    """Without a GPU: its streams are replaced, and num_gpu is 0."""

    class Stream:
        def wait_stream(self, other): ...
        def __enter__(self): ...
        def __exit__(self, *error): ...

    monkeypatch.setattr(torch.cuda, 'Stream', Stream)
    monkeypatch.setattr(torch.cuda, 'stream', lambda stream: stream)
    monkeypatch.setattr(torch.cuda, 'current_stream', Stream)
    (processes, order, first), (again, _, second) = epochs(
        late=lambda loader: LateCUDAPrefetcher(loader, {'num_gpu': 0})
    )
    assert again == processes and len(processes) == 2 and sorted(order) == list(range(8))
    assert len(set(first + second)) == 2 * 8 * 3


@pytest.mark.parametrize('workers', [0, 1])
def test_training_and_resume_with_kept_workers(workers, pairs, photos, tmp_path, monkeypatch):
    opt = paired_options(pairs, photos=photos, iterations=6)
    opt['datasets']['train'].update(num_worker_per_gpu=workers, persistent_workers=True, dataset_enlarge_ratio=1)
    folder = train(opt, tmp_path, monkeypatch)
    opt['train']['total_iter'] = 8
    train(opt, tmp_path, monkeypatch, '--auto_resume')
    assert (folder / 'models' / 'net_g_8.pth').is_file()
