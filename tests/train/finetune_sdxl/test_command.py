"""Finetuning as users run it, and what each step draws: the same for any
number of ranks, and never frozen by a cache."""

from __future__ import annotations

import dataclasses
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from faceclip import FaceCLIPEncoder
from train.cache import command as cache
from train.finetune_sdxl.command import build, main
from train.finetune_sdxl.conditions import JointConditions
from train.finetune_sdxl.config import FinetuneConfig
from train.finetune_sdxl.diffusion import NoiseSchedule
from train.finetune_sdxl.rows import Draws, Rows
from train.run.command_line import PRESETS, parse
from train.run.config import ConfigError
from train.run.loop import NonFiniteLossError, run, train_step
from train.run.ranks import Ranks

MODELS = Path(__file__).resolve().parents[3] / "models" / "faceclip"
ENCODER = MODELS / "faceclip_mini_encoder.safetensors"
ONE = Ranks(0, 1, torch.device("cpu"))
Arguments = Callable[..., list[str]]
MIN_SNR = {"min_snr": 5.0, "prediction": "epsilon", "zero_terminal_snr": False}


@pytest.fixture
def arguments(finetune_command: Arguments, tmp_path: Path) -> Arguments:
    """`arguments(out="run", steps=4, vae=None, ...)` -> the command line of a run below the test's folder."""
    return lambda out="run", **options: finetune_command(tmp_path / out, **options)


def gradient(arguments: list[str], ranks: Ranks = ONE, step: int = 0) -> tuple[torch.Tensor, float]:
    task = build(parse(FinetuneConfig, arguments), ranks)
    values = task.backward(task.batch(step), step)
    return torch.cat([parameter.grad.flatten() for parameter in task.parameters]), values["loss"]


@pytest.fixture(scope="module")
def plain(finetune_command: Arguments, tmp_path_factory: pytest.TempPathFactory) -> tuple[torch.Tensor, float]:
    """Gradient and loss of the first step of one rank, all rows at once, from live inputs."""
    return gradient(finetune_command(tmp_path_factory.mktemp("plain"), steps=1))


def test_the_command_writes_a_unet_that_diffusers_reads_and_every_weight_moved(
    arguments: Arguments, unet: Path, tmp_path: Path, read_log: Callable
) -> None:
    from diffusers import UNet2DConditionModel

    assert main(arguments(steps=3, warmup=2)) == 0
    start = load_file(unet)
    for folder in ("unet", "unet_last"):
        trained = UNet2DConditionModel.from_pretrained(tmp_path / "run" / folder)
        assert all(not torch.equal(p, start[n].float()) for n, p in trained.named_parameters() if p.ndim > 1)
    average, last = (load_file(tmp_path / "run" / f / "diffusion_pytorch_model.safetensors") for f in ("unet", "unet_last"))
    assert average.keys() == start.keys() and not torch.equal(average["conv_in.weight"], last["conv_in.weight"])
    steps = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert [line["lr"] for line in steps] == pytest.approx([5e-5, 1e-4, 1e-4])


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": "bf16", "activation_checkpointing": True, "micro_batch": 1, "batch_size": 3, "resolution": 64, **MIN_SNR},
        {"ema": 0.0},
    ],
    ids=["bf16 in micro-batches, min-SNR", "v, zero terminal SNR, no average"],
)
def test_variants_train_and_resume_bit_for_bit(
    options: dict[str, Any], arguments: Arguments, tmp_path: Path, read_log: Callable
) -> None:
    assert main(arguments("whole", steps=2, **{**options, "save_every": 1})) == 0
    checkpoints = tmp_path / "whole" / "checkpoints"
    shutil.copytree(checkpoints / "step-00000001", tmp_path / "halves" / "checkpoints" / "step-00000001")
    assert main(arguments("halves", steps=2, **options)) == 0
    assert {"kind": "resume", "step": 1, "ranks": 1} in read_log(tmp_path / "halves")
    whole, halves = (load_file(tmp_path / n / "unet" / "diffusion_pytorch_model.safetensors") for n in ("whole", "halves"))
    assert all(torch.equal(halves[name], tensor) for name, tensor in whole.items())


def test_two_ranks_share_the_gradient_of_one(
    arguments: Arguments, plain: tuple[torch.Tensor, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.finetune_sdxl.task.wrap", lambda unet, ranks: unet)  # both ranks in this process, without DDP
    alone, loss = plain
    first, second = (gradient(arguments(steps=1), Ranks(rank, 2, torch.device("cpu"))) for rank in (0, 1))
    assert (first[1] + second[1]) / 2 == pytest.approx(loss, rel=1e-5)
    assert ((first[0] + second[0]) / 2 - alone).norm() < 1e-5 * alone.norm()  # what DDP's averaging gives
    assert (first[0] - second[0]).norm() > 0.1 * alone.norm()  # other rows, other noise


def test_micro_batches_and_recomputed_activations_do_not_change_the_gradient(
    arguments: Arguments, plain: tuple[torch.Tensor, float]
) -> None:
    whole, _ = plain
    parts, _ = gradient(arguments(steps=1, micro_batch=1, activation_checkpointing=True))
    assert (parts - whole).norm() < 1e-5 * whole.norm()


@pytest.mark.parametrize(("checkpointed", "forwards"), [(False, 1), (True, 2)])
def test_recomputed_activations_are_computed_again_in_backward(checkpointed: bool, forwards: int, arguments: Arguments) -> None:
    task = build(parse(FinetuneConfig, arguments(steps=1, activation_checkpointing=checkpointed or None)), ONE)
    blocks = [task.unet.down_blocks[0].resnets[0], task.unet.mid_block.resnets[1], task.unet.up_blocks[-1].resnets[0]]
    calls: Counter[int] = Counter()
    for place, block in enumerate(blocks):
        block.register_forward_pre_hook(lambda *_, place=place: calls.update([place]))
    task.backward(task.batch(0), 0)
    assert calls == dict.fromkeys(range(3), forwards)


def test_no_model_holds_more_rows_at_once_than_a_micro_batch(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    task = build(parse(FinetuneConfig, arguments(steps=1, micro_batch=2, drop_face=0.0, drop_both=0.0)), ONE)
    assert isinstance(task.conditions, JointConditions)
    encoder = task.conditions.encoder
    encoder.blank_face()  # computed by the tower when first asked for, then kept
    seen: dict[str, list[int]] = {}

    def count(name: str, owner: Any, method: str, place: int = 0) -> None:
        original = getattr(owner, method)

        def counted(*given: Any, **named: Any) -> Any:
            seen.setdefault(name, []).append(len(given[place]))
            return original(*given, **named)

        monkeypatch.setattr(owner, method, counted)

    count("VAE", task.latents._vae, "encode")
    count("face tower", encoder, "encode_faces")
    count("encoder", encoder, "joint")
    count("UNet", task.unet, "forward")
    task.backward(task.batch(0), 0)
    assert seen == {name: [2, 2] for name in ("VAE", "face tower", "encoder", "UNet")}


def test_bf16_gradients_of_many_micro_batches_are_added_up_exactly(arguments: Arguments) -> None:
    options = {"steps": 1, "dtype": "bf16", "batch_size": 16, "resolution": 64}
    task = build(parse(FinetuneConfig, arguments(**options, micro_batch=1)), ONE)
    rows = task.batch(0)["rows"]

    def gradient_of(part: Rows) -> torch.Tensor:
        for parameter in task.parameters:
            parameter.grad = None
        task.backward({"rows": part}, 0)
        assert all(parameter.grad.dtype == torch.bfloat16 for parameter in task.parameters)
        return torch.cat([parameter.grad.float().flatten() for parameter in task.parameters])

    exact = sum(gradient_of(rows.part(slice(i, i + 1))) for i in range(16)) / 16
    assert (gradient_of(rows) - exact).norm() < 3.2e-3 * exact.norm()


def test_size_conditions_reach_the_unet_as_they_are_in_bf16_too(arguments: Arguments) -> None:
    task = build(parse(FinetuneConfig, arguments(steps=1, dtype="bf16", batch_size=1)), ONE)
    rows = dataclasses.replace(task.batch(0)["rows"], time_ids=torch.tensor([[1023, 777, 3, 0, 1024, 1025]]))
    given: list[torch.Tensor] = []
    task.unet.register_forward_pre_hook(lambda _, args, named: given.append(named["added_cond_kwargs"]), with_kwargs=True)
    task.backward({"rows": rows}, 0)
    assert given[0]["time_ids"].tolist() == [[1023, 777, 3, 0, 1024, 1025]]


def test_the_schedule_is_the_one_asked_for(arguments: Arguments) -> None:
    asked = [("epsilon", 0.0, False), ("epsilon", 5.0, False), ("v", 0.0, True)]
    for prediction, min_snr, terminal in asked:
        options = {"prediction": prediction, "min_snr": min_snr, "zero_terminal_snr": terminal}
        schedule = build(parse(FinetuneConfig, arguments(steps=1, **options)), ONE).schedule
        assert (schedule.prediction, schedule.min_snr, schedule.zero_terminal_snr) == (prediction, min_snr, terminal)
        assert (schedule.alphas_cumprod[-1] == 0) == terminal
    with pytest.raises(ConfigError, match="min_snr is 5 with zero_terminal_snr: the step of pure noise .* Choose one"):
        dataclasses.replace(parse(FinetuneConfig, arguments(min_snr=5.0, zero_terminal_snr=False)), zero_terminal_snr=True)


SAYS = [None, ("epsilon", False), ("v", False), ("v", True)]


@pytest.mark.parametrize("says", SAYS, ids=str)
def test_what_a_unet_predicts_is_taken_from_its_file_or_what_contradicts_it_refused(
    says: tuple[str, bool] | None, arguments: Arguments, unet: Path, tmp_path: Path
) -> None:
    kind, terminal = says or ("epsilon", False)
    file = tmp_path / "unet.safetensors"
    save_file(load_file(unet), file, {"prediction": kind, "zero_terminal_snr": str(terminal).lower()} if says else None)
    given = {"steps": 1, "unet": file, "unet_config": PRESETS / "mini_unet.json"}

    def trained(prediction: str, zero_terminal_snr: bool) -> tuple[str, bool]:
        options = {**given, "prediction": prediction, "zero_terminal_snr": zero_terminal_snr}
        task = build(parse(FinetuneConfig, arguments(**options)), ONE)
        assert (task.schedule.prediction, task.schedule.zero_terminal_snr) == (
            task.config.prediction,
            task.config.zero_terminal_snr,
        )
        return task.schedule.prediction, task.schedule.zero_terminal_snr

    assert trained("auto", False) == (kind, terminal)
    for prediction, zero_terminal_snr in filter(None, SAYS):
        if says in (None, (prediction, zero_terminal_snr)):
            assert trained(prediction, zero_terminal_snr) == (prediction, zero_terminal_snr)
            continue
        flags = f"--prediction {kind} --{'' if terminal else 'no-'}zero-terminal-snr"
        with pytest.raises(ConfigError, match=f"says that its UNet predicts .*, and the run is to train it on .*Give {flags}"):
            trained(prediction, zero_terminal_snr)


def test_the_mini_preset_agrees_with_the_files_that_it_names(arguments: Arguments, caplog: pytest.LogCaptureFixture) -> None:
    options = {"unet": MODELS / "faceclip_mini_unet.safetensors", "unet_config": PRESETS / "mini_unet.json"}
    caplog.set_level("INFO", logger="train")
    config = build(parse(FinetuneConfig, arguments(steps=1, **options)), ONE).config
    assert (config.prediction, config.zero_terminal_snr) == ("v", True)
    assert "The UNet is trained to predict v with zero terminal SNR." in caplog.text


def test_the_noise_to_predict_is_another_than_the_posteriors(arguments: Arguments, monkeypatch: pytest.MonkeyPatch) -> None:
    task = build(parse(FinetuneConfig, arguments(steps=1)), ONE)
    added: list[torch.Tensor] = []
    add = NoiseSchedule.add_noise
    monkeypatch.setattr(NoiseSchedule, "add_noise", lambda self, x, noise, t: added.append(noise) or add(self, x, noise, t))
    rows = task.batch(0)["rows"]
    task.backward({"rows": rows}, 0)
    (noise,) = added
    posterior = torch.cat([torch.randn(1, *noise.shape[1:], generator=draw.generator()) for draw in rows.draws])
    assert torch.corrcoef(torch.stack([noise.flatten(), posterior.flatten()]))[0, 1].abs() < 0.2


def test_cached_and_live_inputs_give_the_same_training(
    arguments: Arguments, plain: tuple[torch.Tensor, float], shards: Path, tmp_path: Path, vae: Path
) -> None:
    latents, features = tmp_path / "latents", tmp_path / "features"
    common = ["--data", str(shards), "--threads", "1"]
    assert cache.main(["latents", *common, "--out", str(latents), "--vae", str(vae), "--resolution", "128"]) == 0
    cached_faces = ["pretrain", *common, "--out", str(features), "--encoder", str(ENCODER), "--patch-dtype", "float32"]
    assert cache.main(cached_faces) == 0
    for step in (0, 3):
        live, _ = plain if step == 0 else gradient(arguments(steps=4), step=step)
        cached, _ = gradient(arguments(steps=4, vae=None, latents=latents, features=features), step=step)
        assert (cached - live).norm() < 2e-2 * live.norm()  # latents are kept in fp16


def test_conditions_are_dropped_anew_at_every_step_in_the_shares_asked_for(arguments: Arguments) -> None:
    config = parse(FinetuneConfig, arguments(drop_text=0.1, drop_face=0.2, drop_both=0.3))
    draws = [[Draws.of(config, step, place) for place in range(50)] for step in range(80)]
    kinds = Counter((draw.drop_text, draw.drop_face) for row in draws for draw in row)
    shares = {kind: count / 4000 for kind, count in kinds.items()}
    expected = {(False, False): 0.4, (True, False): 0.1, (False, True): 0.2, (True, True): 0.3}
    assert shares == pytest.approx(expected, abs=0.04)
    assert len({tuple(step[0:1]) for step in draws}) == 80  # a row's place draws something else at each step
    assert len({draw.seed for row in draws for draw in row}) == 4000  # no two rows share their noise
    timesteps = [draw.timestep for row in draws for draw in row]
    assert min(timesteps) < 10 and max(timesteps) > 989 and abs(sum(timesteps) / 4000 - 499.5) < 20


def test_a_row_without_its_conditions_is_exactly_the_unconditional_one(arguments: Arguments) -> None:
    encoder = FaceCLIPEncoder.from_file(ENCODER)
    task = build(parse(FinetuneConfig, arguments(drop_text=0.0, drop_face=0.0, drop_both=1.0)), ONE)
    embeddings, pooled = task.conditions(task.batch(0)["rows"])
    negative = encoder.encode([""])
    torch.testing.assert_close(embeddings, negative.embeddings.expand_as(embeddings), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(pooled, negative.pooled.expand_as(pooled), rtol=1e-4, atol=1e-5)
    kept = build(parse(FinetuneConfig, arguments("other", drop_text=0.0, drop_face=0.0, drop_both=0.0)), ONE)
    rows = kept.batch(0)["rows"]
    embeddings, _ = kept.conditions(rows)
    assert rows.faces is not None
    expected = encoder.encode(rows.caption, encoder.encode_faces(rows.faces.float() / 255)).embeddings
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_a_latent_that_is_not_a_number_stops_the_run_and_is_named(arguments: Arguments) -> None:
    config = parse(FinetuneConfig, arguments(steps=2))
    config.out.mkdir(parents=True)
    task = build(config, ONE)
    clean = task._rows[0]
    broken = clean.key[1]

    class Poisoned:
        def __getitem__(self, step: int) -> Any:
            return clean

    encode = task.latents.encode

    def poison(*inputs: Any) -> torch.Tensor:
        latents = encode(*inputs)
        latents[1] = float("nan")
        return latents

    task._rows, task.latents.encode = Poisoned(), poison
    with pytest.raises(NonFiniteLossError, match=f"The batch of rank 0: {broken}\\. Look at these samples"):
        run(task, dataclasses.replace(config), ONE)


def test_two_ranks_in_micro_batches_train_as_one_rank_with_all_rows_at_once(
    arguments: Arguments, launch: Callable[..., Any], unet: Path, tmp_path: Path, read_log: Callable
) -> None:
    command = launch("train.finetune_sdxl", arguments(steps=2, resolution=64, micro_batch=1), ranks=2)
    config = parse(FinetuneConfig, arguments("alone", steps=2, resolution=64))
    alone = build(config, ONE)
    expected = [train_step(alone, config, ONE, step) for step in range(2)]
    assert command.wait() == [0, 0], command.said()
    together = [line for line in read_log(tmp_path / "run") if line["kind"] == "train"]
    for name in ("loss", "gradient_norm"):
        assert [line[name] for line in together] == pytest.approx([values[name] for values in expected], rel=1e-3)
    assert alone.average
    average = load_file(tmp_path / "run" / "unet" / "diffusion_pytorch_model.safetensors")  # each rank kept half of it
    start = load_file(unet)
    shadow = alone.average.shadow
    moved = torch.cat([(tensor - start[name].float()).flatten() for name, tensor in shadow.items()])
    difference = torch.cat([(tensor - average[name]).flatten() for name, tensor in shadow.items()])
    assert difference.norm() < 0.2 * moved.norm()  # Adam's first steps make much of gradients that are next to nothing


def test_a_cuda_graph_is_for_one_gpu(
    arguments: Arguments, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(arguments(steps=1, cuda_graph=True)) == 1
    assert "cuda_graph is for one GPU; this run has 1 ranks on cpu. Leave it out." in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_a_cuda_graph_computes_what_the_unet_computes(arguments: Arguments) -> None:
    ranks = Ranks(0, 1, torch.device("cuda"))
    for step in (0, 3):
        plain, expected = gradient(arguments(steps=4), ranks, step)
        graphed, loss = gradient(arguments(steps=4, cuda_graph=True), ranks, step)
        assert loss == pytest.approx(expected, rel=1e-4) and (graphed - plain).norm() < 1e-3 * plain.norm()


def test_an_encoder_of_one_branch_does_not_fit_and_the_message_says_what_to_do(
    arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from faceclip import FaceCLIPConfig

    FaceCLIPEncoder(FaceCLIPConfig.preset("mini").only("l")).save(tmp_path / "l.safetensors")
    assert main(arguments(encoder=tmp_path / "l.safetensors")) == 1
    message = capsys.readouterr().err
    assert "the encoder gives embeddings of width 32" in message and "train.join" in message


def test_a_folder_that_is_no_vae_is_refused(arguments: Arguments, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments(vae=tmp_path)) == 1
    assert "There is no VAE in" in capsys.readouterr().err
