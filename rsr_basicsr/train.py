"""``python -m rsr_basicsr.train -opt FILE``: same as ``rsr train``, for launchers such as torchrun."""

import sys

from rsr_basicsr.cli import main

if __name__ == '__main__':
    sys.exit(main(['train', *sys.argv[1:]]))
