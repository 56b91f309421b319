"""`python -m spectok` is `spectok`."""

import sys

from spectok.cli.main import main

sys.exit(main())
