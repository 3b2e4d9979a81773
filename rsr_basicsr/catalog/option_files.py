"""The options files that come with the package."""

from __future__ import annotations

from pathlib import Path

from rsr_basicsr.utils.errors import OptionsError
from rsr_basicsr.utils.files import remove_leftovers, write_whole


def options_folder() -> Path:
    """The folder of the options files: inside an installed package, beside that of a repository."""
    package = Path(__file__).parents[1]
    installed = package / 'option_files'
    return installed if installed.is_dir() else package.parent / 'options'


def options_files() -> dict[str, str]:
    """The options files that come with the package: path inside the folder -> title, which is the first line."""
    folder = options_folder()
    first_lines = {file: file.read_text(encoding='utf-8').partition('\n')[0] for file in sorted(folder.rglob('*.yml'))}
    return {file.relative_to(folder).as_posix(): line.lstrip('# ').rstrip('.') for file, line in first_lines.items()}


def copy_options(folder: Path, overwrite: bool = False) -> list[Path]:
    """Copy the options files, to be edited; identical ones are left alone.

    Returns:
        The paths that were written.

    Raises:
        OptionsError: one of them has been edited and ``overwrite`` is not set, or the folder cannot be written; in the
            first case nothing is written.
    """
    contents = {folder / name: (options_folder() / name).read_bytes() for name in options_files()}
    try:
        contents = {
            path: content for path, content in contents.items() if not path.exists() or path.read_bytes() != content
        }
        edited = [str(path) for path in contents if path.exists()]
        if edited and not overwrite:
            raise OptionsError(
                f'{", ".join(edited)} has been edited; name another folder, or add --overwrite to replace it'
            )
        for path, content in contents.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent)
            write_whole(path, content)
    except OSError as error:
        raise OptionsError(f'{folder} cannot be written: {error.strerror}') from None
    return list(contents)
