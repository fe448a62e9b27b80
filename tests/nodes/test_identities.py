"""Blend, Save and Load Identity."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture
def folder(comfy: Any) -> Path:
    import folder_paths

    return Path(folder_paths.get_output_directory()) / "faceclip_identities"


def _equal(first: Any, second: Any) -> bool:
    return torch.equal(first.class_token, second.class_token) and torch.equal(first.patch_tokens, second.patch_tokens)


def test_the_ends_of_a_blend_are_the_two_people(run: Any, encoder: Any, crops: torch.Tensor) -> None:
    people = run("FaceCLIPEncodeIdentity", encoder=encoder, faces=crops, combine="batch")[0]
    first, second = people[0], people[1]
    assert _equal(run("FaceCLIPBlendIdentities", first=first, second=second, ratio=0.0)[0], first)
    assert _equal(run("FaceCLIPBlendIdentities", first=first, second=second, ratio=1.0)[0], second)
    middle = run("FaceCLIPBlendIdentities", first=first, second=second)[0]
    assert torch.allclose(middle.patch_tokens, (first.patch_tokens + second.patch_tokens) / 2, atol=1e-6)


def test_a_saved_identity_is_listed_and_comes_back_the_same(run: Any, pack: dict, identity: Any, folder: Path) -> None:
    kept, name = run("FaceCLIPSaveIdentity", identity=identity, name="Anna K.")
    assert kept is identity and (folder / name).is_file()
    choices = pack["FaceCLIPLoadIdentity"].define_schema().inputs[0].options
    assert name in choices
    assert _equal(run("FaceCLIPLoadIdentity", file_name=name)[0], identity)


def test_nothing_is_overwritten(run: Any, identity: Any, folder: Path) -> None:
    names = [run("FaceCLIPSaveIdentity", identity=identity, name="twice")[1] for _ in range(2)]
    assert names == ["twice.safetensors", "twice_2.safetensors"]
    assert all((folder / name).is_file() for name in names)


def test_names_taken_at_the_same_moment_do_not_meet(run: Any, identity: Any, folder: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        names = list(pool.map(lambda _: run("FaceCLIPSaveIdentity", identity=identity, name="at once")[1], range(8)))
    assert len(set(names)) == 8
    assert all(_equal(run("FaceCLIPLoadIdentity", file_name=name)[0], identity) for name in names)


def test_what_cannot_be_saved_leaves_no_file(run: Any, folder: Path) -> None:
    with pytest.raises(AttributeError):
        run("FaceCLIPSaveIdentity", identity=None, name="nothing")
    assert not (folder / "nothing.safetensors").exists()


@pytest.mark.parametrize(
    "name",
    [
        "",
        "../out",
        "a/b",
        "a\\b",
        "/etc/passwd",
        "C:x",
        ".hidden",
        "a\0b",
        "x" * 200,
        "nul",
        "Com1.old",
        "COM\u00b9",
        "lpt\u00b3.txt",
        "\u5199" * 90,
    ],
)
def test_a_name_that_could_leave_the_folder_is_refused(name: str, run: Any, pack: dict, identity: Any) -> None:
    assert "cannot be a file's" in pack["FaceCLIPSaveIdentity"].validate_inputs(name=name)
    with pytest.raises(ValueError, match="cannot be a file's"):
        run("FaceCLIPSaveIdentity", identity=identity, name=name)


def test_a_file_that_changed_is_read_again(run: Any, pack: dict, identity: Any, folder: Path) -> None:
    name = run("FaceCLIPSaveIdentity", identity=identity, name="changing")[1]
    node = pack["FaceCLIPLoadIdentity"]
    first = node.fingerprint_inputs(file_name=name)
    assert node.fingerprint_inputs(file_name=name) == first
    os.utime(folder / name, ns=(1, 1))
    assert node.fingerprint_inputs(file_name=name) != first


def test_another_file_in_the_folder_is_explained(run: Any, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    (folder / "photo.safetensors").write_bytes(b"\xff\xd8\xff\xe0 not an identity")
    with pytest.raises(ValueError, match="photo.safetensors"):
        run("FaceCLIPLoadIdentity", file_name="photo.safetensors")
