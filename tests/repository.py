"""Where the files of this repository lie that tests read, and its tools."""

import importlib.util
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"


def tool_module(name: str) -> ModuleType:
    """A script of ``tools/``, which is not a package, as a module.

    Args:
        name: of the script, without ``.py``.
    """
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
