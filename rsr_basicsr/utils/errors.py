"""The errors a user can cause and mend, one class a reason.

The command line prints their text as one sentence and exits with ``exit_code``; it shows no traceback, since the
sentence names the value and the remedy.
"""


class RSRError(Exception):
    """Something the user gave cannot be used. Raised by its subclasses only."""

    exit_code = 1


class OptionsError(RSRError):
    """An options file or a command-line option is wrong; raised before anything is built or written."""

    exit_code = 2


class WeightsError(RSRError):
    """A weight file cannot be fetched, does not match its checksum, or does not hold what it should."""


class WorkerError(RSRError):
    """A process that works for this one has ended."""


class ExportError(RSRError):
    """A network cannot be written in another form, or the form computes something else; nothing is written then."""


class ImageError(RSRError):
    """An image cannot be read, or is not one."""


def in_one_line(error: BaseException) -> str:
    """What an error of somebody else's code says, on one line; its type where it says nothing."""
    return ' '.join(str(error).split()) or type(error).__name__
