"""The recipe of the mini model: from worlds to files that the pack's loaders take, at a scale that says nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from faceclip import FaceCLIPEncoder
from train.cache.latents import LatentCache
from train.data.shards import ShardSource
from train.finetune_sdxl import command as finetune_sdxl
from train.frozen.vae import load_vae
from train.mini.carry import readable
from train.mini.command import Recipe, Settings, main
from train.mini.export import summary_of
from train.mini.joint import JointSettings
from train.pretrain import command as pretrain
from train.proof.fitting import Schedule
from train.proof.teachers.pictures import load_pictures
from train.proof.workshop import ProofError, Workshop

SETTINGS = Settings(
    size=64,
    pretrain=("--steps=2", "--batch-size=8", "--warmup=1", "--guided-fraction=0.25"),
    finetune=("--steps=2", "--batch-size=4", "--ema=0.5", "--prediction=v", "--zero-terminal-snr"),
    carry=Schedule(steps=2, batch=4),
    words=Schedule(steps=2, batch=4),
    joint=JointSettings(steps=2, batch=4, ema=0.5),
    decoder=Schedule(steps=1, batch=2),
    scenes=1,
    sampler_steps=2,
)
MODELS = ("faceclip/faceclip_mini_encoder", "faceclip/faceclip_mini_unet", "vae/zz_faceclip_mini_vae")
PACK = Path(__file__).resolve().parents[3] / "models"


@pytest.fixture(scope="module")
def recipe(shop: Workshop) -> Recipe:
    made = Recipe(shop, settings=SETTINGS)
    made.make()
    return made


def header(path: Path) -> tuple[dict[str, str], dict[str, tuple[int, ...]], set[torch.dtype]]:
    with safe_open(path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert all(tensor.isfinite().all() for tensor in tensors.values())
        return file.metadata(), {key: tuple(t.shape) for key, t in tensors.items()}, {t.dtype for t in tensors.values()}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_made_is_trained_and_has_the_shapes_of_the_packs_files(recipe: Recipe, name: str) -> None:
    made, ships = (header(folder / f"{name}.safetensors") for folder in (recipe.out / "models", PACK))
    assert made[0]["trained"] == "true" and made[0]["license"] == "Apache-2.0"
    assert made[1] == ships[1]
    assert made[2] <= {torch.bfloat16, torch.int64}


def test_the_unets_file_says_what_it_predicts(recipe: Recipe) -> None:
    metadata, *_ = header(recipe.out / "models" / f"{MODELS[1]}.safetensors")
    assert (metadata["prediction"], metadata["zero_terminal_snr"]) == ("v", "true")


def test_every_stage_tells_its_time_and_what_it_found(recipe: Recipe) -> None:
    found = {path.stem: json.loads(path.read_text()) for path in (recipe.out / "stages").glob("*.json")}
    assert set(found) == {name.replace(" ", "_") for name in recipe.stages}
    assert all(stage["seconds"] >= 0 and "torch" in stage["machine"] for stage in found.values())
    measured = found["measure"]["found"]
    assert set(measured) >= {"person", "shuffled", "real", "autoencoder", "knn", "face_of_ceiling", "clip_t_of_real"}
    assert measured["face_above_shuffled"] == pytest.approx(measured["person"]["face"] - measured["shuffled"]["face"])


def test_the_curve_has_a_point_for_each_checkpoint_that_was_kept(recipe: Recipe) -> None:
    noted = json.loads((recipe.out / "stages" / "curve.json").read_text())["found"]
    steps = [int(path.name.removeprefix("step-")) for path in sorted((recipe.out / "finetune" / "checkpoints").glob("step-*"))]
    assert [point["samples"] for point in noted] == [4 * step for step in steps] and steps
    assert all(-1 <= point["face"] <= 1 and 0 <= point["first"] <= 1 for point in noted)


def test_both_branches_are_those_that_carry_identity(recipe: Recipe) -> None:
    joined = FaceCLIPEncoder.from_file(recipe.joined)
    for branch in ("l", "g"):
        alone = FaceCLIPEncoder.from_file(recipe.carried(branch))
        for name, tensor in alone.branches[branch].state_dict().items():
            torch.testing.assert_close(joined.branches[branch].state_dict()[name], tensor, rtol=0, atol=0)


def test_a_finished_stage_is_not_done_again(recipe: Recipe) -> None:
    weights = recipe.out / "models" / f"{MODELS[1]}.safetensors"
    before = weights.stat().st_mtime_ns
    replace(recipe).make()
    assert weights.stat().st_mtime_ns == before


def test_a_part_of_the_recipe_is_not_called_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "mini" / "stages").mkdir(parents=True)
    (tmp_path / "mini" / "stages" / "join.json").write_text("{}")
    before = {path: path.stat().st_mtime_ns for path in PACK.rglob("*.safetensors")}
    assert main(["--out", str(tmp_path), "--only", "join"]) == 0
    assert main(["--out", str(tmp_path), "--only", "join", "--install"]) == 1
    said = capsys.readouterr().out
    assert "Still to do: world main," in said and "finetune" in said and "join," not in said and "mini model is in" not in said
    assert {path: path.stat().st_mtime_ns for path in PACK.rglob("*.safetensors")} == before


def test_a_run_that_was_stopped_is_not_noted_as_finished(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in (pretrain, finetune_sdxl):
        monkeypatch.setattr(command, "main", lambda arguments: 0)  # what a command says after SIGTERM, having saved its state
    stopped = Recipe(Workshop(tmp_path, recipe.shop.plan), settings=SETTINGS)
    for stage in ("pretrain l", "finetune"):
        with pytest.raises(ProofError, match="was stopped; the same command goes on"):
            stopped.make([stage])
        assert not stopped.note(stage).exists()


def test_an_unknown_stage_is_named_with_those_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path), "--only", "finetun"]) == 1
    said = capsys.readouterr().err
    assert "no stage finetun" in said and "finetune" in said and "teacher clip g" in said
    assert list(tmp_path.iterdir()) == []


def test_the_model_has_the_finetuned_unet(recipe: Recipe) -> None:
    made = load_file(recipe.out / "models" / f"{MODELS[1]}.safetensors")
    trained = load_file(recipe.unet / "unet" / "diffusion_pytorch_model.safetensors")
    assert all(torch.equal(made[name], tensor.to(made[name].dtype)) for name, tensor in trained.items())
    before = load_file(recipe.out / "finetune" / "unet" / "diffusion_pytorch_model.safetensors")
    assert not all(torch.equal(before[name], tensor) for name, tensor in trained.items())


def test_fusion_modules_learn_with_the_unet_in_both_branches_and_nothing_else_does(recipe: Recipe) -> None:
    before, after = FaceCLIPEncoder.from_file(recipe.encoder), FaceCLIPEncoder.from_file(recipe.unet / "encoder.safetensors")
    for branch in ("l", "g"):
        old, new = before.branches[branch].state_dict(), after.branches[branch].state_dict()
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        assert any(name.startswith("fuser.") for name in changed), branch
        frozen = ("face_encoder.", "transformer.", "token_embedding.", "ln_final.")
        assert not any(name.startswith(frozen) for name in changed), branch


def test_the_encoder_and_the_autoencoder_are_those_trained_last(recipe: Recipe) -> None:
    encoder, _, vae = (recipe.out / "models" / f"{name}.safetensors" for name in MODELS)
    made, last = (FaceCLIPEncoder.from_file(path).state_dict() for path in (encoder, recipe.unet / "encoder.safetensors"))
    assert all(torch.equal(made[name], tensor.to(torch.bfloat16).to(made[name].dtype)) for name, tensor in last.items())
    folders = (recipe.autoencoder, recipe.shop.teacher("autoencoder"))
    after, before = (load_file(folder / "diffusion_pytorch_model.safetensors") for folder in folders)
    assert torch.equal(after["encoder.layers.0.weight"], before["encoder.layers.0.weight"])
    decoder = after["decoder.layers.0.weight"]
    assert not torch.equal(decoder, before["decoder.layers.0.weight"])
    rows, columns = decoder.shape[:2]
    assert torch.equal(load_file(vae)["taesd_decoder.1.weight"][:rows, :columns], decoder.to(torch.bfloat16))


def test_latents_are_those_of_the_whole_autoencoder(recipe: Recipe) -> None:
    source = ShardSource(recipe.people)
    vae = load_vae(recipe.shop.teacher("autoencoder"), torch.float32)
    pictures = load_pictures(recipe.people, recipe.settings.size).images[:4]
    with torch.no_grad():
        expected = vae.encode(pictures.float() / 127.5 - 1).latent_dist.mean
    found = LatentCache(recipe.out / "latents", source).read(torch.arange(4)).mean.float()
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)  # bf16
    assert expected.std() > 0.2


def test_the_summary_has_what_the_model_is_known_by(recipe: Recipe) -> None:
    figures = recipe.figures()
    measured = json.loads(recipe.note("measure").read_text())["found"]
    assert figures["summary"] == summary_of(figures["stages"])
    assert set(figures["summary"]) == {
        "likeness_of_ceiling",
        "above_shuffled",
        "right_person_first",
        "clip_t_of_real",
        "seconds_per_picture",
        "mebibytes",
    }
    assert figures["summary"]["above_shuffled"] == measured["face_above_shuffled"]
    assert 0 <= figures["summary"]["right_person_first"] <= 1 and figures["summary"]["seconds_per_picture"] > 0
    sizes = [(recipe.out / "models" / f"{name}.safetensors").stat().st_size for name in MODELS]
    assert figures["summary"]["mebibytes"] == pytest.approx(sum(sizes) / 2**20)


def test_carrying_identity_trains_fusion_and_text_tower_and_leaves_the_face_tower(recipe: Recipe) -> None:
    before = FaceCLIPEncoder.from_file(recipe.run("g") / "encoder.safetensors").branches["g"].state_dict()
    after = FaceCLIPEncoder.from_file(recipe.carried("g")).branches["g"].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("fuser.") for name in changed) and any(name.startswith("transformer.") for name in changed)
    assert not any(name.startswith(("face_encoder.", "token_embedding.", "positional_embedding")) for name in changed)


def test_words_are_carried_by_text_towers_and_fusion_and_the_face_tower_stays(recipe: Recipe) -> None:
    before, after = FaceCLIPEncoder.from_file(recipe.joined), FaceCLIPEncoder.from_file(recipe.encoder)
    for branch in ("l", "g"):
        old, new = before.branches[branch].state_dict(), after.branches[branch].state_dict()
        changed = {name for name in old if not torch.equal(old[name], new[name])}
        assert {name.split(".")[0] for name in changed} >= {"fuser", "transformer", "ln_final"}, branch
        assert not any(name.startswith(("face_encoder.", "token_embedding.", "positional_embedding")) for name in changed), branch
    assert set(json.loads(recipe.note("words").read_text())["found"]) == {"tokens", "pooled", "words", "colours"}


def test_it_is_measured_how_much_of_a_face_the_encoder_passes_on(recipe: Recipe) -> None:
    found = json.loads(recipe.note("identity").read_text())["found"]
    assert {"class_token", "tokens", "pooled"} <= set(found) and len(found["of_tokens"]) == 29


def test_what_a_linear_map_can_read_is_read_and_what_is_not_there_is_not() -> None:
    random = torch.Generator().manual_seed(0)
    traits = torch.randn(600, 3, generator=random)
    outputs = torch.cat([traits[:, :2] @ torch.randn(2, 8, generator=random), torch.randn(600, 4, generator=random)], dim=1)
    found = readable(outputs[:500], traits[:500], outputs[500:], traits[500:])
    assert found[:2].min() > 0.95 and found[2] < 0.2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA GPU")
def test_a_gpu_that_is_not_there_is_said_before_anything_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--out", str(tmp_path / "runs"), "--device", "cuda"]) == 1
    assert "no CUDA device here. Leave --device out" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
def test_the_whole_recipe_runs_on_a_gpu(shop: Workshop, tmp_path: Path) -> None:
    made = Recipe(replace(shop, out=tmp_path, device=torch.device("cuda")), settings=SETTINGS)
    made.make()
    assert all(made.note(stage).is_file() for stage in made.stages)
