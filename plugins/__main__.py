"""`python -m plugins` is `nodeplug`."""

import sys

from plugins.cli import main

sys.exit(main())
