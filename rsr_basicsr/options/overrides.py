"""``--force_yml`` as BasicSR's command line has it, but without running what it says as code."""

from __future__ import annotations

from typing import Any, Dict, Sequence

import yaml

from rsr_basicsr.errors import OptionsError


def override(options: Dict[str, Any], changes: Sequence[str]) -> None:
    """Set values of an options file, in place.

    Args:
        options: what the file holds.
        changes: ``section:key=value``, the value in YAML; blocks that are not there are made.

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
            if place.get(section) is None:
                place[section] = {}
            place = place[section]
            if not isinstance(place, dict):
                raise OptionsError(f'--force_yml {change}: {section} is not a block of keys')
        try:
            place[key] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise OptionsError(f'--force_yml {change}: {" ".join(str(error).split())}') from None
