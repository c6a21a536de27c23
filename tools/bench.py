#!/usr/bin/env python
"""Measure what streaming costs, each figure beside its baseline: ``mlx-simul bench``."""

import sys

from mlx_simul.console.cli import main

if __name__ == "__main__":
    sys.exit(main(["bench", *sys.argv[1:]]))
