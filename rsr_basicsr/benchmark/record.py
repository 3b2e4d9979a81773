"""Results of a benchmark in append-only files, one line per cell, so that a killed run keeps what it measured."""

from __future__ import annotations

import dataclasses
import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsr_basicsr.utils.files import remove_leftovers, write_whole
from rsr_basicsr.utils.untrusted import is_number, untrusted_json

FOLDER = 'record'  # one file per process
IMAGES = 'images'
#: Fields under their names in files of earlier versions
_FORMER_NAMES = {'trouble': 'metric_errors', 'shown': 'gallery'}


@dataclass(frozen=True)
class Record:
    """Result of one network behind one defence on one image, clean or attacked.

    Attributes:
        key: digest of everything the result depends on.
        network, defense, attack, dataset, image: names, as in the options.
        eps: budget of the attack in 1/255; 0 for the clean image.
        content: digest of the low-resolution and, if available, high-resolution image.
        error: why there is no result; empty if there is one.
        values: metric name -> one value per mask seed, None where the metric failed.
        score: log odds of the network's own detector, above 0 if it flags the image; None without a detector.
        gate_stability: PSNR in dB between the masked and the unmasked output for the clean image, mean over the mask
            seeds; None without a gate, and for attacked images.
        loss: the attack's objective, evaluated on the deployed network.
        zero_gradient: share of input values whose gradient is exactly zero, at the start and the end of the attack.
        random: whether the network gives different outputs for the same image.
        metric_errors: metric name -> error message.
        worst: the gate setting, or the attack inside a WorstOf, that was most effective.
        attack_options: options block of the attack.
        facts: ``fingerprint``, ``parameters``, ``type`` and ``card`` of the network.
        seconds: duration of the measurement.
        started: when it began, ISO 8601 in UTC; empty in records of earlier versions.
        environment: versions and device.
        gallery: ``lq``, ``sr`` and, for clean images, ``gt`` -> image file, relative to the folder of the run; large
            images are cropped to the centre.
    """

    key: str
    network: str
    defense: str
    attack: str
    eps: float
    dataset: str
    image: str
    content: str = ''
    error: str = ''
    values: dict[str, list[float | None]] = field(default_factory=dict)
    score: float | None = None
    gate_stability: float | None = None
    loss: float | None = None
    zero_gradient: float | None = None
    random: bool = False
    metric_errors: dict[str, str] = field(default_factory=dict)
    worst: str | None = None
    attack_options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    started: str = ''
    environment: dict[str, str] = field(default_factory=dict)
    gallery: dict[str, str] = field(default_factory=dict)


class Recorder:
    """Appends records to the file of one process and syncs each to disk.

    Args:
        folder: folder of the run.
        rank: rank of the process.
    """

    def __init__(self, folder: Path, rank: int = 0) -> None:
        self.folder, self.path = folder, folder / FOLDER / f'{rank}.jsonl'
        for made in (folder, folder / FOLDER, folder / IMAGES):
            made.mkdir(parents=True, exist_ok=True)
            remove_leftovers(made)
        # A killed run may have left half a line: start a new one.
        torn = self.path.is_file() and self.path.read_bytes()[-1:] not in (b'', b'\n')
        self._file = open(self.path, 'a', encoding='utf-8')
        if torn:
            self._file.write('\n')

    def append(self, record: Record) -> None:
        """Write a record; it is on disk when this returns."""
        self._file.write(json.dumps(dataclasses.asdict(record)) + '\n')
        self._file.flush()
        os.fsync(self._file.fileno())

    def keep_image(self, name: str, bgr: np.ndarray) -> str:
        """Write a gallery image atomically and return its path relative to the folder of the run."""
        path = self.folder / IMAGES / f'{name}.png'
        write_whole(path, cv2.imencode('.png', bgr)[1].tobytes())
        return f'{IMAGES}/{path.name}'

    def close(self) -> None:
        self._file.close()


def read_records(folder: Path) -> list[Record]:
    """Read the records of all processes of a run, one per cell.

    Truncated lines are skipped. For a cell that was measured twice the last success counts.
    """
    found: dict[str, Record] = {}
    names = {entry.name for entry in dataclasses.fields(Record)}
    for file in sorted((folder / FOLDER).glob('*.jsonl')):
        if not file.is_file():
            continue
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                content = untrusted_json(line)
                content = {_FORMER_NAMES.get(key, key): value for key, value in content.items()}
                record = Record(**{key: value for key, value in content.items() if key in names})
            except (ValueError, TypeError, AttributeError):
                continue
            if not _is_sound(record):
                continue
            if record.key not in found or found[record.key].error or not record.error:
                found[record.key] = record
    return list(found.values())


def _is_sound(record: Record) -> bool:
    """Whether the fields of an untrusted record have their types and name only files of the gallery."""
    words = (
        record.key,
        record.network,
        record.defense,
        record.attack,
        record.dataset,
        record.image,
        record.error,
        record.content,
        record.worst or '',
        record.started,
    )
    blocks = (
        record.values,
        record.attack_options,
        record.facts,
        record.environment,
        record.gallery,
        record.metric_errors,
    )
    numbers = record.score, record.gate_stability, record.loss, record.zero_gradient
    return (
        all(isinstance(word, str) for word in words)
        and all(isinstance(block, dict) for block in blocks)
        and is_number(record.eps)
        and record.eps >= 0
        and is_number(record.seconds)
        and _is_attack(record.attack_options)
        and all(is_number(record.facts.get(key, 0)) for key in ('parameters', 'detector_parameters'))
        and isinstance(record.facts.get('card', {}), dict)
        and all(
            isinstance(text, str) for block in (record.environment, record.metric_errors) for text in block.values()
        )
        and all(isinstance(each, list) for each in record.values.values())
        and all(value is None or is_number(value) for each in record.values.values() for value in each)
        and all(value is None or is_number(value) for value in numbers)
        and all(isinstance(path, str) and re.fullmatch(rf'{IMAGES}/\w[\w.]*', path) for path in record.gallery.values())
    )


def _is_attack(options: dict[str, Any]) -> bool:
    """Whether an attack's block and the blocks inside it have the expected types."""
    inner = options.get('attacks', [])
    blocks = [*(inner if isinstance(inner, list) else [None]), *([options['attack']] if 'attack' in options else [])]
    return all(isinstance(block, dict) and _is_attack(block) for block in blocks) and all(
        isinstance(options.get(key, ''), str) for key in ('type', 'norm', 'quantize')
    )


def image_file(folder: Path, path: str) -> Path | None:
    """The path of a gallery image of a run; None if it is missing or a symbolic link."""
    file = folder / path
    return file if file.is_file() and not file.is_symlink() else None
