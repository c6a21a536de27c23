"""A recogniser by its name, and what is said when there is none."""

from __future__ import annotations

import sys

import pytest

from mlx_simul.errors import InvalidOptionError
from mlx_simul.machine import plug_ins
from mlx_simul.speech.registry import load_recogniser, recogniser_names


class _Point:
    def __init__(self, name: str, value: str) -> None:
        self.name, self.value = name, value


@pytest.fixture
def plug_in(monkeypatch: pytest.MonkeyPatch):
    """Installs a recogniser of another package by a name."""

    def install(name: str) -> list[str | None]:
        loaded: list[str | None] = []
        module = type(sys)("starling_speech")
        module.load = loaded.append
        monkeypatch.setitem(sys.modules, "starling_speech", module)
        points = [_Point(name, "starling_speech:load")]
        monkeypatch.setattr(plug_ins, "entry_points", lambda group: points)
        plug_ins._plug_ins.cache_clear()
        return loaded

    yield install
    plug_ins._plug_ins.cache_clear()


def test_ours_are_known_without_their_packages() -> None:
    assert {"faster-whisper", "mlx-whisper", "parakeet-mlx"} <= {*recogniser_names()}


def test_an_unknown_name_lists_the_known() -> None:
    with pytest.raises(InvalidOptionError, match=r"no recogniser 'siri'; known are faster-whisper"):
        load_recogniser("siri:large")


@pytest.mark.parametrize(
    ("spec", "model"),
    [
        ("starling", None),
        ("starling:", None),
        ("starling:tiny", "tiny"),
        ("starling: /a:b ", "/a:b"),
    ],
)
def test_another_package_adds_one(plug_in, spec: str, model: str | None) -> None:
    loaded = plug_in("starling")
    load_recogniser(spec)
    assert loaded == [model]


def test_a_name_that_is_taken_is_refused(plug_in) -> None:
    plug_in("faster-whisper")
    with pytest.raises(InvalidOptionError, match=r"faster-whisper is registered .* uninstall"):
        load_recogniser("faster-whisper")


@pytest.mark.parametrize(
    ("name", "package", "requirement"),
    [
        ("faster-whisper", "faster_whisper", r"'mlx-simul\[speech\]'"),
        ("mlx-whisper", "mlx_whisper", "mlx-whisper"),
        ("parakeet-mlx", "parakeet_mlx", "parakeet-mlx"),
    ],
)
def test_a_package_that_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, name: str, package: str, requirement: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidOptionError, match=rf"{package} is not .* pip install {requirement}"):
        load_recogniser(name)
