"""`python -m vintner`."""

import sys

from vintner.cli import main

sys.exit(main())
