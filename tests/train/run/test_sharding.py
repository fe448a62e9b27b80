"""Optimiser state dealt to ranks: the same bits as kept on each, a share
of the memory, checkpoints for any number of ranks."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from train.run.checkpointing import Checkpoints, ResumeError
from train.run.ema import MovingAverage
from train.run.ranks import Ranks
from train.run.sharding import Cut, ShardedAdamW, Shards, cut, optimizer_state
from train.run.state import Part, State, bare, model_state

CPU = torch.device("cpu")
STEPS = 5
SHAPES = {"a.weight": (10, 6), "a.bias": (40,), "b.weight": (8, 3, 3), "b.bias": (8,), "c.weight": (10, 8), "c.gain": (30,)}


class Run(NamedTuple):
    """Weights in bf16 with a scale in fp32, as in pretraining, their optimiser and their moving average."""

    weights: dict[str, torch.nn.Parameter]
    optimizer: ShardedAdamW
    average: MovingAverage

    @property
    def state(self) -> State:
        average = self.average.state(self.optimizer.shards)
        return {**model_state("model", self.weights), **optimizer_state(self.optimizer), **average}


def begin(ranks: Ranks, dealt: bool, seed: int = 0, whole: bool = False) -> Run:
    random = torch.Generator().manual_seed(seed)
    weights = {n: torch.nn.Parameter(torch.randn(shape, generator=random).bfloat16()) for n, shape in SHAPES.items()}
    weights["scale"] = torch.nn.Parameter(torch.tensor(2.5))
    shards = Shards(weights, ranks, dealt, whole)
    optimizer = ShardedAdamW(shards, lr=0.0, weight_decay=0.1, betas=(0.9, 0.999))
    return Run(weights, optimizer, MovingAverage(shards.owned, 0.9))


def take(run: Run, step: int) -> None:
    """One step as the loop takes it: clipped gradients, another learning rate each time."""
    random = torch.Generator().manual_seed(100 + step)
    for weight in run.weights.values():
        weight.grad = torch.randn(weight.shape, generator=random).to(weight.dtype)
    norm = torch.stack([weight.grad.norm(dtype=torch.float32) for weight in run.weights.values()]).norm()
    for weight in run.weights.values():
        weight.grad.mul_(1 / norm)
    for group in run.optimizer.param_groups:
        group["lr"] = 1e-2 * (step + 1)
    run.optimizer.step()
    run.average.update(run.optimizer)


WAYS = {"parts": (True, False), "tensors": (True, True), "all": (False, False)}
"""What ranks keep, (dealt, whole): parts of tensors; whole tensors, as earlier versions did; all of them."""


def train_each_way(rank: int, world: int, folder: Path) -> dict[str, tuple[State, dict[str, torch.Tensor]]]:
    """{way: (this rank's state, all of the average on rank 0)}, with checkpoints in `folder`/way."""
    found = {}
    for way, (dealt, whole) in WAYS.items():
        run = begin(Ranks(rank, world, CPU), dealt, whole=whole)
        for step in range(STEPS):
            take(run, step)
        Checkpoints(folder / way, Ranks(rank, world, CPU), 1).save(STEPS, run.state, {})
        found[way] = run.state, run.optimizer.shards.collect(run.average.shadow, torch.bfloat16)
    return found


@pytest.fixture(scope="module")
def trained(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[Any]]]:
    """By number of ranks: the folder of the checkpoints, and what each rank returned."""
    folders = {world: tmp_path_factory.mktemp(f"of{world}") for world in (1, 2, 4)}
    results = {1: [train_each_way(0, 1, folders[1])]}
    results |= {world: run_ranks(train_each_way, world, folders[world]) for world in (2, 4)}
    return {world: (folders[world], results[world]) for world in folders}


def without_weights(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("model.")}


def count(state: State) -> int:
    return sum(tensor.numel() for tensor in bare(state).values())


def within(state: State, whole: State) -> State:
    """What `whole` has where the tensors of `state` lie."""
    found: State = {}
    for name, value in state.items():
        tensor = whole[name]
        assert isinstance(tensor, torch.Tensor) and value.shape == tensor.shape
        found[name] = tensor[value.start : value.start + len(value.tensor)] if isinstance(value, Part) else tensor
    return found


def require_same_bits(found: State, expected: State) -> None:
    mine, other = bare(found), bare(expected)
    assert mine.keys() == other.keys()
    assert all(mine[n].dtype == other[n].dtype and torch.equal(mine[n], other[n]) for n in other)


def test_dealing_changes_no_bit_and_divides_the_state(trained: dict[int, tuple[Path, list[Any]]]) -> None:
    (alone,) = trained[1][1]
    whole, average = alone["all"]
    expected = without_weights(whole)
    for world, (_, ranks) in trained.items():
        for way in WAYS:
            for rank, result in enumerate(ranks):
                state, collected = result[way]
                require_same_bits(state, within(state, whole))
                require_same_bits(collected, average if rank == 0 else {})
            own = [without_weights(result[way][0]) for result in ranks]
            assert set().union(*own) == expected.keys()
            kept = sum(map(count, own)) - sum(name.endswith(".step") for state in own for name in state)
            assert kept == (world if way == "all" else 1) * (count(expected) - len(SHAPES) - 1)
            if way == "parts":  # four numbers a weight, half a row of ten weights at either end, and the counts of steps
                assert max(map(count, own)) <= count(expected) / world + 4 * 10 + len(SHAPES) + 1
                assert world == 1 or any(isinstance(value, Part) for state in own for value in state.values())


@pytest.mark.parametrize("now", [1, 2, 4])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_any_number_of_ranks_reads_what_any_other_wrote(
    before: int, now: int, trained: dict[int, tuple[Path, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = trained[1][1][0]["all"][0]
    for written in WAYS:
        for dealt, whole in WAYS.values():
            for rank in range(now):
                run = begin(Ranks(rank, now, CPU), dealt, seed=9, whole=whole)
                source = Checkpoints(trained[before][0] / written, Ranks(0, 1, CPU), 1).saved(STEPS)
                read: list[str] = []
                monkeypatch.setattr(source, "_read", lambda state, f=source._read, r=read: (r.extend(state), f(state)))
                source.read_into(run.state, whole="model")
                assert set(read) == run.state.keys()  # and so nothing that another rank keeps
                require_same_bits(run.state, within(run.state, saved))


def test_a_checkpoint_of_another_model_changes_nothing(trained: dict[int, tuple[Path, list[Any]]]) -> None:
    saved = Checkpoints(trained[2][0] / "parts", Ranks(0, 1, CPU), 1).saved(STEPS)
    for change in ("another shape", "another dtype", "one more", "one less"):
        run = begin(Ranks(0, 1, CPU), True, seed=9)
        state = run.state
        if change == "another shape":
            state["model.b.bias"] = torch.zeros(9, dtype=torch.bfloat16)
        elif change == "another dtype":
            state["model.b.bias"] = state["model.b.bias"].float()
        elif change == "one more":
            state["model.b.bias2"] = torch.zeros(3)
        else:
            del state["model.b.bias"]
        before = {name: tensor.clone() for name, tensor in run.state.items()}
        with pytest.raises(ResumeError, match=r"another model: 1 tensors differ, among them model\.b\.bias"):
            saved.read_into(state, whole="model")
        require_same_bits(run.state, before)


def load_of(cuts: list[Cut], shapes: dict[str, tuple[int, ...]], world: int) -> list[int]:
    """Numbers that each rank keeps the state of."""
    load = [0] * world
    for name, owner, start, stop in cuts:
        load[owner] += (stop - start) * math.prod(shapes[name][1:])
    return load


@pytest.mark.parametrize("world", [1, 2, 7, 64, 128])
def test_the_fullest_rank_keeps_its_share_of_one_large_tensor_and_many_small(world: int) -> None:
    shapes = {"scale": (), "a": (4000,), "head": (768, 2000), "b": (300, 40), **{f"p{i}": (100 + i,) for i in range(300)}}
    cuts = cut(shapes, world)
    load = load_of(cuts, shapes, world)
    assert sum(load) == sum(math.prod(shape) for shape in shapes.values())
    assert max(load) <= sum(load) / world + 2000  # half a row at either end
    for name, shape in shapes.items():  # every row once, in order
        spans = [(start, stop) for n, _, start, stop in cuts if n == name]
        assert spans[0][0] == 0 and spans[-1][1] == (shape[0] if shape else 1)
        assert all(before[1] == after[0] for before, after in pairwise(spans))


def test_what_may_not_be_cut_is_dealt_whole() -> None:
    shapes = {f"p{i}": (size, 3) for i, size in enumerate([100, 90, 50, 50, 40, 30, 20, 10, 10])}
    cuts = cut(shapes, 4, whole=True)
    assert [(name, start, stop) for name, _, start, stop in cuts] == [(name, 0, shape[0]) for name, shape in shapes.items()]
    assert sum(load_of(cuts, shapes, 4)) == 1200 and max(load_of(cuts, shapes, 4)) <= 1200 / 4 + 300
    assert len({each.owner for each in cut({"only": (5, 2)}, 3, whole=True)}) == 1  # ranks without a parameter are fine


def test_a_damaged_checkpoint_says_which_folder_to_delete(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Ranks(0, 1, CPU), 1)
    for step, damage in ((3, ".metadata"), (4, "__0_0.distcp")):
        run = begin(Ranks(0, 1, CPU), True)
        folder = checkpoints.save(step, run.state, {})
        (folder / damage).write_bytes((folder / damage).read_bytes()[:100])
        with pytest.raises(ResumeError, match=f"step-0000000{step} is damaged: (.|\n)*Delete that folder"):
            checkpoints.saved(step).read_into(run.state, whole="model")


def swap_both_ways(rank: int, world: int) -> dict[bool, Any]:
    """{dealt: (weights before the average takes their place, while it has it, and after; the average)}."""
    found = {}
    for dealt in (True, False):
        run = begin(Ranks(rank, world, CPU), dealt)
        for step in range(STEPS):
            take(run, step)
        shards = run.optimizer.shards
        expected = {name: tensor.float() for name, tensor in run.average.shadow.items()} if not dealt else {}
        before = {name: weight.detach().clone() for name, weight in run.weights.items()}
        with run.average.in_place(shards):
            within = {name: weight.detach().clone() for name, weight in run.weights.items()}
        after = {name: weight.detach().clone() for name, weight in run.weights.items()}
        found[dealt] = before, within, after, expected
    return found


def test_the_average_stands_in_for_the_weights_on_every_rank_and_leaves_their_very_bits(run_ranks: Callable[..., Any]) -> None:
    for found in run_ranks(swap_both_ways, 2):
        average = found[False][3]
        for before, within, after, _ in found.values():
            assert all(torch.equal(after[name], weight) for name, weight in before.items())
            for name, weight in within.items():
                assert torch.equal(weight, average[name].to(weight.dtype)) and not torch.equal(weight, before[name])


def most_of(rank: int, world: int) -> tuple[list[float], list[bool]]:
    ranks = Ranks(rank, world, CPU)
    return ranks.most([0.25, 3.5, -1.0] if rank else [0.5, 1.0, -2.0]), ranks.any(rank == 1, False)


def test_the_slowest_rank_counts(run_ranks: Callable[..., Any]) -> None:
    assert run_ranks(most_of, 2) == [([0.5, 3.5, -1.0], [True, False])] * 2
