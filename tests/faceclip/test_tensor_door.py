"""Files of weights that are damaged, packed, in parts, or programs: read right, or told as what they are."""

import json
import pickle
import random
import re
import struct
import tracemalloc
import zipfile

import pytest
import safetensors.torch
import torch
from torch.nn import Conv2d, Linear

from faceclip.tensor_file import CheckpointError, open_tensor_file, write_safetensors

A = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def read_all(path) -> dict[str, torch.Tensor]:
    return {name: entry.read() for name, entry in open_tensor_file(path).entries.items()}


def write_raw(path, header, data: bytes = bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


@pytest.mark.parametrize(
    ("header", "size", "told"),
    [
        ({"a": A, "b": A}, 8, "'b' overlaps the one before it"),
        ({"a": A, "b": {**A, "data_offsets": [4, 12]}}, 12, "'b' overlaps"),
        ({"a": A, "b": {**A, "data_offsets": [12, 20]}}, 20, "'b' leaves a gap"),
        ({"a": {**A, "data_offsets": [4, 12]}}, 12, "'a' leaves a gap"),
        ({"a": A}, 24, "16 bytes follow its last tensor"),
        ({"a": A}, 7, "incomplete: 7 of 8 bytes"),
        ({"__metadata__": ["format"], "a": A}, 8, "its metadata is"),
        ({"__metadata__": {"format": 5}, "a": A}, 8, "its metadata is"),
        (b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 8, "RecursionError"),
    ],
    ids=["same bytes", "overlap", "gap", "gap at the start", "behind the end", "cut", "list", "number", "deep"],
)
def test_what_the_safetensors_library_refuses_is_refused(tmp_path, header, size, told):
    path = write_raw(tmp_path / "x.safetensors", header, bytes(size))
    with pytest.raises(CheckpointError, match=told):
        open_tensor_file(path)
    with pytest.raises(Exception):  # noqa: B017 - its own errors have no public base
        safetensors.torch.load_file(path)


def test_a_name_that_is_there_twice_is_refused(tmp_path):
    one = json.dumps(A).encode()
    with pytest.raises(CheckpointError, match="'a' is in it twice"):
        open_tensor_file(write_raw(tmp_path / "x.safetensors", b'{"a":' + one + b',"a":' + one + b"}"))


@pytest.mark.parametrize("dtype", ["uint16", "uint32", "uint64", "complex64", "float8_e8m0fnu"])
def test_every_number_format_that_torch_has_is_read(tmp_path, dtype):
    tensors = {"a": torch.ones(3, dtype=getattr(torch, dtype)), "b": torch.zeros(2)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    found = read_all(tmp_path / "x.safetensors")
    assert found["a"].dtype == tensors["a"].dtype
    assert torch.equal(found["a"].view(torch.uint8), tensors["a"].view(torch.uint8))


def test_a_number_format_of_the_future_is_not_called_damage(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"a": {**A, "dtype": "F3_E1M1"}})
    with pytest.raises(CheckpointError, match="number format 'F3_E1M1', the first 'a'.*need not be damaged"):
        open_tensor_file(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_pt_that_was_packed_again_has_the_same_weights(tmp_path, method):
    whole = torch.randn(40, 6)
    tensors = {"a": whole, "view": whole[1:, 2:], "b": torch.randn(5).bfloat16(), "c": torch.randn(4).to(torch.float8_e4m3fn)}
    repacked(tensors, tmp_path / "packed.pt", method)
    found = read_all(tmp_path / "packed.pt")
    assert all(torch.equal(found[name].float(), tensor.float()) for name, tensor in tensors.items())


def test_damage_in_a_packed_part_is_told(tmp_path):
    repacked({"a": torch.randn(400)}, tmp_path / "packed.pt", zipfile.ZIP_DEFLATED)
    content = bytearray((tmp_path / "packed.pt").read_bytes())
    content[content.index(b"data/0") + 200] ^= 0xFF
    (tmp_path / "packed.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"packed\.pt is damaged: its part plain/data/0 does not unpack"):
        read_all(tmp_path / "packed.pt")


def repacked(tensors: dict[str, torch.Tensor], path, method: int) -> None:
    torch.save(tensors, path.with_name("plain.pt"))
    with zipfile.ZipFile(path.with_name("plain.pt")) as old, zipfile.ZipFile(path, "w", method) as new:
        for member in old.infolist():
            new.writestr(member.filename, old.read(member))


def test_what_unpacks_to_far_more_than_it_is_is_refused(tmp_path, monkeypatch):
    from faceclip import read_torch

    monkeypatch.setattr(read_torch, "_LARGEST_EXPANSION", 1 << 20)
    repacked({"a": torch.zeros(1 << 20)}, tmp_path / "bomb.pt", zipfile.ZIP_DEFLATED)
    assert read_all(tmp_path / "plain.pt")["a"].shape == (1 << 20,)
    with pytest.raises(CheckpointError, match="times its size"):
        open_tensor_file(tmp_path / "bomb.pt")


@pytest.mark.parametrize("zipped", [True, False])
def test_a_damaged_torch_file_never_ends_in_a_raw_error(tmp_path, zipped):
    torch.save({f"w{i}": torch.zeros(4, 4) for i in range(6)}, tmp_path / "x.pt", _use_new_zipfile_serialization=zipped)
    whole, chance = (tmp_path / "x.pt").read_bytes(), random.Random(3)
    for _ in range(150):
        content = bytearray(whole)
        content[chance.randrange(len(content))] = chance.randrange(256)
        (tmp_path / "x.pt").write_bytes(content)
        try:
            read_all(tmp_path / "x.pt")
        except CheckpointError as error:
            assert "x.pt" in str(error)


def archive(path, pickled: bytes, **members: bytes):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {"data.pkl": pickled, "version": b"3\n", "byteorder": b"little", **members}.items():
            file.writestr(f"archive/{name}", content)
    return path


@pytest.mark.parametrize(
    "pickled", [b"\x80\x02.", b"\x80\x02t.", b"\x80\x02]q\0(" + b"]" * 100_000 + b"e.", b"\x80\x02Nr\xff\xff\xff\x7f."]
)
def test_a_pickle_of_nothing_is_told(tmp_path, pickled):
    with pytest.raises(CheckpointError, match="damaged|holds no weights"):
        open_tensor_file(archive(tmp_path / "x.pt", pickled))


def test_dictionaries_within_dictionaries_end(tmp_path):
    nested: dict = {}
    for _ in range(60):  # 2^60 paths lead to the innermost
        nested = {"a": nested, "b": nested}
    torch.save(nested, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="more than 1,000,000 parts"):
        open_tensor_file(tmp_path / "x.pt")


class Tower(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first = Linear(3, 4)
        self.rest = torch.nn.Sequential(Conv2d(1, 2, 3), torch.nn.BatchNorm2d(2))
        self.scale = torch.nn.Parameter(torch.tensor(2.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * self.scale


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_torchscript_archive_is_read_without_running_it(tmp_path):
    tower = Tower().half()
    torch.jit.script(tower).save(str(tmp_path / "x.pt"))
    found, expected = read_all(tmp_path / "x.pt"), tower.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_a_torchscript_archive_with_other_things_is_refused(tmp_path):
    evil = pickle.dumps(print, protocol=2)
    path = archive(tmp_path / "x.pt", evil, **{"constants.pkl": b"\x80\x02)."})
    with pytest.raises(
        CheckpointError, match=r"TorchScript program, which is not run here, and holds builtins\.print|__builtin__\.print"
    ):
        open_tensor_file(path)


def write_parts(folder, ending: str = "safetensors") -> dict[str, torch.Tensor]:
    tensors = {name: torch.randn(3) for name in "abcd"}
    for number, names in ((1, "ab"), (2, "cd")):
        path = folder / f"model-{number:05}-of-00002.{ending}"
        part = {name: tensors[name] for name in names}
        write_safetensors(path, part, {}) if ending == "safetensors" else torch.save(part, path)
    places = {name: f"model-{1 if name in 'ab' else 2:05}-of-00002.{ending}" for name in "abcd"}
    (folder / f"model.{ending}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    return tensors


def test_one_value_does_not_stand_for_a_memory_full_of_them(tmp_path):
    torch.save({"a": torch.ones(1).expand(10**11), "b": torch.ones(1).expand(8)}, tmp_path / "w.pt")
    with pytest.raises(CheckpointError, match=r"holds a tensor of shape \[100000000000\] in 4 bytes: no weights do"):
        open_tensor_file(tmp_path / "w.pt")


def test_what_trainers_keep_beside_weights_is_passed_over(tmp_path):
    import collections

    weights = Linear(2, 3).state_dict()  # an OrderedDict with an attribute of its own
    content = {
        "state_dict": {**weights, "scale": torch.nn.Parameter(torch.ones(2))},
        "optimizer": {
            "state": {0: {"exp_avg": torch.zeros(2), "step": torch.tensor(3)}},
            "lr": [{"betas": (0.9, 0.99)}],
        },
        "seen": {1, 2},
        "counts": collections.Counter("aab"),
        "type": torch.float16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
    }
    torch.save(content, tmp_path / "x.pt")
    names = {"weight", "bias", "scale", "optimizer.state.0.exp_avg", "optimizer.state.0.step"}
    assert read_all(tmp_path / "x.pt").keys() == names
    torch.save({**content, "by step": collections.defaultdict(list)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match=r"objects besides weights \(collections\.defaultdict\), so it was not opened"):
        read_all(tmp_path / "x.pt")


@pytest.mark.parametrize("chosen", ["model-00001-of-00002", "model-00002-of-00002", "model"])
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_any_part_of_a_model_opens_all_of_it(tmp_path, chosen, ending):
    tensors = write_parts(tmp_path, ending)
    found = read_all(tmp_path / (f"{chosen}.{ending}.index.json" if chosen == "model" else f"{chosen}.{ending}"))
    assert found.keys() == tensors.keys() and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_part_without_the_others_names_them(tmp_path):
    write_parts(tmp_path)
    (tmp_path / "model-00002-of-00002.safetensors").unlink()
    told = (
        r"-00001-of-00002.safetensors is one of 2 parts of a model, which has also model-00002-of-00002\.safetensors, not there"
    )
    with pytest.raises(CheckpointError, match=told):
        open_tensor_file(tmp_path / "model-00001-of-00002.safetensors")
    with pytest.raises(CheckpointError, match=r"index\.json names model-00002-of-00002\.safetensors, not there"):
        open_tensor_file(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("place", ["../x.safetensors", "/etc/passwd", "a\\b.safetensors", 5, "model.safetensors.index.json"])
def test_an_index_names_files_beside_it_only(tmp_path, place):
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": place}}))
    with pytest.raises(CheckpointError, match="which is not a file beside it"):
        open_tensor_file(index)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {}}', "[" * 100_000, "x"])
def test_an_index_that_is_none_is_told(tmp_path, content):
    (tmp_path / "model.safetensors.index.json").write_text(content)
    with pytest.raises(CheckpointError, match="is not an index of a model's parts"):
        open_tensor_file(tmp_path / "model.safetensors.index.json")


@pytest.mark.parametrize("kind", ["safetensors", "pt", "old"])
def test_a_mapped_tensor_is_the_same_as_one_that_was_read(tmp_path, kind):
    tensors = {
        "a": torch.randn(7),
        "b": torch.arange(5),
        "c": torch.zeros(0, 3),
        "d": torch.randn(4, 4).T,
        "e": torch.tensor(True),
    }
    path = tmp_path / f"x.{kind}"
    if kind == "safetensors":
        write_safetensors(path, tensors, {})
    else:
        torch.save(tensors, path, _use_new_zipfile_serialization=kind == "pt")
    for name, entry in open_tensor_file(path).entries.items():
        assert torch.equal(entry.mapped(), tensors[name]) and entry.mapped().dtype == tensors[name].dtype
        assert (entry.view is None) <= (kind == "old" or name in "cd"), "in the old format it depends on the length of the names"


def test_the_old_format_is_opened_without_reading_what_it_holds(tmp_path):
    torch.save({"a": torch.zeros(8 << 20)}, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    with (tmp_path / "old.pt").open("r+b") as file:
        file.seek(-4, 2)
        file.write(struct.pack("<f", 3))
    tracemalloc.start()
    entry = open_tensor_file(tmp_path / "old.pt").entries["a"]
    assert entry.shape == (8 << 20,) and tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert entry.read()[-1] == 3


@pytest.mark.parametrize("length", [2**31, 2**50])
def test_a_damaged_length_in_the_old_format_asks_for_no_memory(tmp_path, length):
    (tmp_path / "x.pt").write_bytes(b"\x80\x04\x8e" + length.to_bytes(8, "little") + b"x.")
    with pytest.raises(CheckpointError, match="goes on and on"):
        open_tensor_file(tmp_path / "x.pt")


def test_messages_are_told_once_with_the_files_name(tmp_path):
    path = write_raw(tmp_path / "x.safetensors", {"a": A}, bytes(24))
    with pytest.raises(CheckpointError) as told:
        open_tensor_file(path)
    assert len(re.findall(r"x\.safetensors", str(told.value))) == 1
