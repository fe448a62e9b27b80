"""Optimiser state dealt to ranks: the same bits as kept on each, a share
of the memory, checkpoints for any number of ranks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from train.run.checkpointing import Checkpoints, ResumeError, State, model_state, optimizer_state
from train.run.ema import MovingAverage
from train.run.ranks import Ranks
from train.run.sharding import ShardedAdamW, Shards, deal

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
        average = model_state("ema", self.average.shadow)
        return {**model_state("model", self.weights), **optimizer_state(self.optimizer), **average}


def begin(ranks: Ranks, dealt: bool, seed: int = 0) -> Run:
    random = torch.Generator().manual_seed(seed)
    weights = {n: torch.nn.Parameter(torch.randn(shape, generator=random).bfloat16()) for n, shape in SHAPES.items()}
    weights["scale"] = torch.nn.Parameter(torch.tensor(2.5))
    shards = Shards(weights, ranks, dealt)
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


def train_both_ways(rank: int, world: int, folder: Path) -> dict[bool, Any]:
    """{dealt: (this rank's state, all of the average on rank 0)}, with checkpoints in `folder`/dealt."""
    found = {}
    for dealt in (True, False):
        run = begin(Ranks(rank, world, CPU), dealt)
        for step in range(STEPS):
            take(run, step)
        Checkpoints(folder / str(dealt), Ranks(rank, world, CPU), 1).save(STEPS, run.state, {})
        found[dealt] = run.state, run.optimizer.shards.collect(run.average.shadow, torch.bfloat16)
    return found


@pytest.fixture(scope="module")
def trained(run_ranks: Callable[..., list[Any]], tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, list[Any]]]:
    """By number of ranks: the folder of the checkpoints, and what each rank returned."""
    folders = {world: tmp_path_factory.mktemp(f"of{world}") for world in (1, 2, 4)}
    results = {1: [train_both_ways(0, 1, folders[1])]}
    results |= {world: run_ranks(train_both_ways, world, folders[world]) for world in (2, 4)}
    return {world: (folders[world], results[world]) for world in folders}


def without_weights(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("model.")}


def count(state: State) -> int:
    return sum(tensor.numel() for tensor in state.values())


def require_same_bits(found: State, expected: State) -> None:
    assert found.keys() == expected.keys()
    assert all(found[n].dtype == expected[n].dtype and torch.equal(found[n], expected[n]) for n in expected)


def test_dealing_changes_no_bit_and_divides_the_state(trained: dict[int, tuple[Path, list[Any]]]) -> None:
    (alone,) = trained[1][1]
    whole, average = alone[False]
    expected = without_weights(whole)
    for world, (_, ranks) in trained.items():
        for rank, result in enumerate(ranks):
            for dealt, (state, collected) in result.items():
                require_same_bits(state, {name: whole[name] for name in state})
                require_same_bits(collected, average if rank == 0 else {})
                assert state.keys() == whole.keys() or (dealt and world > 1)
        together: State = {}
        for state, _ in (result[True] for result in ranks):
            own = without_weights(state)
            assert not together.keys() & own.keys()
            together |= own
            assert count(own) < 1.3 / world * count(expected)
        assert together.keys() == expected.keys()


@pytest.mark.parametrize("now", [1, 2, 4])
@pytest.mark.parametrize("before", [1, 2, 4])
def test_any_number_of_ranks_reads_what_any_other_wrote(
    before: int, now: int, trained: dict[int, tuple[Path, list[Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, results = trained[before]
    saved: State = {name: tensor for result in results for name, tensor in result[True][0].items()}
    for written in (True, False):
        for dealt in (True, False):
            for rank in range(now):
                run = begin(Ranks(rank, now, CPU), dealt, seed=9)
                source = Checkpoints(folder / str(written), Ranks(0, 1, CPU), 1).saved(STEPS)
                read: list[str] = []
                monkeypatch.setattr(source, "_read", lambda state, f=source._read, r=read: (r.extend(state), f(state)))
                source.read_into(run.state, whole="model")
                assert set(read) == run.state.keys()  # and so nothing that another rank keeps
                require_same_bits(run.state, {name: saved[name] for name in run.state})


def test_a_checkpoint_of_another_model_changes_nothing(trained: dict[int, tuple[Path, list[Any]]]) -> None:
    saved = Checkpoints(trained[2][0] / "True", Ranks(0, 1, CPU), 1).saved(STEPS)
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


def test_parameters_are_dealt_evenly_and_alike_in_any_order() -> None:
    sizes = {f"p{i}": size for i, size in enumerate([1000, 900, 500, 500, 400, 300, 200, 100, 100, 0])}
    owners = deal(sizes, 4)
    assert owners == deal(dict(reversed(sizes.items())), 4)
    loads = [sum(size for name, size in sizes.items() if owners[name] == rank) for rank in range(4)]
    assert sum(loads) == 4000 and max(loads) <= 1100
    assert set(deal({"only": 5}, 3).values()) == {0}  # ranks without a parameter are fine


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
