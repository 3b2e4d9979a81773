"""What is wrong with an options file, all of it at once."""

from __future__ import annotations

import contextlib

from rsr_basicsr.errors import OptionsError, RSRError


class Problems(list):
    """Sentences, collected until there is no use in looking on."""

    @contextlib.contextmanager
    def noted(self, where: str = ''):
        """Within the block, an error of a user ends the block only."""
        try:
            yield
        except (RSRError, ValueError) as error:
            self.append(f'{where}{error}')

    def stop(self) -> None:
        """Raise an OptionsError of all sentences, if there are any."""
        if len(self) == 1:
            raise OptionsError(self[0])
        if self:
            raise OptionsError(f'{len(self)} entries cannot be used:\n' + '\n'.join(f'  {line}' for line in self))
