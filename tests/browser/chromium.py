"""Find Chromium for the browser tests; as a script, install it from Debian if it is missing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
MAC = (
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
)
HELP = (
    "Chromium is not installed. Install it (Debian: apt-get install chromium; macOS: brew install "
    "--cask chromium), or set CHROMIUM to the path of one."
)


def find() -> str | None:
    """The path of a Chromium, or of a Chrome; None if there is none."""
    if "CHROMIUM" in os.environ:
        return shutil.which(os.environ["CHROMIUM"])
    found = (shutil.which(name) for name in (*NAMES, *MAC))
    return next(filter(None, found), None)


def install() -> None:
    """Install Debian's, which takes root."""
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        subprocess.run(["apt-get", "--quiet", *command], env=environment, check=True)


def main() -> int:
    """Print the path."""
    may_install = "CHROMIUM" not in os.environ and shutil.which("apt-get") and os.geteuid() == 0
    if find() is None and may_install:
        try:
            install()
        except subprocess.CalledProcessError as error:
            print(f"{HELP} ({error})", file=sys.stderr)
            return 1
    path = find()
    if path is None:
        print(HELP, file=sys.stderr)
        return 1
    print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
