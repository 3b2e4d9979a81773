"""What a benchmark has measured, in an append-only file: a line a cell, which survives whatever ends the run."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rsr_basicsr.utils.files import write_whole

FOLDER = 'record'  # one file for each process that wrote
IMAGES = 'images'


@dataclass(frozen=True)
class Record:
    """One network, behind one defence, on one image, clean or attacked.

    Attributes:
        key: digest of all that the result depends on.
        network, defense, attack, dataset, image: names, as in the options.
        eps: budget of the attack in 1/255; 0 is the clean image.
        content: digest of the image, clean and, where there is one, high-resolution.
        error: why there is no result; empty where there is.
        values: name of the metric -> a number for each mask seed, None where it could not be taken.
        score: log odds of the network's own detector, above 0 where it takes the image for attacked; None without.
        loss: by the attack's own objective, to the network as it is deployed.
        zero_gradient: share of the input's values whose gradient is exactly zero, at the start of the attack and at
            its end.
        random: whether the network gives the same image different outputs.
        trouble: metric -> why it could not be taken.
        worst: which of the ways through the gate did the most loss.
        attack_options: the block of the attack.
        facts: of the network: ``fingerprint``, ``parameters``, ``type``, ``card``.
        seconds: it took.
        environment: versions and device.
        shown: files of the gallery, below the folder of the run: ``lq``, ``sr`` and of clean images ``gt``; of large
            images the centre.
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
    loss: float | None = None
    zero_gradient: float | None = None
    random: bool = False
    trouble: dict[str, str] = field(default_factory=dict)
    worst: str | None = None
    attack_options: dict[str, Any] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    environment: dict[str, str] = field(default_factory=dict)
    shown: dict[str, str] = field(default_factory=dict)


class Recorder:
    """Appends records to the file of one process, each at once and for good.

    Args:
        folder: of the run.
        rank: of the process.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.folder, self.path = folder, folder / FOLDER / f'{rank}.jsonl'
        for made in (folder / FOLDER, folder / IMAGES):
            made.mkdir(parents=True, exist_ok=True)
        # A killed run may have left half a line; the next one begins on its own.
        torn = self.path.is_file() and self.path.read_bytes()[-1:] not in (b'', b'\n')
        self._file = open(self.path, 'a', encoding='utf-8')
        if torn:
            self._file.write('\n')

    def append(self, record: Record) -> None:
        """Write a record; when this returns, it is on the disk."""
        self._file.write(json.dumps(dataclasses.asdict(record)) + '\n')
        self._file.flush()
        os.fsync(self._file.fileno())

    def keep_image(self, name: str, bgr: np.ndarray) -> str:
        """Write an image of the gallery, all of it or nothing, and return its path below the folder of the run."""
        path = self.folder / IMAGES / f'{name}.png'
        write_whole(path, cv2.imencode('.png', bgr)[1].tobytes())
        return f'{IMAGES}/{path.name}'

    def close(self) -> None:
        self._file.close()


def read_records(folder: Path) -> list[Record]:
    """The records of a run, of all its processes, the last one of each cell.

    A line that is cut off, as a kill leaves it, is not one; of a cell that was made twice the last success counts.
    """
    found: dict[str, Record] = {}
    names = {entry.name for entry in dataclasses.fields(Record)}
    for file in sorted((folder / FOLDER).glob('*.jsonl')):
        for line in file.read_text(encoding='utf-8', errors='replace').splitlines():
            try:
                content = json.loads(line)
                record = Record(**{key: value for key, value in content.items() if key in names})
            except (ValueError, TypeError, AttributeError):
                continue
            if not _is_sound(record):
                continue
            if record.key not in found or found[record.key].error or not record.error:
                found[record.key] = record
    return list(found.values())


def _is_sound(record: Record) -> bool:
    """Whether a line has the types of a record, and names no file but those of the gallery: it may be a stranger's."""
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
    )
    blocks = (record.values, record.attack_options, record.facts, record.environment, record.shown, record.trouble)
    return (
        all(isinstance(word, str) for word in words)
        and all(isinstance(block, dict) for block in blocks)
        and _is_number(record.eps)
        and record.eps >= 0
        and _is_attack(record.attack_options)
        and _is_number(record.facts.get('parameters', 0))
        and isinstance(record.facts.get('card', {}), dict)
        and all(isinstance(text, str) for block in (record.environment, record.trouble) for text in block.values())
        and all(isinstance(numbers, list) for numbers in record.values.values())
        and all(value is None or _is_number(value) for numbers in record.values.values() for value in numbers)
        and all(value is None or _is_number(value) for value in (record.score, record.loss, record.zero_gradient))
        and all(isinstance(path, str) and re.fullmatch(rf'{IMAGES}/\w[\w.]*', path) for path in record.shown.values())
    )


def _is_attack(options) -> bool:
    """Whether the blocks inside a block of an attack are where they belong."""
    inner = options.get('attacks', [])
    blocks = [*(inner if isinstance(inner, list) else [None]), *([options['attack']] if 'attack' in options else [])]
    return all(isinstance(block, dict) and _is_attack(block) for block in blocks) and all(
        isinstance(options.get(key, ''), str) for key in ('type', 'norm', 'quantize')
    )


def image_file(folder: Path, path: str) -> Path | None:
    """An image of the gallery of a run; None where there is none, or only a link to another place."""
    file = folder / path
    return file if file.is_file() and not file.is_symlink() else None


def _is_number(value) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
