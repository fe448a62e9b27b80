"""The proof's command: from worlds to tables, for some arms of a tiny plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from faceclip.config import FaceCLIPConfig
from train.finetune_sdxl.conditions import JointConditions
from train.pretrain import command as pretrain_command
from train.proof.arms.measures import joint_representation, read_people
from train.proof.arms.training import build_finetuning, build_pretraining, finetune_config, pretrain_config, trained_encoder
from train.proof.arms.variants import FusedTokenEncoder, load_variant, starting_encoder
from train.proof.command import write_report
from train.proof.jobs import all_jobs, do
from train.proof.plan import FULL, QUICK, Arm, arms
from train.proof.report.results import collect
from train.proof.workshop import ProofError, Workshop
from train.run.ranks import Ranks

Finish = Callable[..., list[str]]

RANKS = Ranks(0, 1, torch.device("cpu"))
ARMS = {arm.name: arm for arm in arms()}


@pytest.fixture(scope="module")
def finished(shop: Workshop, finish: Finish) -> Workshop:
    """Two arms that went through all stages: one pretrained, one trained on the diffusion loss alone."""
    for stage in ("pretrain", "finetune", "measure", "generate"):
        finish(shop, f"{stage}/l3", f"{stage}/diffusion-only")
    finish(shop, "generate/bounds")
    return shop


def test_an_arm_goes_from_pictures_to_every_measure(finished: Workshop) -> None:
    results = collect(finished)
    for measure in ("zero_shot", "knn", "face_sim", "clip_t"):
        assert set(results.values["L3"][measure]) == {0}
    pictures = finished.run(ARMS["L3"], 0, "generate") / "pictures.npy"
    assert pictures.is_file()


def test_real_pictures_define_the_scale_of_face_similarity(finished: Workshop) -> None:
    results = collect(finished)
    bounds, raw = results.shared["generate/bounds"], {n: v[0] for n, v in results.values["L3"].items()}
    expected = (raw["raw_face"] - raw["raw_shuffled"]) / (bounds["real_face"] - bounds["real_shuffled"])
    assert raw["face_sim"] == pytest.approx(expected)
    assert raw["clip_t"] == pytest.approx(raw["raw_clip_t"] / bounds["real_clip_t"])


def test_a_finished_job_is_not_done_again(finished: Workshop, finish: Finish) -> None:
    result = finished.result("pretrain/l3/0")
    before = result.stat().st_mtime_ns
    assert finish(finished, "pretrain/l3", "measure/l3", "teachers") == []
    assert result.stat().st_mtime_ns == before


def test_a_job_without_a_result_is_done_again_from_its_checkpoint(finished: Workshop, finish: Finish) -> None:
    weights = finished.run(ARMS["L3"], 0, "pretrain") / "encoder.safetensors"
    before = weights.read_bytes()
    finished.result("pretrain/l3/0").unlink()
    weights.unlink()
    assert finish(finished, "pretrain/l3") == ["pretrain/l3/0"]
    assert weights.read_bytes() == before


def test_diffusion_alone_trains_fusion_and_unet_and_leaves_the_towers(finished: Workshop) -> None:
    arm = ARMS["diffusion only"]
    start = load_variant(finished.run(arm, 0, "pretrain") / "encoder.safetensors", arm.variant).state_dict()
    end = trained_encoder(finished, arm, 0).state_dict()
    moved = {name for name in start if not torch.equal(start[name], end[name])}
    assert any(".fuser." in name for name in moved) and any(".proj1." in name for name in moved)
    assert not any(".transformer." in name or ".face_encoder." in name for name in moved)


def test_tables_and_plots_come_from_the_results(finished: Workshop, tmp_path: Path) -> None:
    write_report(finished, tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert "its verdicts mean nothing" in text
    assert f"| L3 | {collect(finished).estimate('L3', 'zero_shot').mean:.3f} |" in text
    assert (tmp_path / "table3.png").stat().st_size > 5000


def test_a_folder_of_another_plan_is_refused(finished: Workshop) -> None:
    with pytest.raises(ProofError, match=r"another plan: pretrain_steps \(2, now 3\)"):
        list(do(Workshop(finished.out, replace(finished.plan, pretrain_steps=3)), [], 1))
    list(do(Workshop(finished.out, replace(finished.plan, seeds=4)), [], 1))


def test_every_result_tells_time_and_machine(finished: Workshop) -> None:
    found = json.loads(finished.result("pretrain/l3/0").read_text())
    assert found["cpu_seconds"] > 0 and "torch" in found["machine"]


def test_pretraining_is_what_the_command_makes_of_the_same_configuration(shop: Workshop, tmp_path: Path) -> None:
    config = replace(pretrain_config(shop, ARMS["L3"], 0), out=tmp_path)
    ours, theirs = build_pretraining(config, RANKS, ARMS["L3"]), pretrain_command.build(config, RANKS)
    for task in (ours, theirs):
        torch.manual_seed(0)
        task.backward(task.batch(0), 0)
    gradients = [{name: parameter.grad for name, parameter in task.names.items()} for task in (ours, theirs)]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "terms"), [("L1", {"image"}), ("L2", {"image", "identity"}), ("L3", {"image", "identity", "text"})]
)
def test_arms_have_their_loss_terms_and_no_others(shop: Workshop, tmp_path: Path, name: str, terms: set[str]) -> None:
    config = replace(pretrain_config(shop, ARMS[name], 0), out=tmp_path)
    task = build_pretraining(config, RANKS, ARMS[name])
    values = task.backward(task.batch(0), 0)
    assert set(values) & {"image", "identity", "text"} == terms
    assert sum(values[term] for term in terms) == pytest.approx(values["loss"], rel=1e-5)


def test_without_guided_data_every_row_has_a_face(shop: Workshop, tmp_path: Path) -> None:
    faces = {}
    for name in ("L3", "no guided"):
        task = build_pretraining(replace(pretrain_config(shop, ARMS[name], 0), out=tmp_path), RANKS, ARMS[name])
        faces[name] = torch.cat([task.batch(step)["has_face"] for step in range(3)]).float().mean().item()
    assert faces["no guided"] == 1
    assert faces["L3"] == pytest.approx(0.75, abs=0.1)


def test_the_fused_token_reads_the_class_token_and_no_patches(shop: Workshop) -> None:
    config = pretrain_config(shop, ARMS["fused token"], 0)
    released, fused = (starting_encoder(config, variant).eval() for variant in ("release", "fused token"))
    captions, _, identity = read_people(released, shop.shards("main", "held_out"))
    captions, identity = captions[:2], identity[:2]
    other_patches = replace(identity, patch_tokens=identity.patch_tokens.flip(0))
    other_token = replace(identity, class_token=identity.class_token.flip(0))

    def changes(encoder, other) -> bool:
        first, second = (joint_representation(encoder, captions, who) for who in (identity, other))
        return not torch.equal(first, second)

    assert not changes(fused, other_patches) and changes(fused, other_token)
    assert changes(released, other_patches)


def test_plain_attention_has_no_offsets_and_survives_its_file(shop: Workshop, finish: Finish) -> None:
    finish(shop, "pretrain/plain")
    encoder = trained_encoder(shop, ARMS["plain"], 0)
    assert encoder.config.branches["l"].fusion.face_attention == "plain"
    assert FaceCLIPConfig.preset("mini").branches["l"].fusion.face_attention == "deformable"
    assert not any("sampling_offsets" in name for name in encoder.state_dict())


def test_finetuning_conditions_the_fused_token_arm_by_its_own_encoder(shop: Workshop, finish: Finish) -> None:
    finish(shop, "pretrain/fused-token")
    arm = ARMS["fused token"]
    config = replace(finetune_config(shop, arm, 0), remember_conditions=False)
    conditions = build_finetuning(shop, config, RANKS, arm).conditions
    assert isinstance(conditions, JointConditions) and isinstance(conditions.encoder, FusedTokenEncoder)


def test_arms_differ_in_one_thing_from_the_papers_choice() -> None:
    fields = ("terms", "guided_fraction", "batch", "variant", "start", "world")
    for arm in arms():
        changed = [name for name in fields if getattr(arm, name) != getattr(Arm("L3"), name)]
        assert len(changed) <= (2 if "share" in arm.name else 1), arm.name


def test_both_plans_list_every_arm_with_its_seeds() -> None:
    for plan in (QUICK, FULL):
        names = [job.name for job in all_jobs(plan)]
        assert len(set(names)) == len(names)
        assert sum(name.startswith("pretrain/l3/") for name in names) == plan.seeds
        assert sum(name.startswith("measure/lambda-0.5/") for name in names) == plan.sweep_seeds
        assert not any(name.startswith("generate/share") for name in names)
