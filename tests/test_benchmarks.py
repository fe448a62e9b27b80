"""The benchmarks of training run, and their tables have the rows that they promise.

Nothing here looks at a time.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def benchmark() -> Iterator[Callable[[list[str]], str]]:
    """`main` of `benchmarks/training.py`, on one thread."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        main = importlib.import_module("training").main
        yield lambda line: main([*line, "--device", "cpu", "--size", "mini", "--threads", "1"])


def rows(text: str) -> list[list[str]]:
    """The cells of a table's rows, below its head."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def number(cell: str) -> float:
    found = re.match(r"\d+(\.\d+)?", cell)
    assert found, cell
    return float(found[0])


def test_loss_compares_both_losses_at_every_batch_and_writes_the_table(
    benchmark: Callable[[list[str]], str], tmp_path: Path
) -> None:
    text = benchmark(["loss", "--batches", "16", "32", "--rounds", "2", "--markdown", str(tmp_path / "table.md")])
    assert [row[0] for row in rows(text)] == ["16", "32"]
    assert all(number(row[3]) > 0 for row in rows(text))
    assert (tmp_path / "table.md").read_text() == text + "\n"


@pytest.mark.program
def test_a_loras_memory_is_counted_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("peft", reason="LoRA needs the extra `lora`")
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    text = importlib.import_module("lora_memory").main(["--rank", "4", "--batch", "1", "--resolution", "256"])
    found = {name: number(cell) for name, cell in rows(text)}
    assert found["UNet, bf16"] == 5.13 and found["LoRA of rank 4, fp32 (5.8 M)"] == 0.02
    assert 0 < found["activations, recomputed, 1 row at 256 px"] < 0.1


def test_cache_compares_live_towers_with_cached_features(benchmark: Callable[[list[str]], str]) -> None:
    found = rows(benchmark(["cache", "--batch", "2", "--steps", "1", "--rounds", "1"]))
    assert [row[0] for row in found] == ["live towers", "cached"]
    assert all(number(row[2]) > 0 for row in found)


def test_step_compares_our_step_with_a_plain_loop_of_the_same_loss(benchmark: Callable[[list[str]], str]) -> None:
    found = rows(benchmark(["step", "--batch", "2", "--steps", "2"]))
    assert [row[0] for row in found] == ["ours", "plain loop"]
    assert found[1][2].startswith("1.000")


def test_mfu_has_a_row_for_each_micro_batch_below_the_batch(benchmark: Callable[[list[str]], str]) -> None:
    line = ["mfu", "--batches", "2", "--micro-batches", "0", "1", "4", "--steps", "1", "--rounds", "1", "--peak", "1"]
    text = benchmark([*line, "--checkpointing"])
    assert [row[0] for row in rows(text)] == ["2 (2)", "2 (1)"]
    assert all(number(row[3]) > 0 and number(row[5]) >= 0 and number(row[7]) >= 0 for row in rows(text))


def test_sdxl_compares_our_step_with_plain_code(benchmark: Callable[[list[str]], str]) -> None:
    line = ["sdxl", "--batches", "1", "--pixels", "64", "--steps", "1", "--rounds", "1", "--ema", "0.99"]
    found = rows(benchmark(line))
    assert [row[:2] for row in found] == [["1", "ours"], ["1", "plain"], ["1", "plain, nothing cached"]]
    assert found[0][3] == "1" and all(number(row[2]) > 0 for row in found)


def test_what_a_lent_gpu_is_asked_is_one_command(
    benchmark: Callable[[list[str]], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    for module in ("training_mfu", "training_sdxl"):  # each runs in a test of its own
        monkeypatch.setattr(importlib.import_module(module), "measure", lambda options: asked.append(options) or "a table")
    text = benchmark(["gpu", "--steps", "1", "--rounds", "1", "--peak", "2", "--markdown", str(tmp_path / "table.md")])
    mfu, sdxl = asked
    assert (mfu.command, mfu.branch, mfu.checkpointing, mfu.peak, mfu.steps) == ("mfu", "l", True, 2, 1)
    assert (sdxl.command, sdxl.batches, sdxl.checkpointing, sdxl.size) == ("sdxl", [4, 8], True, "mini")
    latency = {row[0]: row[1:] for row in rows(text)}
    assert latency["float32: matmul"][3] == "1.00" and "float32: both, identity cached" in latency
    assert (tmp_path / "table.md").read_text() == text + "\n" and text.count("a table") == 2


def test_feeding_compares_our_reading_with_webdatasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    line = ["--batch", "8", "--batches", "1", "--rounds", "1", "--samples", "16", "--threads", "1"]
    live, cached, theirs = rows(importlib.import_module("feeding").main(line))
    assert [live[0], cached[0], theirs[0]] == ["ours, faces live", "ours, all cached", "webdataset, faces live"]
    assert theirs[3].startswith("1.00") and all(number(cell) > 0 for cell in live[1:])
    # A face crop with its caption and json; these alone; a whole sample with its photograph.
    assert number(cached[5]) < 4 < number(live[5]) < number(theirs[5]) / 3


@pytest.fixture
def startup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`benchmarks/startup.py`."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("startup")


def test_startup_tells_what_the_pack_adds(startup: ModuleType) -> None:
    text = startup.table({"empty": [4.0, 5.0, 6.0], "faceclip": [4.1, 5.2, 6.3]}, {"empty": [0.0] * 3, "faceclip": [0.1] * 3})
    assert rows(text)[1] == ["faceclip", "3", "5.20 (4.10 to 6.30)", "0.10"]
    # A deviation of 0.1 over three turns: 4.303 times 0.1 over the root of 3.
    assert "adds 0.20 +- 0.25 s" in text and "takes 1.040 of one" in text


def test_startup_gives_comfyui_one_pack_at_a_time(startup: ModuleType, tmp_path: Path) -> None:
    for name in ("empty", "faceclip"):
        (pack,) = (startup.base_folder(tmp_path / name, name) / "custom_nodes").iterdir()
        assert pack.name == name and (pack / "__init__.py").is_file()
        assert (pack.resolve() == ROOT) == (name == "faceclip")


@pytest.mark.program
def test_int8s_pictures_are_those_of_the_same_people(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    sheet = tmp_path / "sheet.png"
    plain, small = rows(importlib.import_module("int8_pictures").main(["--people", "2", "--sheet", str(sheet)]))
    assert number(plain[3]) == 0 < number(small[3]) < 10  # the same noise, and not the same encoder
    assert min(number(plain[1]), number(small[1])) > 0.2 and abs(number(plain[1]) - number(small[1])) < 0.1
    assert Image.open(sheet).size == (2 * 128, 3 * 128)


@pytest.mark.program
def test_prompts_count_what_goes_through_the_encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    text = importlib.import_module("prompts").main(["--preset", "tiny", "--repeats", "1", "--threads", "1", "--device", "cpu"])
    counts = {row[0]: (int(row[1]), int(row[2])) for row in rows(text)}
    assert counts["plain"] == counts["weighted words, again"] == (1, 1)
    assert counts["strength 0.6"] == counts["positive and negative in one pass"] == (2, 1)
    assert all(number(row[3]) > 0 and number(row[4]) > 0 for row in rows(text))


@pytest.mark.program
def test_prompts_time_a_second_encoder_that_computes_as_the_nodes_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    prompts = importlib.import_module("prompts")
    made: list[Any] = []
    random_encoder = prompts.random_encoder
    monkeypatch.setattr(prompts, "random_encoder", lambda *options: made.append(random_encoder(*options)) or made[-1])
    own = ["--preset", "tiny", "--repeats", "1", "--threads", "1", "--device", "cpu", "--dtype", "int8"]
    found = {row[0]: row[1:] for row in rows(prompts.main([*own, "--against", "bf16"]))}
    assert found["plain, kept in bf16"][:2] == ["1", "1"] and number(found["plain, kept in bf16"][2]) > 0
    assert [encoder.is_int8 for encoder in made] == [True, False]
    assert all(encoder.compute_dtype == torch.float32 for encoder in made)


@pytest.mark.program
def test_imports_tell_what_a_program_has_imported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    imports = importlib.import_module("imports")
    monkeypatch.setattr(imports, "PROGRAMS", {"nothing": "pass", "the compiler": "import torch._dynamo"})
    found = rows(imports.main(["--runs", "1"]))
    assert [row[3] for row in found] == ["no", "yes"]
    assert int(found[1][2]) - int(found[0][2]) > 500
