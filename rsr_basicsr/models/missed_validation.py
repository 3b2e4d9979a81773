"""Validations that a kill has cost: a checkpoint is saved before the validation of its iteration."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from basicsr.utils import get_root_logger
from torch import distributed as dist

from rsr_basicsr.utils.files import read_text, remove_leftovers, write_whole
from rsr_basicsr.utils.untrusted import untrusted_json

#: In the folder of an experiment: the iteration of the last validation, and the data sets that it has finished
NOTE = 'validated.json'


class MissedValidation:
    """Replaces functions of ``basicsr.train`` for one run, so that a resumed training makes up a missed validation.

    Attributes:
        loaders: the validation loaders of the run.
        tb_logger: the run's logger of curves; None without one.
    """

    def __init__(self) -> None:
        self.loaders: Sequence[Any] = ()
        self.tb_logger: Any = None

    def tb_loggers(self, init_tb_loggers: Callable[..., Any]) -> Callable[..., Any]:
        """``init_tb_loggers``, noting what it makes."""

        @functools.wraps(init_tb_loggers)
        def init(opt: dict[str, Any]) -> Any:
            self.tb_logger = init_tb_loggers(opt)
            return self.tb_logger

        return init

    def dataloaders(self, create: Callable[..., Any]) -> Callable[..., Any]:
        """``create_train_val_dataloader``, noting the loaders."""

        @functools.wraps(create)
        def create_and_note(*args: Any, **kwargs: Any) -> Any:
            result = create(*args, **kwargs)
            self.loaders = result[2]
            return result

        return create_and_note

    def model(self, build_model: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
        """``build_model``, whose model notes its validations and makes up a missed one when it resumes."""

        @functools.wraps(build_model)
        def build(opt: dict[str, Any]) -> Any:
            model = build_model(opt)
            validation, resume_training = model.validation, model.resume_training

            def validate(loader: Any, current_iter: int, *args: Any, **kwargs: Any) -> None:
                validation(loader, current_iter, *args, **kwargs)
                _note(opt, current_iter, loader.dataset.opt['name'])

            def resume(state: Mapping[str, Any]) -> None:
                resume_training(state)
                self._make_up(model, opt, state['iter'])

            model.validation, model.resume_training = validate, resume
            return model

        return build

    def _make_up(self, model: Any, opt: Mapping[str, Any], iteration: int) -> None:
        val = opt.get('val')
        _clear(opt)
        if val is None or iteration % val['val_freq']:
            return
        last, done = _last_validation(opt)
        if last > iteration:
            return
        finished = done if last == iteration else []
        missed = [loader for loader in self.loaders if loader.dataset.opt['name'] not in finished]
        if missed:
            names = ', '.join(loader.dataset.opt['name'] for loader in missed)
            get_root_logger().info(f'Validation of iteration {iteration} was not finished; it is made up: {names}.')
        for loader in missed:
            model.validation(loader, iteration, self.tb_logger, val['save_img'])


def _note(opt: Mapping[str, Any], iteration: int, dataset: str) -> None:
    """Note that a data set was validated at an iteration."""
    if opt['rank'] == 0:
        path = Path(opt['path']['experiments_root'], NOTE)
        last, done = _noted(path)
        done = [*done, dataset] if last == iteration else [dataset]
        write_whole(path, json.dumps({'iteration': iteration, 'datasets': done}).encode())


def _last_validation(opt: Mapping[str, Any]) -> tuple[int, list[str]]:
    """Iteration of the last validation, and the data sets that it has finished, as the first process finds them."""
    found = [_noted(Path(opt['path']['experiments_root'], NOTE))]
    if opt['dist']:
        dist.broadcast_object_list(found)
    return found[0]


def _noted(path: Path) -> tuple[int, list[str]]:
    """Iteration and data sets of the note; 0 and none without a sound one: then a validation is made again."""
    try:
        note = untrusted_json(read_text(path))
        return int(note['iteration']), list(map(str, note['datasets']))
    except (OSError, ValueError, KeyError, TypeError):
        return 0, []


def _clear(opt: Mapping[str, Any]) -> None:
    """Remove what a killed validation has left of images and of its note."""
    if opt['rank'] == 0:
        images = Path(opt['path']['visualization'])
        for place in (images.parent, images, *(path for path in images.rglob('*') if path.is_dir())):
            remove_leftovers(place)
