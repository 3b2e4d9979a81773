"""``python -m rsr_basicsr.test -opt FILE``: same as ``rsr test``, for launchers such as torchrun."""

import sys

from rsr_basicsr.cli import main

if __name__ == '__main__':
    sys.exit(main(['test', *sys.argv[1:]]))
