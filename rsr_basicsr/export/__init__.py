"""A network in forms that run without this package: a plain weight file, torch.export, ONNX."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from torch import nn

from rsr_basicsr.export import onnx_file, torch_file
from rsr_basicsr.export.backbone import BACKBONE_TAKES, backbone_bytes, backbone_keeps, verify_backbone
from rsr_basicsr.export.graph import record
from rsr_basicsr.utils.errors import ExportError, OptionsError
from rsr_basicsr.utils.files import check_new, write_whole

#: Larger differences between a network and what was made of it are a failure: a quarter of a grey level of 8 bits,
#: or that share of the largest output
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Outputs:
    """The files that are asked for.

    Attributes:
        backbone: a weight file of the network without its defence, as Real-ESRGAN's are.
        torch: a file for ``torch.export.load``.
        onnx: an ONNX file.
    """

    backbone: Path | None = None
    torch: Path | None = None
    onnx: Path | None = None

    def check(self, overwrite: bool = False, sources: Sequence[str] = ()) -> None:
        """Check, before any work, that all can be written.

        Args:
            overwrite: whether files that are there are replaced.
            sources: files that are not, whatever is said.

        Raises:
            OptionsError: a file cannot be written, none is asked for, or a package is missing.
        """
        chosen = [path for path in vars(self).values() if path]
        if not chosen:
            raise OptionsError('nothing to write; give --backbone, --torch or --onnx with a file')
        if len({path.resolve() for path in chosen}) < len(chosen):
            raise OptionsError(f'{chosen[0]} is named twice; give each form a file of its own')
        for path in chosen:
            check_new(path, overwrite)
            if path.resolve() in (Path(source).resolve() for source in sources):
                raise OptionsError(f'{path} is what is to be exported; name another file')
        if self.onnx:
            onnx_file.check_packages()


class Written(NamedTuple):
    """A file that was written.

    Args:
        path: where.
        takes: the images that it takes.
        keeps: what protection is left in it.
        difference: the largest one between an output of it and of the network.
        images: how many were compared.
        note: what the comparison could not see, or nothing.
    """

    path: Path
    takes: str
    keeps: str
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
) -> Iterator[Written]:
    """Write a network in each form that is asked for, one after the other, each verified, and whole or not at all.

    Args:
        net: on the CPU; it stays as it is.
        outputs: the files, :meth:`Outputs.check` of which has found nothing.
        gate: who decides whether an image is masked, see :class:`rsr_basicsr.archs.Defense`; None for what the network
            says.
        size: height and width of all images, one at a time, in pixels; None for any size and number.
        seed: of the masks, which are part of the file then; for one ``size`` only.

    Raises:
        OptionsError: what was asked for makes no sense for this network, or a file cannot be written.
        ExportError: the network cannot be written like this, or what was made of it computes something else; the file
            is not written then.
    """
    graph_wanted = outputs.torch or outputs.onnx
    if (gate, size, seed) != (None, None, None) and not graph_wanted:
        raise OptionsError('--gate, --size and --seed are for --torch and --onnx; a backbone has no defence')
    net = copy.deepcopy(net).eval().requires_grad_(False)
    graph = record(net, gate=gate, size=size, seed=seed) if graph_wanted else None
    if outputs.backbone:
        content = backbone_bytes(net)
        yield _write(outputs.backbone, content, verify_backbone(content, net), BACKBONE_TAKES, backbone_keeps(net))
    for path, form in ((outputs.torch, torch_file), (outputs.onnx, onnx_file)):
        if path:
            content = form.to_bytes(graph)
            yield _write(path, content, form.verify(content, graph), graph.takes, graph.keeps, graph.unseen)


def _write(
    path: Path, content: bytes, differences: list[tuple[float, float]], takes: str, keeps: str, note: str = ''
) -> Written:
    largest = max(difference for difference, _ in differences)
    for difference, scale in differences:
        if not difference <= TOLERANCE * max(1.0, scale):  # not a number, too
            raise ExportError(
                f'{path} was not written: its output would differ from that of the network by {difference:.2g}'
            )
    try:
        write_whole(path, content)
    except OSError as error:
        raise OptionsError(f'{path} cannot be written: {error.strerror}; name another file') from error
    return Written(path, takes, keeps, largest, len(differences), note)
