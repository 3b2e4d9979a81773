"""The problems of an options file, collected and reported together."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator

from rsr_basicsr.utils.errors import OptionsError, RSRError


class MissingKey(OptionsError):
    """A block lacks a key that it needs."""

    def __init__(self, where: str, key: str, hint: str = '') -> None:
        super().__init__(f'{where}: the key {key!r} is missing{hint}' if where else f'the key {key!r} is missing{hint}')
        self.where, self.key, self.hint = where, key, hint


class SeveralProblems(OptionsError):
    """Several problems; ``sentences`` has one for each."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(sentences)
        super().__init__(
            f'{len(self.sentences)} entries cannot be used:\n' + '\n'.join(f'  {line}' for line in self.sentences)
        )


class Problems(list[str]):
    """Problems as sentences, with the places in the file that are broken, such as ``datasets.train.gt_size``.

    Checks that depend on a broken place are skipped, since they would report follow-up errors.

    Attributes:
        warnings: sentences about what works, but is probably not intended.
        facts: sentences about what was found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.facts: list[str] = []
        self._broken: set[str] = set()
        self._meant: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def noted(self, where: str = '', part: str = '') -> Iterator[None]:
        """Turn an error of the user inside the ``with`` block into problems.

        Args:
            where: prefix of each sentence.
            part: the place in the file that an error breaks.
        """
        try:
            yield
        except MissingKey as error:
            found = [str(error)] if self.lacks(error) else []
        except SeveralProblems as error:
            found = error.sentences
        except (RSRError, ValueError) as error:
            found = [str(error)]
        else:
            return
        self.extend(f'{where}{sentence}' for sentence in found)
        self.spoil(part)

    def lacks(self, error: MissingKey) -> bool:
        """Whether to report a missing key: it is not misspelt, and has not been reported yet."""
        known = (error.where, error.key) in self._meant
        self._meant.add((error.where, error.key))
        return not known

    def spoil(self, part: str) -> None:
        """Mark a place in the file as broken."""
        if part:
            self._broken.add(part)

    def mistaken(self, where: str, key: str) -> None:
        """Mark a key as present under a misspelt name, so that it is not reported as missing."""
        self._meant.add((where, key))
        self.spoil(f'{where}.{key}' if where else key)

    def there(self, *parts: str) -> bool:
        """Whether these places can be read; places inside them may be broken."""
        return not any(_within(part, broken) for part in parts for broken in self._broken)

    def sound(self, *parts: str) -> bool:
        """Whether these places are valid, with everything inside them."""
        return self.there(*parts) and not any(_within(broken, part) for part in parts for broken in self._broken)

    def stop(self) -> None:
        """Raise an OptionsError with all problems, if there are any."""
        if len(self) == 1:
            raise OptionsError(self[0])
        if self:
            raise SeveralProblems(self)


def _within(part: str, place: str) -> bool:
    return f'{part}.'.startswith(f'{place}.')
