"""Training data with images that cannot be read: BasicSR ends in the traceback of a worker, which names no file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sized
from typing import Any

from basicsr.utils import get_root_logger, imfrombytes
from torch.utils.data import Dataset

from rsr_basicsr.options.types import ON_BROKEN
from rsr_basicsr.utils.errors import ImageError, RSRError, in_one_line


class SoundImages(Dataset[dict[str, Any]]):
    """A data set that names the image it cannot read, and ends or takes the next one.

    Args:
        dataset: of BasicSR or a plugin.
        on_broken: ``stop`` or ``skip``, as ``broken_images`` of a data set's block.

    Raises:
        ImageError: when an item is taken: it cannot be read, and the data set is to stop, or no image can be read.
    """

    def __init__(self, dataset: Any, on_broken: str) -> None:
        self.dataset, self.on_broken = dataset, on_broken
        self._broken: set[int] = set()

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict[str, Any]:
        for number in (*range(index, len(self)), *range(index)):
            if number in self._broken:
                continue
            try:
                item: dict[str, Any] = self.dataset[number]
            except RSRError:
                raise  # a sentence of ours
            except Exception as error:  # OpenCV and BasicSR raise anything on a damaged image
                sentence = f'{_name(self.dataset, number)} cannot be read as a training image ({in_one_line(error)})'
                if self.on_broken != 'skip':
                    raise ImageError(
                        f'{sentence}; repair or remove it, or write broken_images: skip beside its data set'
                    ) from error
                get_root_logger().warning(f'{sentence}; the next one is taken')
                self._broken.add(number)
            else:
                return item
        raise ImageError(f'none of the {len(self)} training images can be read')


def naming_broken_images(build_dataset: Callable[[Mapping[str, Any]], Any]) -> Callable[[Mapping[str, Any]], Any]:
    """BasicSR's ``build_dataset``, whose training sets are :class:`SoundImages`."""

    def build(options: Mapping[str, Any]) -> Any:
        dataset = build_dataset(options)
        indexed = isinstance(dataset, Sized) and hasattr(dataset, '__getitem__')
        if options.get('phase') != 'train' or not indexed:
            return dataset
        return SoundImages(dataset, options.get('broken_images') or ON_BROKEN[0])

    return build


def _name(dataset: Any, index: int) -> str:
    """The path or key of an image, as far as a data set tells."""
    for attribute in ('paths', 'gt_paths', 'keys'):
        names = getattr(dataset, attribute, None)
        if isinstance(names, list) and index < len(names):
            found = names[index]
            paths = list(map(str, found.values())) if isinstance(found, Mapping) else [str(found)]
            return ' or '.join([path for path in paths if not _can_be_read(path)] or paths)
    return f'image {index} of {type(dataset).__name__}'


def _can_be_read(path: str) -> bool:
    """Whether BasicSR reads a file as an image; a key of LMDB is none."""
    try:
        with open(path, 'rb') as file:
            imfrombytes(file.read(), float32=True)  # as BasicSR does
    except Exception:  # OpenCV and BasicSR raise anything on a damaged image
        return False
    return True
