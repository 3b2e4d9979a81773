"""Export networks to formats that run without this package, and to safetensors."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from rsr_basicsr.archs.defended_arch import DefenseMixin
from rsr_basicsr.export import onnx_file, torch_file
from rsr_basicsr.export.backbone import (
    BACKBONE_ACCEPTS,
    DEFENDED_ACCEPTS,
    PLAIN_PROTECTION,
    WHOLE_PROTECTION,
    backbone_bytes,
    backbone_protection,
    verify_weights,
    whole_bytes,
)
from rsr_basicsr.export.graph import record
from rsr_basicsr.utils.errors import ExportError, OptionsError, WeightsError
from rsr_basicsr.utils.files import check_new, remove_leftovers, resolved, write_whole
from rsr_basicsr.weights.safetensors_file import SAFETENSORS, check_package

#: Largest allowed difference between a network and an export: a quarter of an 8-bit grey level, or relative to the
#: largest output
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Outputs:
    """The files to write.

    Attributes:
        backbone: a weight file of the network without its defence, as Real-ESRGAN's are; safetensors if it ends so.
        torch: a program for ``torch.export.load``.
        onnx: an ONNX file.
        safetensors: a weight file of the whole network.
    """

    backbone: Path | None = None
    torch: Path | None = None
    onnx: Path | None = None
    safetensors: Path | None = None

    def check(self, overwrite: bool = False, sources: Sequence[str] = ()) -> None:
        """Check, before any work, that all files can be written.

        Args:
            overwrite: replace existing files.
            sources: files that are never replaced.

        Raises:
            OptionsError: a file cannot be written, no file is given, or a package is missing.
        """
        chosen = [path for path in vars(self).values() if path]
        if not chosen:
            raise OptionsError('nothing to write; give --backbone, --safetensors, --torch or --onnx with a file')
        if len({resolved(path) for path in chosen}) < len(chosen):
            raise OptionsError(f'{chosen[0]} is named twice; give each format its own file')
        for path in chosen:
            check_new(path, overwrite)
            remove_leftovers(path.parent)
            if resolved(path) in (resolved(source) for source in sources):
                raise OptionsError(f'{path} is what is to be exported; name another file')
        if self.onnx:
            onnx_file.check_packages()
        if self.safetensors or (self.backbone and self.backbone.suffix.lower() == SAFETENSORS):
            try:
                check_package()
            except WeightsError as error:
                raise OptionsError(str(error)) from None


class Written(NamedTuple):
    """A file that was written.

    Args:
        path: path of the file.
        accepts: description of the images it accepts.
        protection: description of the protection it keeps.
        difference: largest difference between its outputs and those of the network.
        images: number of compared inputs.
        note: what the comparison does not cover, or empty.
    """

    path: Path
    accepts: str
    protection: str
    difference: float
    images: int
    note: str = ''


def export(
    net: nn.Module,
    outputs: Outputs,
    *,
    gate: str | None = None,
    size: tuple[int, int] | None = None,
    seed: int | None = None,
    network: Mapping[str, Any] | None = None,
) -> Iterator[Written]:
    """Export a network to each requested format; each file is verified first and written atomically.

    Args:
        net: network on the CPU; it is not changed.
        outputs: the files, after :meth:`Outputs.check`.
        gate: how to decide on masking, see :class:`rsr_basicsr.archs.Defense`; None keeps the gate of the network.
        size: height and width of all images in pixels, for batches of one; None for any size and batch.
        seed: seed of the masks, which the file then contains; needs ``size``.
        network: the options of a defended network, which a safetensors file keeps.

    Raises:
        OptionsError: the arguments do not fit the network, or a file cannot be written.
        ExportError: the network cannot be exported, or the export computes something else; no file is written.
    """
    graph_wanted = outputs.torch or outputs.onnx
    if (gate, size, seed) != (None, None, None) and not graph_wanted:
        raise OptionsError('--gate, --size and --seed are for --torch and --onnx, not for weight files')
    net = copy.deepcopy(net).eval().requires_grad_(False)
    graph = record(net, gate=gate, size=size, seed=seed) if graph_wanted else None
    if outputs.backbone:
        content = backbone_bytes(net, outputs.backbone)
        differences = verify_weights(content, net, outputs.backbone.suffix)
        yield _write(outputs.backbone, content, differences, BACKBONE_ACCEPTS, backbone_protection(net))
    if outputs.safetensors:
        content = whole_bytes(net, network)
        differences = verify_weights(content, net, SAFETENSORS)
        accepts, protection = BACKBONE_ACCEPTS, PLAIN_PROTECTION
        if isinstance(net, DefenseMixin):
            accepts, protection = DEFENDED_ACCEPTS, WHOLE_PROTECTION
        yield _write(outputs.safetensors, content, differences, accepts, protection)
    formats: tuple[tuple[Path | None, ModuleType], ...] = ((outputs.torch, torch_file), (outputs.onnx, onnx_file))
    for path, module in formats:
        if path and graph:
            content = module.to_bytes(graph)
            differences = module.verify(content, graph)
            if graph.fresh_masks and _too_large(differences):
                # A random number within rounding of its threshold masks a coefficient in one of both. Once, not twice.
                differences = module.verify(content, graph)
            yield _write(path, content, differences, graph.accepts, graph.protection, graph.unverified)


def _too_large(differences: list[tuple[float, float]]) -> list[float]:
    return [difference for difference, scale in differences if not difference <= TOLERANCE * max(1.0, scale)]  # or NaN


def _write(
    path: Path, content: bytes, differences: list[tuple[float, float]], accepts: str, protection: str, note: str = ''
) -> Written:
    largest = max(difference for difference, _ in differences)
    for difference in _too_large(differences):
        raise ExportError(f'{path} was not written: its output would differ from the network by {difference:.2g}')
    try:
        write_whole(path, content)
    except OSError as error:
        raise OptionsError(f'{path} cannot be written: {error.strerror}; name another file') from error
    return Written(path, accepts, protection, largest, len(differences), note)
