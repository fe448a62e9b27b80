"""What training computes is counted, and set beside what a device could compute."""

from __future__ import annotations

import pytest
import torch
from torch.nn import BatchNorm1d, Linear, Sequential

from faceclip import FaceCLIPConfig
from train.pretrain.flops import pretraining_flops
from train.run.flops import flops, forward_and_backward, known_peak, on_meta, peak_flops

ROWS, WIDTH, MIDDLE = 3, 5, 7


def test_flops_of_a_known_product() -> None:
    a, b = torch.zeros(ROWS, WIDTH, device="meta"), torch.zeros(WIDTH, MIDDLE, device="meta")
    assert flops(lambda: a @ b) == 2 * ROWS * WIDTH * MIDDLE


@pytest.mark.program
def test_recomputed_blocks_are_counted_apart_from_what_the_gradient_needs() -> None:
    plain, saving = (pretraining_flops(FaceCLIPConfig.preset("tiny").only("l"), checkpointing=each) for each in (False, True))
    assert (plain.forward, plain.backward) == (saving.forward, saving.backward)
    assert plain.recomputed == 0 < saving.recomputed < saving.forward
    assert saving.executed(passes=2) == 2 * saving.forward + saving.backward + saving.recomputed


def test_a_copy_on_the_meta_device_costs_no_memory_and_is_trained_where_the_module_is() -> None:
    module = Sequential(Linear(WIDTH, MIDDLE, bias=False), Linear(MIDDLE, WIDTH, bias=False), BatchNorm1d(WIDTH))
    module[0].requires_grad_(False)
    copied = on_meta(module)
    assert all(tensor.is_meta for tensor in copied.state_dict().values()) and not module[0].weight.is_meta
    x = torch.zeros(ROWS, WIDTH, device="meta")
    product = 2 * ROWS * WIDTH * MIDDLE
    # Backward of the first, which is frozen: nothing. Of the second: its weights alone, since nothing before it is trained.
    assert forward_and_backward(lambda: (copied[1](copied[0](x)),)) == (2 * product, product)
    assert forward_and_backward(lambda: (on_meta(module.requires_grad_(True))[:2](x),)) == (2 * product, 3 * product)


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA L40S", 362),
        ("NVIDIA A10G", 70),
        ("NVIDIA GeForce RTX 4090", 165),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", 0),
        ("Tesla T4", 0),
    ],
)
def test_a_devices_peak_is_found_by_its_name(name: str, peak: float) -> None:
    assert known_peak(name) == peak


def test_a_stated_peak_wins_and_a_cpu_has_none() -> None:
    cpu = torch.device("cpu")
    assert peak_flops(cpu, torch.bfloat16) == 0
    assert peak_flops(cpu, torch.float32, stated=1.5) == 1.5e12
