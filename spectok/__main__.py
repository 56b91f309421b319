"""`python -m spectok` is `spectok`."""

import sys

from spectok.cli import main

sys.exit(main())
