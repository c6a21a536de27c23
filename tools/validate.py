#!/usr/bin/env python
"""Prove that a folder holds a model that streams: ``mlx-simul validate``."""

import sys

from mlx_simul.console.cli import main

if __name__ == "__main__":
    sys.exit(main(["validate", *sys.argv[1:]]))
