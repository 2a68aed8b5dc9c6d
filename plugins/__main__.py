"""`python -m plugins` is `nodeplug`."""

import sys

from plugins.cli import main

if __name__ == "__main__":
    sys.exit(main())
