"""What is wrong with an options file, all of it at once."""

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
    """Several things are wrong; ``sentences`` has one for each."""

    def __init__(self, sentences: Iterable[str]) -> None:
        self.sentences = list(sentences)
        super().__init__(
            f'{len(self.sentences)} entries cannot be used:\n' + '\n'.join(f'  {line}' for line in self.sentences)
        )


class Problems(list[str]):
    """Sentences, collected until there is no use in looking on.

    What is broken is remembered by its place in the file, such as ``datasets.train.gt_size``, so that what needs it
    need not be looked at: it would end in a problem that is none.

    Attributes:
        warnings: what will not fail, but is hardly meant.
        facts: what was found.
    """

    def __init__(self) -> None:
        super().__init__()
        self.warnings: list[str] = []
        self.facts: list[str] = []
        self._broken: set[str] = set()
        self._meant: set[tuple[str, str]] = set()

    @contextlib.contextmanager
    def noted(self, where: str = '', part: str = '') -> Iterator[None]:
        """Within the block, an error of a user ends the block only.

        Args:
            where: put in front of the sentence.
            part: the place in the file that is broken then.
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
        """Whether this has to be said: the key is not there under another name, and nobody has missed it yet."""
        known = (error.where, error.key) in self._meant
        self._meant.add((error.where, error.key))
        return not known

    def spoil(self, part: str) -> None:
        """Remember that this place in the file is broken."""
        if part:
            self._broken.add(part)

    def mistaken(self, where: str, key: str) -> None:
        """Remember that a key of a block stands there under a name that is slightly wrong: it is not missing."""
        self._meant.add((where, key))
        self.spoil(f'{where}.{key}' if where else key)

    def there(self, *parts: str) -> bool:
        """Whether these places of the file can be looked into; what is in them may be broken."""
        return not any(_within(part, broken) for part in parts for broken in self._broken)

    def sound(self, *parts: str) -> bool:
        """Whether these places of the file can be relied upon, with all that is in them."""
        return self.there(*parts) and not any(_within(broken, part) for part in parts for broken in self._broken)

    def stop(self) -> None:
        """Raise an OptionsError of all sentences, if there are any."""
        if len(self) == 1:
            raise OptionsError(self[0])
        if self:
            raise SeveralProblems(self)


def _within(part: str, place: str) -> bool:
    return f'{part}.'.startswith(f'{place}.')
