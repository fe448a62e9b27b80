"""Tensor files: the same bytes as the safetensors library and torch, one
tensor at a time, and clear words for bad files."""

from __future__ import annotations

import json
import os
import pickle

import pytest
import safetensors.torch
import torch

from faceclip.tensor_file import CheckpointError, Entry, open_tensor_file, write_safetensors, write_tensor_file

TENSORS = {
    "a": torch.randn(3, 4),
    "b.bias": torch.randn(5).bfloat16(),
    "c": torch.arange(6).view(2, 3),
    "d": torch.tensor(2.5),
    "e": torch.randn(2, 2).half(),
    "f": torch.zeros(0, 3),
    "g": torch.tensor([True, False]),
    "h": torch.randn(4).to(torch.float8_e4m3fn),
}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype
        assert found[name].shape == tensor.shape
        assert torch.equal(found[name].float(), tensor.float())


def read_all(path) -> dict[str, torch.Tensor]:
    return {name: entry.read() for name, entry in open_tensor_file(path).entries.items()}


def test_reads_what_the_safetensors_library_writes(tmp_path):
    safetensors.torch.save_file(TENSORS, tmp_path / "x.safetensors", {"who": "me"})
    assert_same(read_all(tmp_path / "x.safetensors"), TENSORS)
    assert open_tensor_file(tmp_path / "x.safetensors").metadata == {"who": "me"}


def test_the_safetensors_library_reads_what_we_write(tmp_path):
    write_safetensors(tmp_path / "new folder" / "x.safetensors", TENSORS, {"who": "me"})
    assert_same(safetensors.torch.load_file(tmp_path / "new folder" / "x.safetensors"), TENSORS)
    assert [path.name for path in (tmp_path / "new folder").iterdir()] == ["x.safetensors"]


@pytest.mark.parametrize("wrapper", [None, "state_dict", "module"])
@pytest.mark.parametrize("zipped", [True, False])
def test_reads_what_torch_saves_whatever_the_files_name(tmp_path, wrapper, zipped):
    whole = torch.randn(4, 6)
    tensors = {**TENSORS, "view": whole[1:, 2:], "transposed": whole.T, "tied": whole}
    if not zipped:
        del tensors["h"]  # torch's old format knows no fp8
    content = {wrapper: tensors, "step": 3} if wrapper else tensors
    torch.save(content, tmp_path / "model.safetensors", _use_new_zipfile_serialization=zipped)
    assert_same(read_all(tmp_path / "model.safetensors"), tensors)


def test_nested_dictionaries_become_dotted_names(tmp_path):
    torch.save(
        {"image_proj": {"latents": torch.zeros(2)}, "ip_adapter": {"1.to_k_ip.weight": torch.zeros(3)}}, tmp_path / "x.bin"
    )
    assert set(open_tensor_file(tmp_path / "x.bin").entries) == {"image_proj.latents", "ip_adapter.1.to_k_ip.weight"}


def test_a_read_tensor_belongs_to_the_caller(tmp_path):
    write_safetensors(tmp_path / "x.safetensors", TENSORS, {})
    entry = open_tensor_file(tmp_path / "x.safetensors").entries["a"]
    entry.read().zero_()
    assert torch.equal(entry.read(), TENSORS["a"])


class Payload:
    """Unpickling this would run a command."""

    def __reduce__(self):
        return os.system, ("echo ran > " + str(self.path),)


def test_a_file_with_code_is_refused_and_the_code_does_not_run(tmp_path):
    payload = Payload()
    payload.path = tmp_path / "ran"
    torch.save({"weight": torch.zeros(2), "evil": payload}, tmp_path / "x.pt")
    (tmp_path / "y.pt").write_bytes(pickle.dumps(payload))
    for name in ("x.pt", "y.pt"):
        with pytest.raises(CheckpointError, match=r"carries Python code.*Use the author's safetensors"):
            open_tensor_file(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def saved(tmp_path, kind: str):
    path = tmp_path / f"x.{kind}"
    if kind == "safetensors":
        write_safetensors(path, {"a": torch.randn(1000)}, {})
    else:
        torch.save({"a": torch.randn(1000)}, path, _use_new_zipfile_serialization=kind == "pt")
    return path


@pytest.mark.parametrize("kind", ["safetensors", "pt", "old"])
@pytest.mark.parametrize("kept", [5, 30, 0.5, 0.99])
def test_truncated_files_are_told_at_once(tmp_path, kind, kept):
    path = saved(tmp_path, kind)
    content = path.read_bytes()
    path.write_bytes(content[: kept if isinstance(kept, int) else int(len(content) * kept)])
    with pytest.raises(CheckpointError, match="incomplete|damaged|neither") as error:
        open_tensor_file(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty.*download it again"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>404</html>", "web page"),
        (b"\xff" * 100, "neither a safetensors file nor a torch file"),
        ((100).to_bytes(8, "little") + b"{" * 100, "damaged: its header"),
        ((2).to_bytes(8, "little") + b"[]", "neither a safetensors file nor a torch file"),
    ],
)
def test_files_that_are_no_weights_are_named(tmp_path, content, message):
    (tmp_path / "x.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        open_tensor_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1000], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [-2], "data_offsets": [0, -8]},
        {"dtype": "F32", "shape": [2], "data_offsets": [-8, 0]},
        {"dtype": ["F32"], "shape": [2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [True, 2], "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [0, 2**70], "data_offsets": [0, 0]},
        {"dtype": "F32", "shape": 2, "data_offsets": [0, 8]},
        {"dtype": "F32", "shape": [2]},
        {"dtype": "F32", "shape": [2.5], "data_offsets": [0, 10]},
        {"dtype": "F32", "shape": [2], "data_offsets": ["0", "8"]},
    ],
)
def test_headers_that_contradict_themselves_are_damage(tmp_path, entry):
    header = json.dumps({"a": entry}).encode()
    (tmp_path / "x.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 8)
    with pytest.raises(CheckpointError, match="damaged"):
        open_tensor_file(tmp_path / "x.safetensors")


@pytest.mark.parametrize("length", [0x3C, 0x80, 0x180])
def test_a_header_length_that_looks_like_another_formats_first_byte_misleads_nobody(tmp_path, length):
    """60 is `<`, as of a web page, and 128 is pickle's first byte."""
    header = json.dumps({"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}, separators=(",", ":")).encode()
    (tmp_path / "x.safetensors").write_bytes(length.to_bytes(8, "little") + header.ljust(length) + b"\0" * 8)
    assert torch.equal(read_all(tmp_path / "x.safetensors")["a"], torch.zeros(2))


def test_missing_files_and_folders_are_named(tmp_path):
    for path in (tmp_path / "nothing.pt", tmp_path):
        with pytest.raises(CheckpointError, match="There is no file"):
            open_tensor_file(path)


def test_a_torch_file_without_tensors_is_refused(tmp_path):
    torch.save({"step": 3}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="holds no weights"):
        open_tensor_file(tmp_path / "x.pt")


def test_a_failed_write_leaves_the_old_file_and_no_debris(tmp_path):
    path = tmp_path / "x.safetensors"
    write_safetensors(path, {"a": torch.ones(3)}, {})

    def fail() -> torch.Tensor:
        raise RuntimeError("disk on fire")

    with pytest.raises(RuntimeError, match="disk on fire"):
        write_tensor_file(path, {"a": Entry(torch.float32, (3,), fail)}, {})
    assert torch.equal(read_all(path)["a"], torch.ones(3))
    assert [file.name for file in tmp_path.iterdir()] == ["x.safetensors"]


def test_what_is_written_is_verified(tmp_path):
    values = iter([torch.zeros(3), torch.ones(3)])  # the source says something else when asked again
    with pytest.raises(CheckpointError, match="does not hold what was written"):
        write_tensor_file(tmp_path / "x.safetensors", {"a": Entry(torch.float32, (3,), lambda: next(values))}, {})
    assert not list(tmp_path.iterdir())


def test_what_was_let_go_is_read_again(tmp_path):
    values = torch.arange(1_000_000, dtype=torch.float32)
    write_safetensors(path := tmp_path / "a.safetensors", {"a": values}, {})
    entry = open_tensor_file(path).entries["a"]
    assert entry.let_go
    entry.let_go()  # before anything was looked at
    mapped = entry.mapped()
    assert torch.equal(mapped, values)
    entry.let_go()
    assert torch.equal(mapped, values) and torch.equal(entry.read(), values)
