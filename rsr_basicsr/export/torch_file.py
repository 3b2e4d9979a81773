"""A graph as a file for ``torch.export.load``."""

from __future__ import annotations

import io

import torch

from rsr_basicsr.export.graph import Graph, quiet
from rsr_basicsr.utils.errors import ExportError, in_one_line


def to_bytes(graph: Graph) -> bytes:
    """The content of the file."""
    content = io.BytesIO()
    try:
        with quiet():
            torch.export.save(graph.program, content)
    except Exception as error:  # torch.export raises errors of any type
        raise ExportError(
            f'torch {torch.__version__} cannot save {type(graph.net.net).__name__}: {in_one_line(error)[:200]}'
        ) from error
    return content.getvalue()


def verify(content: bytes, graph: Graph) -> list[tuple[float, float]]:
    """Largest difference from the network and its largest output per example; both draw the same masks."""
    with quiet():
        loaded = torch.export.load(io.BytesIO(content)).module()
    found = []
    for x in graph.examples:
        outputs = []
        for run in (loaded, graph.expected):
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                torch.manual_seed(0)
                outputs.append(run(x))
        output, expected = outputs
        found.append((float((output - expected).abs().max()), float(expected.abs().max())))
    return found
