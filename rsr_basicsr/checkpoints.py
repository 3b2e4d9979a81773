"""Checkpoints that are written atomically, checked before use, and resume the random streams.

BasicSR writes its files in place, so a run that is killed while saving leaves half a file; and a resumed run starts its
epoch and its random numbers anew. Models save through :class:`WholeCheckpoints`; the trainer resumes through
:func:`load_resume_state` and :class:`ResumingSampler`.
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
from typing import TYPE_CHECKING, Any

import torch
from basicsr.data.data_sampler import EnlargedSampler
from basicsr.utils import check_resume, get_root_logger
from basicsr.utils.dist_util import get_dist_info
from basicsr.utils.registry import ARCH_REGISTRY
from torch import distributed as dist

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.ops.random_streams import random_state, set_random_state
from rsr_basicsr.utils.errors import WeightsError, in_one_line
from rsr_basicsr.weights.safetensors_file import NETWORK
from rsr_basicsr.weights.state_dict import read_file

if TYPE_CHECKING:
    from basicsr.models.base_model import BaseModel
    from torch import nn
else:
    BaseModel = object  # a mixin: the model class comes from the class that it is combined with

#: Entry of a training state for what BasicSR does not save
EXTRAS = 'rsr_basicsr'

_UNFINISHED = '.saving-'
_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def written_whole(paths: dict[str, str], networks: Sequence[str] = ()) -> Iterator[None]:
    """Write checkpoints to a temporary folder within the block, and move them into place at its end.

    The training state is moved last, so every visible state has its networks. If a file is incomplete, for example
    because the disk is full, the old files stay.

    Args:
        paths: ``path`` of BasicSR's options; ``models`` and ``training_states`` are redirected within the block.
        networks: labels, such as ``net_g``, of the networks that belong to a training state.

    Raises:
        OSError: a file is missing or incomplete, or the files cannot be moved.
    """
    places = {name: paths[name] for name in ('models', 'training_states')}
    root = osp.dirname(places['models'])
    for name in os.listdir(root):
        if name.startswith(_UNFINISHED):  # left by a killed run
            shutil.rmtree(osp.join(root, name), ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=_UNFINISHED, dir=root) as aside:
        for name in places:
            paths[name] = osp.join(aside, name)
            os.mkdir(paths[name])
        try:
            yield
        finally:
            paths.update(places)
        written = {name: sorted(os.listdir(osp.join(aside, name))) for name in places}
        broken = _broken_files(aside, written, networks)
        if broken:
            raise OSError(f'{", ".join(broken)} was not written to its end')
        for name, place in places.items():
            for file in written[name]:
                _flush(osp.join(aside, name, file))
                os.replace(osp.join(aside, name, file), osp.join(place, file))
            _flush(place)


def _broken_files(folder: str, written: Mapping[str, Sequence[str]], networks: Sequence[str]) -> list[str]:
    """Names of files that are incomplete, or missing: BasicSR goes on after a network could not be written."""
    broken = [
        file
        for name, files in written.items()
        for file in files
        if not zipfile.is_zipfile(osp.join(folder, name, file))
    ]
    wanted = [f'{label}_{osp.splitext(state)[0]}.pth' for state in written['training_states'] for label in networks]
    return broken + [file for file in wanted if file not in written['models']]


def _flush(path: str) -> None:
    """Flush a file, or a folder's list of names, to the disk.

    Windows flushes only what may be written to, and opens no folders; its file systems keep their lists themselves.
    """
    if osp.isdir(path):
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except PermissionError:  # Windows
            return
    else:
        descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def newest_whole_state(opt: Mapping[str, Any]) -> str | None:
    """Path of the newest complete training state, networks included; None if there is none.

    Warns of each newer state that is skipped, with the reason. With several processes, rank 0 chooses for all.

    Args:
        opt: options as BasicSR's ``parse_options`` returns them.
    """
    chosen: list[str | None] = [_newest_whole_state(opt) if get_dist_info()[0] == 0 else None]
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(chosen)
    return chosen[0]


def _newest_whole_state(opt: Mapping[str, Any]) -> str | None:
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
        _logger.warning('--auto_resume finds no complete training state; the training starts anew')
    return None


def check_checkpoint(opt: Mapping[str, Any], state: str) -> None:
    """Read a training state and the networks that BasicSR will load with it.

    Args:
        opt: options as BasicSR's ``parse_options`` returns them.
        state: path of the training state.

    Raises:
        WeightsError: one of the files is missing, damaged, or contains code.
    """
    content = _read_sound(state)
    if not isinstance(content, dict) or not isinstance(content.get('iter'), int):
        raise WeightsError(f'{state} is not a training state')
    saved = content.get(EXTRAS, {}).get('networks', [('net_g',)])[0]
    for label in network_labels(opt):
        path = osp.join(opt['path']['models'], f'{label}_{content["iter"]}.pth')
        # Options may name a network that the model does not have, such as a discriminator of another training.
        if label in saved or osp.isfile(path):
            # No check for finite values, unlike load_state: a diverged training is complete, and reports that itself.
            _read_sound(path)


def _read_sound(path: str) -> Any:
    """As :func:`read_file`, with the checksums of the archive compared, which torch leaves unread.

    Raises:
        WeightsError: as there, or a bit has changed since the file was written.
    """
    content = read_file(path)
    if not zipfile.is_zipfile(path):
        return content  # the format of old versions of torch has no checksums
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except zipfile.BadZipFile as error:
        raise WeightsError(f'{path} is damaged: {in_one_line(error)}') from None
    if damaged is not None:
        raise WeightsError(f'{path} is damaged: the checksum of {damaged} is wrong')
    return content


def network_labels(opt: Mapping[str, Any]) -> list[str]:
    """Labels, such as ``net_g``, of the networks in the options that a resumed training restores."""
    ignored = opt['path'].get('ignore_resume_networks') or ()
    return [f'net_{key[len("network_") :]}' for key in opt if key.startswith('network_') and key not in ignored]


def load_resume_state(opt: dict[str, Any]) -> dict[str, Any] | None:
    """Replaces BasicSR's function of this name: works on any device, and runs no code from the file.

    Also tells :class:`ResumingSampler` where to continue.

    Args:
        opt: options as BasicSR's ``parse_options`` returns them; ``path: resume_state`` is set.

    Returns:
        The training state; None to start from scratch.

    Raises:
        WeightsError: the training state that is named cannot be read.
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
    """Position of a training when its state was written.

    Args:
        state: the training state.
        batch: samples per iteration and process.
    """

    def __init__(self, state: dict[str, Any], batch: int) -> None:
        self.state, self.batch = state, batch
        self.random_states = state.get(EXTRAS, {}).get('random', [])
        self.seen = 0

    def settle(self, samples: int) -> None:
        """Compute the epoch of the iteration from the number of samples per epoch and process.

        The epoch that BasicSR saved is wrong if the number of processes has changed.
        """
        batches = max(samples // self.batch, 1)
        self.state['epoch'] = max(self.state['iter'] - 1, 0) // batches
        self.seen = (self.state['iter'] - self.state['epoch'] * batches) * self.batch

    def restore_random_state(self) -> None:
        """Restore the random streams of this process."""
        rank, world = get_dist_info()
        if len(self.random_states) == world:
            set_random_state(self.random_states[rank])


class ResumingSampler(EnlargedSampler):
    """EnlargedSampler that skips what a resumed training has seen of its epoch.

    BasicSR would start the epoch anew: with large data sets, a run that is resumed often would see the first images of
    its order again and again. The random streams of the process are restored here, too: this is the last call before
    the first image of a resumed run.
    """

    #: Position of the resumed run. A class attribute, since BasicSR passes no options to its sampler.
    resumed: _Resumed | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.resumed is not None:
            self.resumed.settle(self.num_samples)

    def __iter__(self) -> Iterator[int]:
        indices = list(super().__iter__())
        if self.resumed is not None and self.resumed.state['epoch'] == self.epoch:
            self.resumed.restore_random_state()
            indices = indices[self.resumed.seen :]
        return iter(indices)


def _add(path: str, entry: str, value: Any) -> None:
    """Add an entry to a file that ``torch.save`` wrote."""
    content = {**read_file(path), entry: value}
    written = io.BytesIO()  # not into the file: on a full disk torch.save raises an error that does not name the cause
    torch.save(content, written)
    with open(path, 'wb') as file:
        file.write(written.getvalue())


def described(network: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a network for its weight file, without paths of this machine."""
    described = copy.deepcopy(dict(network))
    defense = described.setdefault('defense', {})
    defense.get('classifier', {}).pop('weights', None)
    defense['points'] = list(ARCH_REGISTRY.get(described['type']).chosen_points(defense.get('points')))
    return described


class WholeCheckpoints(BaseModel):
    """Mixin for a BasicSR model class: saves by :func:`written_whole`, random streams included."""

    opt: dict[str, Any]
    device: torch.device

    def more_state(self) -> dict[str, Any]:
        """What this process adds to the training state: plain values and tensors."""
        return {
            'random': random_state(),
            'networks': [label for label in network_labels(self.opt) if hasattr(self, label)],
        }

    def restore_more_state(self, mine: Mapping[str, Any]) -> None:
        """Restore what :meth:`more_state` of this process returned; the sampler restores the random streams."""

    def save(self, epoch: int, current_iter: int) -> None:
        """Save networks and training state; if that fails, the old ones stay and the training goes on.

        Raises:
            WeightsError: the final networks cannot be written.
        """
        mine = self.more_state()
        self._states: list[Any] = [mine]
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

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Save as BasicSR does, then add :meth:`more_state` of every process."""
        super().save_training_state(epoch, current_iter)
        path = osp.join(self.opt['path']['training_states'], f'{current_iter}.state')
        if osp.isfile(path):  # BasicSR writes none at the end of a training
            _add(path, EXTRAS, {key: [state[key] for state in self._states] for key in self._states[0]})

    def save_network(
        self, net: nn.Module | list[nn.Module], net_label: str, current_iter: int, param_key: str | list[str] = 'params'
    ) -> None:
        """Save as BasicSR does, then add the options of a defended network, so that the file describes it."""
        super().save_network(net, net_label, current_iter, param_key)
        name = f'{net_label}_{"latest" if current_iter == -1 else current_iter}.pth'
        path = osp.join(self.opt['path']['models'], name)
        first = self.get_bare_model(net[0] if isinstance(net, list) else net)
        if isinstance(first, DefenseMixin) and get_dist_info()[0] == 0 and osp.isfile(path):
            _add(path, NETWORK, described(self.opt['network_g']))

    def resume_training(self, resume_state: dict[str, Any]) -> None:
        """Resume as BasicSR does, then restore what :meth:`more_state` saved."""
        super().resume_training(resume_state)
        extras = resume_state.get(EXTRAS, {})
        if extras and len(extras['random']) == self.opt['world_size']:
            self.restore_more_state({key: states[self.opt['rank']] for key, states in extras.items()})
