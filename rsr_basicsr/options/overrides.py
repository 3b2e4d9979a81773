"""``--force_yml`` as BasicSR's command line has it, but without running what it says as code."""

from __future__ import annotations

from typing import Any, Dict, Sequence

import yaml

from rsr_basicsr.errors import OptionsError, in_one_line


def override(options: Dict[str, Any], changes: Sequence[str], new_sections: bool = True) -> None:
    """Set values of an options file, in place.

    Args:
        options: what the file holds.
        changes: ``section:key=value``, the value in YAML.
        new_sections: make blocks that are not there. BasicSR does not, and takes ``none`` for no value.

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
            if place.get(section) is None and new_sections:
                place[section] = {}
            place = place.get(section)
            if place is None:
                raise OptionsError(f'--force_yml {change}: the options file has no block {section}; write it there')
            if not isinstance(place, dict):
                raise OptionsError(f'--force_yml {change}: {section} is not a block of keys')
        place[key] = None if not new_sections and text.strip().lower() == 'none' else _value(change, text)


def _value(change, text):
    try:
        return yaml.safe_load(text)
    except Exception as error:  # what Python makes of dates that are none, beside what YAML refuses
        raise OptionsError(f'--force_yml {change}: {in_one_line(error)}') from None
