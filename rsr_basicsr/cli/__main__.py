"""``python -m rsr_basicsr.cli COMMAND``: the command line where the script ``rsr`` is not on the path."""

import sys

from rsr_basicsr.cli import main

if __name__ == '__main__':  # the workers of a data set import this file too
    sys.exit(main())
