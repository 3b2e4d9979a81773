"""Loader workers that are spawned, as under a launcher: they import everything that their data set needs."""

import os
import time

import pytest
from distributed_runs import options, torchrun

DATASET = """
import os, random
from basicsr.data.paired_image_dataset import PairedImageDataset
from basicsr.utils.registry import DATASET_REGISTRY

@DATASET_REGISTRY.register()
class NotedPairs(PairedImageDataset):
    def __getitem__(self, index):
        with open(f'noted_{os.getpid()}.txt', 'a') as file:
            file.write(f'{random.random()}\\n')
        return super().__getitem__(index)
"""


def runs(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.parametrize('mode', [None, 'cpu'])
def test_workers_are_spawned_once(mode, pairs, photos, tmp_path):
    """Several epochs of five pairs each."""
    opt = options(pairs, photos, batch=2, iterations=7)
    opt['datasets']['train'].update(
        type='NotedPairs',
        num_worker_per_gpu=2,
        persistent_workers=True,
        dataset_enlarge_ratio=1,
        prefetch_mode=mode,
    )
    (tmp_path / 'noted_pairs.py').write_text(DATASET)
    flags = ('--launcher', 'pytorch', '--import', 'noted_pairs')
    run = torchrun(opt, tmp_path, processes=1, flags=flags)
    assert run.returncode == 0 and 'epoch:  3' in run.stdout, run.stdout
    noted = list(tmp_path.glob('noted_*.txt'))
    numbers = [line for file in noted for line in file.read_text().split()]
    assert len(noted) == 2 and len(numbers) >= 7 * 2
    assert len(set(numbers)) == len(numbers)  # no epoch has the random numbers of another one
    processes = [int(file.stem.removeprefix('noted_')) for file in noted]
    for _ in range(100):  # torch's workers look for their parent every five seconds
        if not any(map(runs, processes)):
            break
        time.sleep(0.1)
    assert not any(map(runs, processes))
