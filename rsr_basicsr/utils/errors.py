"""Errors that a user can cause and correct, one class per reason.

The command line prints the message, which names the value and the remedy, without a traceback, and exits with
``exit_code``.
"""


class RSRError(Exception):
    """Base class: input of the user cannot be used. Only subclasses are raised."""

    exit_code = 1


class OptionsError(RSRError):
    """An options file or a command-line option is wrong; raised before anything is built or written."""

    exit_code = 2


class WeightsError(RSRError):
    """A weight file cannot be fetched, does not match its checksum, or has unexpected content."""


class WorkerError(RSRError):
    """A worker process has ended, or cannot write."""


class ExportError(RSRError):
    """A network cannot be exported, or the exported form computes something else; no file is written."""


class ImageError(RSRError):
    """An image cannot be read, written or computed; the next one may be."""


class DeviceError(RSRError):
    """The GPU has failed, and this process cannot use it any more: raised instead of failing at every next image."""


def in_one_line(error: BaseException) -> str:
    """The message of a third-party error on one line; the name of its type if the message is empty."""
    return ' '.join(str(error).split()) or type(error).__name__
