"""Train and test in several processes, which record their losses and their communication."""

import json
import os
import subprocess
import sys

from helpers import paired_options, write

#: Imported by the processes of a test by ``--import``: the same random numbers in every process and at every step,
#: and a record of losses and of the communication.
WITNESS = """
import atexit, json, os, random, sys
import torch
from torch import distributed as dist
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from basicsr.models.sr_model import SRModel
from basicsr.utils import MessageLogger

steps, model, counts = [], [None], {'buckets': 0, 'all_reduce': 0}

def reduce_and_count(state, bucket):
    counts['buckets'] += 1
    return allreduce_hook(None, bucket)

wrap = DistributedDataParallel.__init__
def wrap_and_watch(self, *args, **kwargs):
    wrap(self, *args, **kwargs)
    self.register_comm_hook(None, reduce_and_count)
DistributedDataParallel.__init__ = wrap_and_watch

all_reduce = dist.all_reduce
def all_reduce_and_count(*args, **kwargs):
    counts['all_reduce'] += 1
    return all_reduce(*args, **kwargs)
dist.all_reduce = all_reduce_and_count

feed = SRModel.feed_data
def feed_seeded(self, data):
    feed(self, data)
    model[0] = self
    if self.is_train:
        torch.manual_seed(1000 + len(steps))
SRModel.feed_data = feed_seeded

def note(self, log):
    net = model[0].net_g
    steps.append({**{name: value for name, value in log.items() if name != 'lrs'}, **counts,
                  'weights': float(sum(p.detach().double().abs().sum() for p in net.parameters()))})
    counts.update(buckets=0, all_reduce=0)
    rank = os.environ.get('RANK', os.environ.get('SLURM_PROCID', '0'))
    with open(f'witness_{rank}.json', 'w') as file:
        json.dump(steps, file)
    show(self, log)
show, MessageLogger.__call__ = MessageLogger.__call__, note

# Exit hooks run, but no thread of gloo may meet an interpreter that is shutting down.
class Finalized:
    def __del__(self, write=os.write):
        write(1, b'the interpreter is shutting down')
sys.modules['finalized'] = Finalized()
atexit.register(print, 'exit hooks run')
"""


def options(pairs, photos, batch, iterations=10, **changes):
    """Pairs without random crops or flips: the same global batch for any number of processes."""
    opt = paired_options(pairs, photos=photos, iterations=iterations)
    opt['datasets']['train'].update(batch_size_per_gpu=batch, dataset_enlarge_ratio=40)
    # A seeded attack depends on the image alone, and masks drawn once per batch depend on the step alone.
    opt['attack'] = {'type': 'IFGSM', 'eps': 8, 'steps': 2, 'mode': 'paired', 'seed': 0}
    opt['network_g']['defense'] = {
        'mask': {'per_sample': False},
        'classifier': {'type': 'paper', 'weights': 'untrained'},
    }
    opt['logger']['save_checkpoint_freq'] = iterations
    opt.update(changes)
    return opt


def start(opt, folder, *command, environment=(), module='rsr_basicsr.train', flags=('--launcher', 'pytorch')):
    folder.mkdir(exist_ok=True)
    (folder / 'witness.py').write_text(WITNESS)
    file = write(opt, folder / 'options.yml')
    environment = {**os.environ, 'OMP_NUM_THREADS': '1', **dict(environment)}
    return subprocess.run(
        [*command, '-m', module, '-opt', str(file), '--import', 'witness', *flags],
        cwd=folder,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=300,
    )


def torchrun(opt, folder, processes=2, **more):
    command = [sys.executable, '-m', 'torch.distributed.run', '--standalone', f'--nproc_per_node={processes}']
    return start(opt, folder, *command, **more)


def witness(folder, rank=0):
    return json.loads((folder / f'witness_{rank}.json').read_text())
