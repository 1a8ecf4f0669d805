"""`python -m actorcritic` is the command line."""

import sys

from actorcritic.cli import main

sys.exit(main())
