"""What the commands have in common."""

from __future__ import annotations

import sys
from collections.abc import Callable


def run(main: Callable[[], object]) -> None:
    """Run a command; a mistake of its user is one sentence, not a traceback."""
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
