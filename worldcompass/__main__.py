"""``python -m worldcompass`` is the command ``worldcompass``."""

import sys

from worldcompass.cli import main

sys.exit(main())
