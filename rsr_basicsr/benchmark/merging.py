"""Merge several runs of a benchmark into one."""

from __future__ import annotations

import dataclasses
import json
import os.path as osp
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rsr_basicsr.benchmark.names import SECTIONS, STABILITY
from rsr_basicsr.benchmark.record import IMAGES, Record, Recorder, image_file, read_records
from rsr_basicsr.benchmark.run import OPTIONS_FILE, keep_options
from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import read_text, resolved
from rsr_basicsr.utils.untrusted import untrusted_json


def merge_runs(folders: Sequence[Path], output: Path) -> tuple[list[Record], dict[str, Any]]:
    """Merge the records of several runs, finished or not, into one folder, which is then a run like any other.

    Args:
        folders: folders of the runs; a single one gives the report of its results so far.
        output: folder of the merged run; may be the folder itself if there is only one.

    Returns:
        The records and the options of the merged run.

    Raises:
        OptionsError: a folder holds no run, or the runs use one name for different things.
    """
    if resolved(output) in [resolved(folder) for folder in folders] and len(folders) > 1:
        raise OptionsError(f'-o {output}: it is one of the merged folders; name another folder')
    options = [_options_of(folder) for folder in folders]
    together = _together(options)
    merged = _merged(read_records(folder) for folder in folders)
    if [resolved(output)] != [resolved(folder) for folder in folders]:
        _copy(merged, folders, output)
    keep_options(output, together)
    return merged, together


def _copy(records: Iterable[Record], folders: Sequence[Path], output: Path) -> None:
    """Copy the records and the images of the gallery."""
    try:
        recorder = Recorder(output)
    except OSError as error:
        raise OptionsError(f'-o {output}: {error.strerror}; name another folder') from error
    known = {record.key for record in read_records(output) if not record.error}
    for record in records:
        for path in record.gallery.values():
            source = next(filter(None, (image_file(folder, path) for folder in folders)), None)
            if source is not None:
                shutil.copyfile(source, output / IMAGES / Path(path).name)
        if record.key not in known:
            recorder.append(record)
    recorder.close()


def _options_of(folder: Path) -> dict[str, Any]:
    try:
        options = untrusted_json(read_text(folder / OPTIONS_FILE))
        if not _are_sound(options):
            raise ValueError(f'{OPTIONS_FILE} does not hold the options of a benchmark')
        return options
    except KeyError as error:
        raise OptionsError(f'--merge {folder}: no folder of a benchmark ({OPTIONS_FILE} has no {error})') from None
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise OptionsError(f'--merge {folder}: no folder of a benchmark ({error})') from None


def _are_sound(options: Any) -> bool:
    """Whether untrusted options have the types that a report needs."""
    blocks = [block for section in SECTIONS for block in (options[section], *options[section].values())]
    return (
        isinstance(options['name'], str)
        and isinstance(options.get('description', ''), str)
        and all(isinstance(block, dict) for block in blocks)
        and STABILITY in options['metrics']
        and all(isinstance(metric['type'], str) for metric in options['metrics'].values())
        and all(
            isinstance(options[key], list) and all(isinstance(n, (int, float)) for n in options[key])
            for key in ('eps', 'mask_seeds')
        )
        and isinstance(options['seed'], int)
        and (options.get('plane') is None or _is_plane(options['plane']))
    )


def _is_plane(plane: Any) -> bool:
    """Whether an untrusted block ``plane`` has the types that a report needs."""
    numbers = [plane.get('bicubic'), plane.get('level'), *(plane.get('matched') or {}).values()]
    return (
        all(isinstance(plane[key], str) for key in ('measure', 'reference'))
        and isinstance(plane.get('dataset'), (str, type(None)))
        and all(number is None or isinstance(number, (int, float)) for number in numbers)
    )


def _together(options: list[dict[str, Any]]) -> dict[str, Any]:
    """The options of the first run, extended by blocks and eps of the others."""
    merged = dict(options[0])
    for later in options[1:]:
        for key in ('scale', 'seed', 'mask_seeds', 'tile', 'tile_overlap', 'threads', 'metrics'):
            if _without_paths(later.get(key)) != _without_paths(merged.get(key)):
                raise OptionsError(f'--merge: the runs have different {key}; merge runs of one protocol')
        for name, defense in later['defenses'].items():
            if merged['defenses'].get(name, defense) != defense:
                raise OptionsError(f'--merge: the runs have different defences named {name!r}; rename one of them')
        for section in SECTIONS:
            merged[section] = {**later[section], **merged[section]}
            merged[section] = {
                name: merged[section][name] for name in dict.fromkeys([*options[0][section], *merged[section]])
            }
        merged['eps'] = sorted({*merged['eps'], *later['eps']})
        plane = _one_plane(merged.get('plane'), later.get('plane'))
        merged.update({'plane': plane} if plane else {})
    return merged


def _one_plane(first: dict[str, Any] | None, later: dict[str, Any] | None) -> dict[str, Any] | None:
    """The block ``plane`` of two runs, either of which may have none."""
    if first is None or later is None:
        return first or later
    for key in ('measure', 'reference'):
        if first[key] != later[key]:
            raise OptionsError(f'--merge: the runs have different plane.{key}; merge runs of one protocol')
    return {**first, 'matched': {**(later.get('matched') or {}), **(first.get('matched') or {})}}


def _merged(records: Iterable[Iterable[Record]]) -> list[Record]:
    """The records of several runs, one per key.

    If two runs use one name for different networks, the fingerprint is appended to the name of the later one.

    Raises:
        OptionsError: two runs use one name for different attacks or images.
    """
    attacks: dict[str, str] = {}
    contents: dict[tuple[str, str], str] = {}
    merged: dict[str, Record] = {}
    owners: dict[str, str] = {}
    for run in records:
        for record in run:
            block = json.dumps(_without_paths({k: v for k, v in record.attack_options.items() if k != 'eps'}))
            if record.eps and attacks.setdefault(record.attack, block) != block:
                raise OptionsError(
                    f'--merge: the runs have different attacks {record.attack!r}; rename one of them in its '
                    'options and run it again: nothing is measured twice'
                )
            place = record.dataset, record.image
            if contents.setdefault(place, record.content) != record.content:
                raise OptionsError(
                    f'--merge: the image {record.image!r} of {record.dataset!r} is not the same in all runs; rename '
                    'one of the data sets in its options and run it again: nothing is measured twice'
                )
            mine = str(record.facts.get('fingerprint', ''))
            if owners.setdefault(record.network, mine) != mine:
                record = dataclasses.replace(record, network=f'{record.network} ({mine[:6]})')
            if record.key not in merged or merged[record.key].error:
                merged[record.key] = record
    return list(merged.values())


def _without_paths(options: Any) -> Any:
    """The options with paths of weights reduced to file names, since folders differ between machines."""
    if isinstance(options, dict):
        return {
            key: osp.basename(value)
            if key in ('weights', 'backbone') and isinstance(value, str)
            else _without_paths(value)
            for key, value in options.items()
        }
    return [_without_paths(value) for value in options] if isinstance(options, list) else options
