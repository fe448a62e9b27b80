"""The pack's link in `custom_nodes`: ours comes and goes, the user's things stay."""

from __future__ import annotations

from pathlib import Path

import pytest

from demo.link import link_pack, unlink_pack


@pytest.fixture
def pack_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pack"
    folder.mkdir()
    (folder / "__init__.py").touch()
    return folder


def test_a_link_is_made_and_removed_and_the_pack_stays(tmp_path: Path, pack_folder: Path) -> None:
    link = link_pack(tmp_path / "custom_nodes", pack_folder)
    assert link is not None
    assert (link / "__init__.py").is_file()
    unlink_pack(link)
    assert list((tmp_path / "custom_nodes").iterdir()) == []
    assert (pack_folder / "__init__.py").is_file()


def test_a_pack_that_is_there_under_any_name_is_left_alone(tmp_path: Path, pack_folder: Path) -> None:
    custom_nodes = tmp_path / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / "my-faceclip").symlink_to(pack_folder)
    assert link_pack(custom_nodes, pack_folder) is None
    # The repository cloned right into custom_nodes.
    assert link_pack(tmp_path, pack_folder) is None


def test_a_users_folder_of_that_name_is_not_touched(tmp_path: Path, pack_folder: Path) -> None:
    other = tmp_path / "custom_nodes" / "faceclip"
    other.mkdir(parents=True)
    (other / "theirs.py").touch()
    with pytest.raises(FileExistsError, match=r"faceclip is there already and is not this copy"):
        link_pack(tmp_path / "custom_nodes", pack_folder)
    assert (other / "theirs.py").is_file()


def test_a_link_to_a_pack_that_has_moved_is_renewed(tmp_path: Path, pack_folder: Path) -> None:
    custom_nodes = tmp_path / "custom_nodes"
    custom_nodes.mkdir()
    (custom_nodes / "faceclip").symlink_to(tmp_path / "where-it-was")
    link = link_pack(custom_nodes, pack_folder)
    assert link is not None and link.resolve() == pack_folder.resolve()
