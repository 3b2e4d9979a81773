"""Weights for tests: a small file that stands for an official one."""

import io
from pathlib import Path

import torch

NAME = 'realesr-general-x4v3'  # has no route but the release


def saved(content, **options):
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


OFFICIAL = saved({'params': {'w': torch.linspace(-1, 1, 5000)}})


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in Path(folder).rglob('*') if p.is_file())
