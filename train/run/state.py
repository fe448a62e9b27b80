"""What a run keeps, as named tensors, and how the parts that ranks have of one
tensor lie in torch.distributed.checkpoint's files."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner, DefaultSavePlanner, create_default_local_load_plan
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorStorageMetadata
from torch.distributed.checkpoint.planner import LoadPlan, SavePlan, TensorWriteData, WriteItem, WriteItemType
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list


class Part(NamedTuple):
    """Some rows of a tensor, the first of which is its row `start` of `rows`."""

    tensor: Tensor
    start: int
    rows: int

    @property
    def shape(self) -> torch.Size:
        """Of the whole tensor."""
        return torch.Size([self.rows, *self.tensor.shape[1:]])

    @property
    def dtype(self) -> torch.dtype:
        return self.tensor.dtype

    @property
    def chunk(self) -> ChunkStorageMetadata:
        """Its place, as checkpoints have it."""
        offsets = torch.Size([self.start] + [0] * (self.tensor.ndim - 1))
        return ChunkStorageMetadata(offsets=offsets, sizes=self.tensor.shape)


State = dict[str, Tensor | Part]


def model_state(prefix: str, parameters: Mapping[str, Tensor]) -> State:
    """Named tensors under a prefix; they stay those of the model."""
    return {f"{prefix}.{name}": tensor.detach() for name, tensor in parameters.items()}


def bare(state: Mapping[str, Tensor | Part]) -> dict[str, Tensor]:
    """The tensors themselves, of parts what is held of them."""
    return {name: value.tensor if isinstance(value, Part) else value for name, value in state.items()}


def parts_of(state: Mapping[str, Tensor | Part]) -> dict[str, Part]:
    """Of what is held of a state but a part."""
    return {name: value for name, value in state.items() if isinstance(value, Part)}


class PartSavePlanner(DefaultSavePlanner):
    """Writes each rank's parts as parts of the whole tensor, whoever reads it. The rest as torch does."""

    def __init__(self, parts: Mapping[str, Part]):
        super().__init__()
        self._chunks = {name: (part.chunk, part.shape) for name, part in parts.items()}

    def create_local_plan(self) -> SavePlan:
        plan = super().create_local_plan()
        self.plan = dataclasses.replace(plan, items=[self._placed(item) for item in plan.items])
        return self.plan

    def lookup_object(self, index: MetadataIndex) -> Any:
        return self.state_dict[index.fqn]

    def _placed(self, item: WriteItem) -> WriteItem:
        if item.index.fqn not in self._chunks:
            return item
        chunk, shape = self._chunks[item.index.fqn]
        properties = cast("TensorWriteData", item.tensor_data).properties
        return WriteItem(
            index=MetadataIndex(item.index.fqn, chunk.offsets),
            type=WriteItemType.SHARD,
            tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=shape),
        )


class PartLoadPlanner(DefaultLoadPlanner):
    """Reads parts of tensors from wherever parts of them lie, as many as there are. The rest as torch does."""

    def __init__(self, parts: Mapping[str, Part]):
        super().__init__()
        self._parts = dict(parts)

    def create_local_plan(self) -> LoadPlan:
        assert self.metadata is not None
        whole = {name: tensor for name, tensor in self.state_dict.items() if name not in self._parts}
        plan = create_default_local_load_plan(whole, self.metadata)
        for name, part in self._parts.items():
            saved = cast("TensorStorageMetadata", self.metadata.state_dict_metadata[name])
            plan.items.extend(create_read_items_for_chunk_list(name, saved, [part.chunk]))
        return plan

    def lookup_tensor(self, index: MetadataIndex) -> Tensor:
        return self.state_dict[index.fqn]
