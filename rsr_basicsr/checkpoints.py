"""Training states that survive: written whole or not at all, checked before they are used, with the random streams.

BasicSR writes its files in place, so that a run that is killed while it saves leaves half a file; and a resumed run
starts its epoch and its random numbers anew. What is here serves the models (saving) and the trainer (resuming).
"""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import os
import os.path as osp
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import check_resume, get_root_logger
from basicsr.utils.dist_util import get_dist_info
from torch import distributed as dist

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.utils.random_streams import random_state, set_random_state
from rsr_basicsr.weights.state_dict import read_file

#: The entry of a training state that holds what BasicSR does not keep
EXTRAS = 'rsr_basicsr'

#: The entry of a weight file that says which network it is for, as in the options
NETWORK = 'network_g'

_UNFINISHED = '.saving-'
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def written_whole(paths: dict[str, str], networks: Sequence[str] = ()) -> Iterator[None]:
    """Within the block checkpoints are written aside; at its end they take their places, the training state last.

    A state that can be seen therefore has its networks beside it. A file that is not whole, such as on a full disk,
    leaves what was there before.

    Args:
        paths: ``path`` of BasicSR's options, whose ``models`` and ``training_states`` point elsewhere in the block.
        networks: labels such as ``net_g`` of the networks that a training state needs beside it.

    Raises:
        OSError: a file is missing or not whole, or the files cannot be moved.
    """
    places = {name: paths[name] for name in ('models', 'training_states')}
    root = osp.dirname(places['models'])
    for left in os.listdir(root):
        if left.startswith(_UNFINISHED):  # by a run that was killed
            shutil.rmtree(osp.join(root, left), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as aside:
        for name in places:
            paths[name] = osp.join(aside, name)
            os.mkdir(paths[name])
        try:
            yield
        finally:
            paths.update(places)
        written = {name: sorted(os.listdir(osp.join(aside, name))) for name in places}
        broken = [
            file
            for name, files in written.items()
            for file in files
            if not zipfile.is_zipfile(osp.join(aside, name, file))
        ]
        # BasicSR goes on where it could not write a network.
        wanted = [f'{label}_{osp.splitext(state)[0]}.pth' for state in written['training_states'] for label in networks]
        broken += [file for file in wanted if file not in written['models']]
        if broken:
            raise OSError(f'{", ".join(broken)} was not written to its end')
        for name, place in places.items():
            for file in written[name]:
                _flush(osp.join(aside, name, file))
                os.replace(osp.join(aside, name, file), osp.join(place, file))
            _flush(place)


def _flush(path):
    """Have a file, or the names in a folder, on the disk before anything that relies on it is."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_whole_state(opt: Mapping[str, Any]) -> str | None:
    """Path of the newest training state that can be read to its end, networks included; None without one.

    Says which newer ones it skips, and why. With several processes the first one chooses for all.

    Args:
        opt: options as BasicSR's ``parse_options`` returns them.
    """
    chosen: list[str | None] = [_newest_whole_state(opt) if get_dist_info()[0] == 0 else None]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(chosen)
    return chosen[0]


def _newest_whole_state(opt):
    folder = opt['path'].get('training_states', '')
    states = [name for name in os.listdir(folder) if name.endswith('.state')] if osp.isdir(folder) else []
    numbers = sorted((int(name[: -len('.state')]) for name in states if name[: -len('.state')].isdigit()), reverse=True)
    for number in numbers:
        state = osp.join(folder, f'{number}.state')
        try:
            check_checkpoint(opt, state)
        except WeightsError as error:
            _logger.warning('--auto_resume skips the training state of iteration %d: %s', number, error)
        else:
            return state
    if numbers:
        _logger.warning('--auto_resume finds no training state that is whole; the training starts anew')
    return None


def check_checkpoint(opt: Mapping[str, Any], state: str) -> None:
    """Read a training state, and the networks that BasicSR will take with it, to their ends.

    Raises:
        WeightsError: one of the files is missing, damaged, or wants to run code.
    """
    content = read_file(state)
    if not isinstance(content, dict) or not isinstance(content.get('iter'), int):
        raise WeightsError(f'{state} is not a training state')
    saved = content.get(EXTRAS, {}).get('networks', [('net_g',)])[0]
    for label in network_labels(opt):
        path = osp.join(opt['path']['models'], f'{label}_{content["iter"]}.pth')
        # Options may name a network that the model does not have, such as the discriminator of another training.
        if label in saved or osp.isfile(path):
            # Not load_state's check for finite values: a training that has diverged is whole, and says so itself.
            read_file(path)


def network_labels(opt: Mapping[str, Any]) -> list[str]:
    """Labels such as ``net_g`` of the networks that options name and that are taken back at a resume."""
    ignored = opt['path'].get('ignore_resume_networks') or ()
    return [f'net_{key[len("network_") :]}' for key in opt if key.startswith('network_') and key not in ignored]


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """What BasicSR's function of this name does, on any device and without running code from the file.

    It also tells the sampler of the training images where to go on.
    """
    path = newest_whole_state(opt) if opt['auto_resume'] else opt['path'].get('resume_state')
    ResumingSampler.resumed = None
    if not path:
        return None
    opt['path']['resume_state'] = path
    state = read_file(path)
    check_resume(opt, state['iter'])
    train = opt['datasets']['train']
    batch = train['batch_size_per_gpu'] * (1 if opt.get('dist') else max(1, opt['num_gpu']))
    ResumingSampler.resumed = _Resumed(state, batch)
    return state


class _Resumed:
    """Where a training was when its state was written."""

    def __init__(self, state, batch):
        self.state, self.batch = state, batch
        self.random_states = state.get(EXTRAS, {}).get('random', [])
        self.seen = 0

    def settle(self, samples: int) -> None:
        """Find the epoch of the iteration, now that a process has this number of samples an epoch.

        BasicSR goes by the epochs of the run before, which are others with another number of processes.
        """
        batches = max(samples // self.batch, 1)
        self.state['epoch'] = max(self.state['iter'] - 1, 0) // batches
        self.seen = (self.state['iter'] - self.state['epoch'] * batches) * self.batch

    def go_on(self):
        """Continue the random streams of this process."""
        rank, world = get_dist_info()
        if len(self.random_states) == world:
            set_random_state(self.random_states[rank])


class ResumingSampler(EnlargedSampler):
    """EnlargedSampler that, in the epoch in which a training was resumed, leaves out what it has seen of it.

    BasicSR would begin the epoch anew: with large data sets, a run that is resumed often sees the first images of
    its order again and again. The random streams of the process continue from here too, since this is the last
    thing between a resumed run and its first image.
    """

    #: Where the run of this process goes on. BasicSR hands its sampler no options.
    resumed: _Resumed | None = None

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if self.resumed is not None:
            self.resumed.settle(self.num_samples)

    def __iter__(self):
        indices = list(super().__iter__())
        if self.resumed is not None and self.resumed.state['epoch'] == self.epoch:
            self.resumed.go_on()
            indices = indices[self.resumed.seen :]
        return iter(indices)


def _add(path, entry, value):
    """Add an entry to a file that ``torch.save`` wrote."""
    content = {**read_file(path), entry: value}
    written = io.BytesIO()  # torch.save onto a full disk ends in an error of its own, which names no cause
    torch.save(content, written)
    with open(path, 'wb') as file:
        file.write(written.getvalue())


def _described(network: Mapping[str, Any]) -> dict[str, Any]:
    """What a weight file says of its network: the options, without a path of the machine that it was trained on."""
    network = copy.deepcopy(dict(network))
    network.get('defense', {}).get('classifier', {}).pop('weights', None)
    return network


class WholeCheckpoints:
    """Mixin in front of a BasicSR model class: saves by :func:`written_whole`, random streams included."""

    def more_state(self) -> dict[str, Any]:
        """What this process adds to the training state; plain values and tensors."""
        return {
            'random': random_state(),
            'networks': [label for label in network_labels(self.opt) if hasattr(self, label)],
        }

    def restore_more_state(self, mine: Mapping[str, Any]) -> None:
        """Take back what :meth:`more_state` of this process returned; the random streams are the sampler's business."""

    def save(self, epoch, current_iter):
        """Save networks and training state; where that fails, the last ones stay and the training goes on."""
        mine = self.more_state()
        self._states = [mine]
        if self.opt['dist']:
            self._states = [None] * self.opt['world_size']
            dist.all_gather_object(self._states, mine)
        if self.opt['rank'] != 0:
            return
        try:
            with written_whole(self.opt['path'], mine['networks']):
                super().save(epoch, current_iter)
        except (OSError, WeightsError) as error:
            if current_iter == -1:
                raise WeightsError(
                    f'the trained networks could not be written: {in_one_line(error)}; make room and go '
                    'on with --auto_resume'
                ) from error
            get_root_logger().error(
                f'The checkpoint of iteration {current_iter} could not be written, the last one '
                f'stays: {in_one_line(error)}'
            )

    def save_training_state(self, epoch, current_iter):
        super().save_training_state(epoch, current_iter)
        path = osp.join(self.opt['path']['training_states'], f'{current_iter}.state')
        if osp.isfile(path):  # BasicSR writes none at the end of a training
            _add(path, EXTRAS, {key: [state[key] for state in self._states] for key in self._states[0]})

    def save_network(self, net, net_label, current_iter, param_key='params'):
        """As BasicSR saves it, and with what a defended network is built from, so that the file tells by itself."""
        super().save_network(net, net_label, current_iter, param_key)
        name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        path = osp.join(self.opt['path']['models'], name)
        first = self.get_bare_model(net[0] if isinstance(net, list) else net)
        if isinstance(first, DefenseMixin) and get_dist_info()[0] == 0 and osp.isfile(path):
            _add(path, NETWORK, _described(self.opt['network_g']))

    def resume_training(self, resume_state):
        super().resume_training(resume_state)
        extras = resume_state.get(EXTRAS, {})
        if extras and len(extras['random']) == self.opt['world_size']:
            self.restore_more_state({key: states[self.opt['rank']] for key, states in extras.items()})
