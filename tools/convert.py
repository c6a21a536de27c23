#!/usr/bin/env python
"""Convert a checkpoint, safetensors or GGUF, into an MLX folder: ``mlx-simul convert``."""

from __future__ import annotations

import argparse
import sys

from mlx_simul.convert import add_arguments, run
from mlx_simul.errors import SimulError


def main() -> int:
    """Parse the command line and convert; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    add_arguments(parser)
    try:
        return run(parser.parse_args())
    except SimulError as error:
        print(f"convert: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
