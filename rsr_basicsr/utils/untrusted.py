"""Values of strangers: JSON and numbers that may be anything."""

from __future__ import annotations

import json
import math
from typing import Any


def untrusted_json(text: str) -> Any:
    """The value of a text in JSON that may come from anywhere.

    Raises:
        ValueError: it is no JSON, is nested too deeply, or holds half of a character, which could not be written again.
    """
    try:
        value = json.loads(text)
        json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError('it is nested too deeply') from None
    return value


def is_number(value: Any) -> bool:
    """Whether an untrusted value is a finite number, and no truth value."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
