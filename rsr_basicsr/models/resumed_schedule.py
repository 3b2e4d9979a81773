"""Learning rates at a resume: BasicSR restores those of the training state, whatever the options say now."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

_OF_OPTIMIZER = {'initial_lr': 'lr'}  # what BasicSR's options call it
_RUNNING = ('lr', 'params')  # of a parameter group: what changes from step to step
_SCHEDULE = ('milestones', 'gamma', 'periods', 'restarts', 'restart_weights', 'eta_min')


class Hyperparameters:
    """Those of optimizers and schedulers as the options made them.

    Args:
        optimizers, schedulers: before a training state is loaded into them.
    """

    def __init__(self, optimizers: Sequence[Optimizer], schedulers: Sequence[LRScheduler]) -> None:
        self.optimizers, self.schedulers = optimizers, schedulers
        self.groups = [copy.deepcopy([_constant(group) for group in one.param_groups]) for one in optimizers]
        self.schedules = [copy.deepcopy(dict(one.state_dict())) for one in schedulers]
        self.rates = [[group['lr'] for group in one.param_groups] for one in optimizers]

    def differences(self) -> list[str]:
        """What the training state holds instead of the options' values, as ``lr 0.0001 (the options: 1e-06)``."""
        found = []
        for one, groups in zip(self.optimizers, self.groups):
            for group, wanted in zip(one.param_groups, groups):
                found += _different(_constant(group), wanted, wanted)
        for scheduler, schedule in zip(self.schedulers, self.schedules):
            found += _different(scheduler.state_dict(), schedule, _SCHEDULE)
        return list(dict.fromkeys(found))

    def restore(self) -> None:
        """Put the options' values back, and take the schedulers to where the training is."""
        for scheduler, schedule in zip(self.schedulers, self.schedules):
            reached = scheduler.last_epoch
            scheduler.load_state_dict(schedule)
            for one, groups, rates in zip(self.optimizers, self.groups, self.rates):
                if one is scheduler.optimizer:
                    for group, wanted, rate in zip(one.param_groups, groups, rates):
                        group.update(wanted, lr=rate)
            with warnings.catch_warnings():
                warnings.filterwarnings('ignore', message='Detected call of `lr_scheduler.step')
                while scheduler.last_epoch < reached:
                    scheduler.step()


def _constant(group: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in _RUNNING}


def _different(
    found: Mapping[str, Any], wanted: Mapping[str, Any], keys: Sequence[str] | Mapping[str, Any]
) -> list[str]:
    """Keys whose values differ; lists and tuples are the same."""
    return [
        f'{_OF_OPTIMIZER.get(key, key)} {_plain(found[key])} (the options: {_plain(wanted[key])})'
        for key in keys
        if key in wanted and key in found and _plain(found[key]) != _plain(wanted[key])
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):  # milestones are counted
        return sorted(value)
    return list(value) if isinstance(value, (list, tuple)) else value
