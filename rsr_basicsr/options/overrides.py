"""``--force_yml`` as BasicSR's command line has it, but without running what it says as code."""

from __future__ import annotations

from typing import Any, Dict, Sequence

import yaml

from rsr_basicsr.errors import OptionsError, in_one_line
from rsr_basicsr.options.schema import nearest


def override(options: Dict[str, Any], changes: Sequence[str], new_sections: bool = True) -> None:
    """Set values of an options file, in place.

    Args:
        options: what the file holds.
        changes: ``section:key=value``, the value in YAML.
        new_sections: make blocks that are not there; beside others by name, such as ``attacks``, when a change sets
            its ``type``. BasicSR does not, and takes ``none`` for no value.

    Raises:
        OptionsError: a change that is not of this form, leads into something that is not a block, or is not YAML.
    """
    for change in changes:
        path, sign, text = change.partition('=')
        if not sign or not all(path.split(':')):
            raise OptionsError(f'--force_yml {change}: write section:key=value')
        *sections, key = path.split(':')
        place = options
        for section in sections:
            there = [name for name, value in place.items() if isinstance(value, dict)]
            if place.get(section) is None and new_sections and (key == 'type' or not _named(place)):
                place[section] = {}
            place = place.get(section)
            if place is None:
                raise OptionsError(f'--force_yml {change}: the options file has no block {section}'
                                   f'{nearest(section, there) if there else "; write it there"}')
            if not isinstance(place, dict):
                raise OptionsError(f'--force_yml {change}: {section} is not a block of keys')
        place[key] = None if not new_sections and text.strip().lower() == 'none' else _value(change, text)


def _named(place):
    """Whether a block holds blocks by name, such as ``attacks``: one more begins with its type."""
    return bool(place) and all(isinstance(value, (dict, type(None))) for value in place.values())


def _value(change, text):
    try:
        return yaml.safe_load(text)
    except Exception as error:  # what Python makes of dates that are none, beside what YAML refuses
        raise OptionsError(f'--force_yml {change}: {in_one_line(error)}') from None
