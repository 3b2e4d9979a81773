"""Where a training begins: from weights, or from the training state that it resumes."""

from __future__ import annotations

import os.path as osp
from typing import Any

from rsr_basicsr.checkpoints import check_checkpoint, newest_whole_state
from rsr_basicsr.options.messages import Problems
from rsr_basicsr.utils.errors import OptionsError, WeightsError


def check_start(opt: dict[str, Any], problems: Problems) -> bool:
    """Check the weights or the state a training begins with, and store them in ``train: start``.

    Args:
        opt: options as BasicSR's parser returns them, whose sections were checked.
        problems: where it is noted what is wrong.

    Returns:
        Whether a run is resumed; its networks then replace the pretrained ones.
    """
    if not opt['is_train'] or not problems.there('path', 'train'):
        return False
    resumed = False
    if problems.sound('path.resume_state'):
        with problems.noted(part='path.resume_state'):
            resumed = _check_resume(opt)
    if problems.sound('path.pretrain_network_g', 'path.param_key_g', 'train.ema_decay'):
        with problems.noted(part='path.pretrain_network_g'):
            _keep_start(opt)
            if resumed:
                _check_start_of_resumed(opt)
    return resumed


def _keep_start(opt: dict[str, Any]) -> None:
    """Store the weights that a training begins with: BasicSR replaces their path when it resumes."""
    path = opt['path'].get('pretrain_network_g')
    if path is None:
        if opt['train'].get('target') == 'pretrained':
            raise OptionsError(
                'train.target: pretrained needs the weights whose output is the target; name them in '
                'path.pretrain_network_g'
            )
        return
    # BasicSR fills the moving average, which is what it validates, from params_ema where the file has it.
    key = 'params_ema' if opt['train'].get('ema_decay', 0) else opt['path'].get('param_key_g', 'params')
    opt['train']['start'] = {
        'weights': osp.expanduser(path),
        'key': key,
        'strict': opt['path'].get('strict_load_g', True),
    }


def _check_start_of_resumed(opt: dict[str, Any]) -> None:
    """Check that the first weights of a resumed training still exist, if an option needs them."""
    start = opt['train'].get('start')
    if start is not None and not osp.isfile(start['weights']):
        if opt['train'].get('target') == 'pretrained':
            raise OptionsError(
                f'path.pretrain_network_g: no such file: {start["weights"]}; train.target: pretrained '
                'needs it in a resumed training too'
            )
        del opt['train']['start']


def _check_resume(opt: dict[str, Any]) -> bool:
    """Whether a run will be resumed; a named training state must exist and be complete."""
    if opt.get('auto_resume'):
        # Searched once: it reads every file of a checkpoint.
        opt['path']['resume_state'], opt['auto_resume'] = newest_whole_state(opt), False
        return opt['path']['resume_state'] is not None
    state = opt['path'].get('resume_state')
    if state is None:
        return False
    if not osp.isfile(state):
        raise OptionsError(f'path.resume_state: no such file: {state}')
    try:
        check_checkpoint(opt, state)
    except WeightsError as error:
        raise OptionsError(
            f'path.resume_state: {error} (BasicSR takes the networks of a state from {opt["path"]["models"]})'
        ) from None
    return True
