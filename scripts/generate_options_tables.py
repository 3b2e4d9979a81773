"""Write the tables of docs/options.md anew from the options models."""

from __future__ import annotations

from pathlib import Path

from rsr_basicsr.check.reference import with_tables

FILE = Path(__file__).parents[1] / 'docs' / 'options.md'


def main() -> None:
    """Replace every marked table; the rest of the file stays."""
    text = FILE.read_text(encoding='utf-8')
    FILE.write_text(with_tables(text), encoding='utf-8')
    print(FILE)


if __name__ == '__main__':
    main()
