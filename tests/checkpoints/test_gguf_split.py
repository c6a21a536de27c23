"""GGUF files in pieces, as llama-gguf-split and the gguf package write them."""

from __future__ import annotations

import shutil
from pathlib import Path

import llama_cpp
import numpy as np
import pytest
from tiny_checkpoints import everything_in
from tiny_gguf import random_model

from mlx_simul.checkpoints import convert as conversion
from mlx_simul.checkpoints.convert import convert
from mlx_simul.checkpoints.gguf import GGUFFile
from mlx_simul.checkpoints.gguf_split import open_gguf, piece_names
from mlx_simul.errors import ConversionError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file, and the same in pieces."""
    folder = tmp_path_factory.mktemp("pieces")
    _, config, weights = random_model("llama", "tied")
    metadata = llama_cpp.metadata_of(config) | llama_cpp.TOKENIZER
    tensors = llama_cpp.tensors_of(config, weights)
    llama_cpp.write(folder / "whole.gguf", "llama", metadata, tensors)
    llama_cpp.write(folder / "m.gguf", "llama", metadata, tensors, split_max_tensors=8)
    return folder


@pytest.fixture
def pieces(made: Path, tmp_path: Path) -> list[Path]:
    """A copy of the pieces, in order."""
    return [Path(shutil.copy(piece, tmp_path)) for piece in sorted(made.glob("m-*.gguf"))]


def test_the_pieces_are_the_whole(made: Path, pieces: list[Path]) -> None:
    assert len(pieces) > 2
    whole = GGUFFile(made / "whole.gguf")
    for piece in pieces:  # whichever is named
        joined = open_gguf(piece)
        assert (
            joined.metadata.items()
            >= {
                key: value
                for key, value in whole.metadata.items()
                if not isinstance(value, np.ndarray)
            }.items()
        )
        assert joined.tensors.keys() == whole.tensors.keys()
        for name in whole.tensors:
            assert np.array_equal(joined.read(name), whole.read(name))


def test_pieces_are_converted(made: Path, pieces: list[Path], tmp_path: Path) -> None:
    for source, target in ((made / "whole.gguf", "whole"), (pieces[1], "pieces")):
        convert(source, tmp_path / target)
    names = everything_in(tmp_path / "whole")
    assert names == everything_in(tmp_path / "pieces")
    for name in names:
        whole, joined = ((tmp_path / folder / name).read_bytes() for folder in ("whole", "pieces"))
        assert whole == joined


def test_a_missing_piece_is_named(pieces: list[Path]) -> None:
    pieces[1].unlink()
    with pytest.raises(ConversionError, match=rf"lacks {pieces[1].name}\. Download"):
        open_gguf(pieces[0])


def test_a_renamed_piece_is_refused(pieces: list[Path]) -> None:
    alone = pieces[0].rename(pieces[0].with_name("alone.gguf"))
    with pytest.raises(ConversionError, match=f"one piece of {len(pieces)}, but its name says 1"):
        open_gguf(alone)


def test_pieces_in_another_order_are_refused(pieces: list[Path]) -> None:
    spare = pieces[1].rename(pieces[1].with_name("spare"))
    pieces[2].rename(pieces[1])
    spare.rename(pieces[2])
    with pytest.raises(ConversionError, match=r"says that it is piece 3 of .* its name .* piece 2"):
        open_gguf(pieces[0])


def test_a_piece_of_another_file_is_refused(pieces: list[Path], tmp_path: Path) -> None:
    count = len(pieces)
    tensors = {"blk.0.attn_norm.weight": np.ones(32, np.float32)}
    metadata = {"split.no": 1, "split.count": count}
    pieces[1].unlink()
    llama_cpp.write(pieces[1], "llama", metadata, tensors)
    with pytest.raises(ConversionError, match=r"which an earlier piece holds too|should hold"):
        open_gguf(pieces[0])


@pytest.mark.parametrize("name", ["m.gguf", "m-00001-of-00002.bin", "m-1-of-2.gguf"])
def test_another_name_is_that_of_a_whole_file(name: str) -> None:
    assert piece_names(name) == [name]


def test_all_pieces_are_fetched_from_the_hub(
    pieces: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(repository: str, name: str, revision: str | None) -> str:
        assert (repository, revision) == ("owner/name", "main")
        fetched.append(name)
        return str(pieces[0].parent / Path(name).name)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    path = conversion.locate(f"owner/name/Q4_0/{pieces[1].name}", "main")
    assert path == pieces[0]
    assert fetched == [f"Q4_0/{piece.name}" for piece in pieces]
