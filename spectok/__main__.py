"""Makes `python -m spectok` the same as `spectok`."""

import sys

from spectok.cli.main import main

sys.exit(main())
