"""What an installation promises: names, laziness, version, dependencies, the README's command."""

from __future__ import annotations

import ast
import configparser
import importlib.metadata
import importlib.util
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from repository import ROOT

import mlx_simul

ARRAYS = {"mlx", "mlx_lm"}
HEAVY = ARRAYS | {"transformers", "numpy", "torch"}

# What programs import that only watch a stream, or say what it is to do.
LIGHT = ["Event", "Finished", "Policy", "Read", "SessionOptions", "SimulError", "TurnEnd"]
LIGHT = [f"mlx_simul.{name}" for name in (*LIGHT, "WaitK", "Write", "stabilise")]

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def promised(contract: str) -> list[str]:
    """The modules that a contract of import-linter keeps light, those inside packages too."""
    contracts = PROJECT["tool"]["importlinter"]["contracts"]
    (names,) = (each["source_modules"] for each in contracts if each["id"] == contract)
    found = []
    for name in names:
        spec = importlib.util.find_spec(name)
        found.append(name)
        inside = pkgutil.walk_packages(spec.submodule_search_locations or (), f"{name}.")
        found += [module.name for module in inside]
    return found


def heavy_after(code: str) -> set[str]:
    """Return which of the heavy packages a fresh interpreter has loaded after some code."""
    report = f"{code}\nimport sys\nprint(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", report], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return HEAVY & {name.split(".")[0] for name in done.stdout.split()}


# ---- Laziness ----


def test_importing_the_package_loads_nothing_heavy():
    assert heavy_after("import mlx_simul; dir(mlx_simul); mlx_simul.__version__") == set()


def test_what_knows_no_arrays_loads_nothing_heavy():
    modules = promised("pure")
    assert {"mlx_simul.loop.loop", "mlx_simul.policies.wait_k"} <= set(modules)
    code = "\n".join(f"import {name}" for name in modules)
    assert heavy_after(f"{code}\nimport mlx_simul\n{', '.join(LIGHT)}") == set()


def test_what_knows_tokenizers_loads_no_arrays():
    modules = promised("text")
    assert "mlx_simul.text.prompts" in modules
    assert not ARRAYS & heavy_after("\n".join(f"import {name}" for name in modules))


def test_laziness_can_fail():
    assert heavy_after("import mlx_simul; mlx_simul.SimulSession") >= {"mlx"}


# ---- Names ----


def test_all_is_what_is_exposed():
    assert sorted(mlx_simul.__all__) == sorted(set(mlx_simul.__all__))
    assert set(dir(mlx_simul)) == set(mlx_simul.__all__)
    for name in mlx_simul.__all__:
        assert getattr(mlx_simul, name) is not None


def test_every_public_name_is_documented_where_it_is_defined():
    for name in mlx_simul.__all__:
        thing = getattr(mlx_simul, name)
        if name != "__version__" and callable(thing):
            assert thing.__module__.startswith("mlx_simul."), name
            assert (thing.__doc__ or "").strip(), name


def test_the_face_is_small():
    """Other errors, policies, caches and parts live in their rooms: docs/api/mlx_simul.md."""
    assert len(mlx_simul.__all__) <= 24
    errors = importlib.import_module("mlx_simul.errors")
    in_errors = set(mlx_simul.__all__) & vars(errors).keys()
    assert in_errors == {"SimulError", "SimulWarning"}
    policies = importlib.import_module("mlx_simul.policies")
    assert set(mlx_simul.__all__) & set(policies.__all__) == {"Action", "Policy", "WaitK"}


def entries(kind: str, text: str) -> set[str]:
    """What a page of the reference describes: modules, classes or functions."""
    return set(re.findall(rf"^\.\. auto{kind}:: ([\w.]+)$", text, re.MULTILINE))


def test_every_public_name_has_an_entry_in_the_reference():
    text = "\n".join(page.read_text("utf-8") for page in (ROOT / "docs" / "api").glob("*.md"))
    modules = entries("module", text)
    named = entries("class", text) | entries("function", text)
    by_module = {
        name
        for module in map(importlib.import_module, modules)
        for name, thing in vars(module).items()
        if name in getattr(module, "__all__", ()) or getattr(thing, "__module__", "") in modules
    }
    missing = {name for name in mlx_simul.__all__ if f"mlx_simul.{name}" not in named}
    assert missing - by_module == {"Event"}  # any of the events, which have a page
    assert entries("class", ".. autoclass:: mlx_simul.X\n.. note:: mlx_simul.Y") == {"mlx_simul.X"}


def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match="stream_generat"):
        mlx_simul.stream_generat  # noqa: B018


# ---- Metadata ----


def test_the_version_is_that_of_the_installation():
    assert mlx_simul.__version__ == importlib.metadata.version("mlx-simul")


def test_the_console_script_names_a_function():
    (script,) = importlib.metadata.entry_points(group="console_scripts", name="mlx-simul")
    assert callable(script.load())


def test_types_are_shipped():
    assert (Path(mlx_simul.__file__).parent / "py.typed").is_file()


def declared(requirements: list[str]) -> set[str]:
    """Return the import names of what a list of requirements installs, less its markers."""
    names = {requirement.split(";")[0].strip() for requirement in requirements}
    return {name.split("[")[0].split(">")[0].replace("-", "_") for name in names}


def imported(folder: Path) -> set[str]:
    """Return the third-party packages that the modules of a folder import anywhere."""
    found = set()
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - {"mlx_simul"}


def test_what_the_package_imports_is_what_it_declares():
    requires = importlib.metadata.requires("mlx-simul") or []
    needed = declared([line for line in requires if "extra ==" not in line])
    # validate compares with torch where that is installed, SimulEval's agent is for those who
    # have it; tekken.json needs the extra of Mistral's; training can do more with its own, and the
    # server has its own, of which uvicorn imports websockets.
    optional = {"torch", "simuleval", "mistral_common"} | declared(
        [line for line in requires if re.search("train|serve", line.rpartition("extra ==")[2])]
    )
    optional -= {"websockets"}
    found = imported(Path(mlx_simul.__file__).parent)
    assert found - optional == needed
    assert optional <= found


def test_a_source_distribution_holds_what_the_tests_read():
    included = set(PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"])
    # Hatchling adds these by itself.
    included |= {f"/{name}" for name in ("pyproject.toml", "README.md", "LICENSE", "NOTICE")}
    texts = [path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py")]
    read = {
        f"/{path.name}" for path in ROOT.iterdir() if any(f'/ "{path.name}"' in t for t in texts)
    }
    assert {"/docs", "/examples", "/tools"} <= read <= included


# ---- What the tests run with ----

# These are there to install something else.
OTHER_VERSIONS = {"testenv:oldest", "testenv:newest", "testenv:pin"}


def requirements(file: str) -> dict[str, list[Requirement]]:
    """What a file of constraints says of each package; more than one line where Pythons differ."""
    found: dict[str, list[Requirement]] = {}
    for line in (ROOT / file).read_text("utf-8").splitlines():
        if not line.startswith("#"):
            found.setdefault(Requirement(line).name, []).append(Requirement(line))
    return found


def direct(*, with_groups: bool) -> list[Requirement]:
    """What pyproject.toml requires itself, with every extra."""
    project = PROJECT["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    if with_groups:
        lists += [PROJECT["build-system"]["requires"], *PROJECT["dependency-groups"].values()]
    return [Requirement(line) for lines in lists for line in lines]


def pinned(requirement: Requirement) -> Version:
    """The one version that a line of constraints allows."""
    (specifier,) = requirement.specifier
    assert specifier.operator == "=="
    version = Version(specifier.version)
    assert version.local is None, f"{requirement} is a build that no index has"
    return version


@pytest.mark.parametrize("file", ["constraints.txt", "constraints-oldest.txt"])
def test_constraints_are_names_and_versions(file):
    for lines in requirements(file).values():
        for line in lines:
            assert pinned(line)
            assert line.url is None and not line.extras


def test_everything_that_is_required_is_known_in_a_version_that_will_do():
    """Otherwise run ``tox -e pin``."""
    known = requirements("constraints.txt")
    for wanted in direct(with_groups=True):
        lines = known[canonicalize_name(wanted.name)]
        assert all(wanted.specifier.contains(pinned(line)) for line in lines), wanted


def test_the_oldest_versions_are_the_lower_bounds():
    """Otherwise run ``tox -e pin``."""
    oldest = requirements("constraints-oldest.txt")
    for wanted in direct(with_groups=False):
        (bound,) = wanted.specifier
        assert bound.operator == ">=", f"{wanted} has no lower bound, or another one besides"
        lowest = min(map(pinned, oldest[canonicalize_name(wanted.name)]))
        assert lowest == Version(bound.version), f"{wanted} is never installed, {lowest} is"


def test_every_environment_of_tox_installs_what_is_known():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "tox.ini", "utf-8")
    for name in parser.sections():
        if not name.startswith(("testenv", "pkgenv")) or name in OTHER_VERSIONS:
            continue
        said = parser[name].get("set_env", "")
        assert name not in ("testenv", "pkgenv") or said
        assert not said or "{[known]set_env}" in said, name
        assert "{[known]constraints}" in parser[name].get("constraints", "{[known]constraints}")


# ---- What the README says is what CI runs ----


def test_ci_runs_the_command_that_the_readme_gives():
    command = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()[-1]
    assert command.endswith("tox")
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_no_public_name_is_hidden_by_a_module_of_its_name():
    """Importing ``mlx_simul.x`` puts the module where the name ``x`` was."""
    folder = Path(mlx_simul.__file__).parent
    modules = {path.stem for path in folder.iterdir()}
    assert modules.isdisjoint(set(mlx_simul.__all__) - {"testing"})
