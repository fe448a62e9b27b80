"""The list of tensors in a file that torch saved, taken apart without running anything.

An unpickler that makes nothing but containers, numbers, and places of tensors. `torch.load` has one as well,
but reads what the tensors hold at once; and `torch.jit.load` runs the program that a TorchScript archive is,
which may write any file.
"""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch


class OtherObjectsError(ValueError):
    """The list names something besides containers, numbers and tensors; the message is its name."""


@dataclass(frozen=True)
class Place:
    """Where a tensor lies: in the storage KEY (an archive's member `data/KEY`), from value `start` on."""

    key: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    stride: tuple[int, ...]
    start: int


@dataclass(frozen=True)
class _Storage:
    key: str
    dtype: torch.dtype | None  # None where the tensor tells it


class _Module:
    """What stands for an object of any class that a TorchScript program defines."""

    def __init__(self, *parts: Any):
        self.state: Any = {}

    def __setstate__(self, state: Any) -> None:
        self.state = state


_STORAGES: dict[str, torch.dtype | None] = {
    **{f"{name}Storage": dtype for name, dtype in (("Float", torch.float32), ("Half", torch.float16), ("Double", torch.float64))},
    **{f"{name}Storage": dtype for name, dtype in (("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16))},
    **{f"{name}Storage": dtype for name, dtype in (("Char", torch.int8), ("Byte", torch.uint8), ("Bool", torch.bool))},
    **{f"Complex{name}Storage": dtype for name, dtype in (("Float", torch.complex64), ("Double", torch.complex128))},
    "BFloat16Storage": torch.bfloat16,
    "UntypedStorage": None,
}


def unpickle(pickled: bytes, script: bool = False) -> Any:
    """The content, with a `Place` for each tensor; `script`: objects of a program's own classes may be in it.

    Raises OtherObjectsError, and for a damaged pickle whatever comes.
    """
    return Unpickler(io.BytesIO(pickled), script).load()


def parameters(root: Any) -> Iterator[tuple[str, Place]]:
    """The tensors of a TorchScript program's modules, by the names that its state dict has."""
    waiting, seen = [("", root)], set()
    while waiting:
        prefix, thing = waiting.pop()
        if isinstance(thing, Place):
            yield prefix, thing
        elif isinstance(thing, _Module) and isinstance(thing.state, Mapping) and id(thing) not in seen:
            seen.add(id(thing))
            waiting += [(f"{prefix}.{name}".lstrip("."), part) for name, part in thing.state.items()]


def _tensor(storage: Any, start: Any, shape: Any, stride: Any, *others: Any) -> Place:
    return _typed_tensor(storage, start, shape, stride, None, None, storage.dtype)


def _typed_tensor(storage: Any, start: Any, shape: Any, stride: Any, grad: Any, hooks: Any, dtype: Any, *others: Any) -> Place:
    numbers = (start, *shape, *stride)
    if not isinstance(storage, _Storage) or not isinstance(dtype, torch.dtype) or len(shape) != len(stride):
        raise ValueError("a tensor that is none")
    if not all(type(number) is int and 0 <= number < 2**48 for number in numbers):
        raise ValueError("a tensor of no size")
    return Place(storage.key, dtype, tuple(shape), tuple(stride), start)


def _first(first: Any = (), *others: Any) -> Any:
    return first


def _of_type(make: Any, kind: Any, parts: Any, state: Any) -> Any:
    return make(*parts)


def _text(*parts: Any) -> str:
    return " ".join(map(str, parts))


_GLOBALS = {
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _typed_tensor,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.nn.parameter.Parameter": _first,
    "torch.Tensor": _first,
    "torch.Size": _first,
    "torch.device": _text,
    "collections.OrderedDict": collections.OrderedDict,
    "collections.Counter": collections.Counter,
    **{f"torch.storage.{name}": name for name in _STORAGES},
    **{f"torch.{name}": name for name in _STORAGES},
    **{f"{module}.set": set for module in ("builtins", "__builtin__")},
}
_SCRIPT_GLOBALS = {f"torch.jit._pickle.build_{kind}list": _first for kind in ("int", "tensor", "double", "bool")}


class Unpickler(pickle._Unpickler):
    """Python's own, not the faster one in C, which takes memory for as many parts as a damaged number says."""

    def __init__(self, file: Any, script: bool = False):
        super().__init__(file)
        self._script = script
        self.storages: dict[str, torch.dtype | None] = {}
        """Of every storage that was named so far, what its values are; None for bytes."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _GLOBALS:
            return _GLOBALS[full]
        if module == "torch" and isinstance(getattr(torch, name, None), torch.dtype):
            return getattr(torch, name)
        if self._script and full in _SCRIPT_GLOBALS:
            return _SCRIPT_GLOBALS[full]
        if self._script and full.startswith("__torch__."):
            return type("Module", (_Module,), {})
        raise OtherObjectsError(full[:160])

    def persistent_load(self, pid: Any) -> _Storage:
        kind, storage, key, *others = pid
        if kind != "storage" or storage not in _STORAGES or not isinstance(key, str):
            raise ValueError("a storage that is none")
        if any(others[2:]):  # in the old format alone, of torch before 0.4
            raise OtherObjectsError("a part of another storage")
        self.storages.setdefault(key, _STORAGES[storage])
        return _Storage(key, _STORAGES[storage])
