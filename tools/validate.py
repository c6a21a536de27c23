#!/usr/bin/env python
"""Prove that a folder holds a model that streams: ``mlx-simul validate``."""

from __future__ import annotations

import argparse
import sys

from mlx_simul.errors import SimulError
from mlx_simul.validate import add_arguments, run


def main() -> int:
    """Parse the command line and validate; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except SimulError as error:
        print(f"validate: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
