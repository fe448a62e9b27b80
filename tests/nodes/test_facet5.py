"""Load FaceT5 and FaceT5 Text Encode, with tiny T5 and CLIP-L in the core's own classes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from ..flux_core import CLIP_L, tiny_flux_clip
from ..golden import GoldenT5, golden_shapes, golden_t5, stand_in_weights
from .graph import Graph

FP32 = 5e-6


def _relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


@pytest.fixture(scope="module")
def golden(tmp_path_factory: pytest.TempPathFactory) -> GoldenT5:
    return golden_t5(tmp_path_factory.mktemp("facet5") / "face_t5_encoder.pt")


@pytest.fixture(scope="module")
def parts(pack_module: Any, golden: GoldenT5) -> dict[str, Path]:
    """T5 and CLIP-L of the golden file, in the core's names."""
    import sys

    names = sys.modules[f"{pack_module.__name__}.faceclip.flux.names"]
    weights = stand_in_weights(golden_shapes("tiny"))
    files = {}
    for part in ("t5xxl", "clip_l"):
        files[part] = golden.file.with_name(f"{part}.safetensors")
        save_file({names.in_core(n): t for n, t in weights.items() if names.part_of(n) == part}, files[part])
    return files


@pytest.fixture(scope="module")
def clip(parts: dict[str, Path]) -> Any:
    return tiny_flux_clip(parts["t5xxl"], parts["clip_l"])


@pytest.fixture(scope="module")
def facet5(run: Any, golden: GoldenT5, comfy: object) -> Any:
    import folder_paths

    paths, extensions = folder_paths.folder_names_and_paths["faceclip"]
    folder_paths.folder_names_and_paths["faceclip"] = ([*paths, str(golden.file.parent)], extensions)
    try:
        yield run("FaceCLIPT5Loader", facet5_name="face_t5_encoder.pt", dtype="fp32")[0]
    finally:
        folder_paths.folder_names_and_paths["faceclip"] = (paths, extensions)
        folder_paths.filename_list_cache.clear()


@pytest.fixture(scope="module")
def people(run: Any, facet5: Any, golden: GoldenT5) -> Any:
    return run("FaceCLIPEncodeIdentity", encoder=facet5, faces=golden.faces.movedim(1, -1), combine="batch")[0]


@pytest.fixture
def encode(run: Any, clip: Any, facet5: Any) -> Any:
    def encoded(prompt: str, identity: Any = None, **widgets: Any) -> list:
        return run("FaceCLIPT5TextEncode", clip=clip, facet5=facet5, prompt=prompt, identity=identity, **widgets)[0]

    return encoded


def test_the_node_gives_the_references_numbers_from_prompt_and_crop(encode: Any, golden: GoldenT5, people: Any) -> None:
    """From text through the core's tokenizers, T5 and CLIP-L; the long prompt and the one in brackets among them."""
    for row, prompt in enumerate(golden.prompts):
        # The reference reads brackets as text, and so does the core where they are escaped.
        escaped = prompt.replace("(", "\\(").replace(")", "\\)")
        ((embeddings, options),) = encode(escaped, people[row])
        assert _relative(embeddings[0], golden.outputs["embeddings"][row]) < FP32
        assert _relative(options["pooled_output"][0], golden.outputs["pooled"][row]) < FP32


def test_guidance_is_in_the_positive_and_in_the_negative(encode: Any, people: Any) -> None:
    # The core assumes 3.5 where it is absent.
    assert encode("a man", people[0])[0][1]["guidance"] == 1.0
    assert encode("blurred")[0][1]["guidance"] == 1.0
    assert encode("a man", people[0], guidance=2.5)[0][1]["guidance"] == 2.5


def test_the_negative_prompt_sees_no_face_and_has_its_own_weights(
    run: Any, clip: Any, facet5: Any, encode: Any, people: Any
) -> None:
    inputs = {"clip": clip, "facet5": facet5, "prompt": "a man", "identity": people[0], "strength": 0.5, "guidance": 2.0}
    positive, negative = run("FaceCLIPT5TextEncode", **inputs, negative_prompt="(blurred:1.3) hands")
    assert torch.equal(positive[0][0], encode("a man", people[0], strength=0.5)[0][0])
    assert torch.equal(negative[0][0], encode("(blurred:1.3) hands")[0][0]) and negative[0][1]["guidance"] == 2.0
    assert not torch.equal(negative[0][0], encode("blurred hands")[0][0])
    # a graph from before there was one: its negative is the empty prompt's
    assert torch.equal(run("FaceCLIPT5TextEncode", **inputs, negative_prompt=None)[1][0][0], encode("")[0][0])


def test_t5_reads_the_empty_prompt_once_where_both_prompts_are_weighted(
    pack_module: Any, run: Any, clip: Any, facet5: Any, encode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    node = sys.modules[f"{pack_module.__name__}.nodes.facet5"]
    read: list[int] = []
    encode_prompt = node.encode_prompt
    monkeypatch.setattr(node, "encode_prompt", lambda clip, text: read.append(text.count) or encode_prompt(clip, text))
    positive, negative = run(
        "FaceCLIPT5TextEncode", clip=clip, facet5=facet5, prompt="a (man:1.2)", negative_prompt="(blurred:1.3) hands"
    )
    assert read.count(0) == 1 and len(read) == 3
    assert torch.equal(positive[0][0], encode("a (man:1.2)", negative_prompt="")[0][0])
    assert torch.equal(negative[0][0], encode("(blurred:1.3) hands", negative_prompt="")[0][0])


def test_a_negative_prompt_that_is_cut_is_said(run: Any, clip: Any, facet5: Any, caplog: pytest.LogCaptureFixture) -> None:
    run("FaceCLIPT5TextEncode", clip=clip, facet5=facet5, prompt="a man", negative_prompt="blue " * 511 + "and the end")
    assert "this was cut off: 'and the end'" in caplog.text and "negative" in caplog.text


def test_no_face_and_a_batch_that_does_not_fit_are_said(
    pack: dict, pack_module: Any, clip: Any, facet5: Any, people: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    from comfy_api.latest import io
    from comfy_execution.utils import CurrentNodeContext

    written: list[str] = []
    status = sys.modules[f"{pack_module.__name__}.nodes.status"]
    draw = status.draw_words
    monkeypatch.setattr(status, "draw_words", lambda text: written.append(text) or draw(text))

    def said(slot: str, identity: Any, batch: int = 1) -> list[str]:
        latent = {"width": 864, "height": 1152, "batch_size": batch}
        nodes = {"text": {}, "latent": latent, "sampler": {slot: ["text", 0], "latent_image": ["latent", 0]}}
        node = pack["FaceCLIPT5TextEncode"].PREPARE_CLASS_CLONE({io.Hidden.dynprompt: Graph(nodes)})
        written.clear()
        with CurrentNodeContext("prompt", "text"), torch.inference_mode():
            node.execute(clip=clip, facet5=facet5, prompt="a man", strength=1.0, guidance=1.0, identity=identity)
        return written

    assert said("positive", None) == ["No identity is connected: text alone."]
    assert said("negative", None) == [] == said("positive", people[0]) == said("positive", people[[0, 1]], 2)
    black = next(i for i, present in enumerate(people.present) if not present)
    assert said("positive", people[black]) == ["There is no face in the identity: text alone."]
    assert said("positive", people[[0, 1]]) == ["2 people and a batch of 1: set batch_size of the latent to 2."]


def test_no_identity_is_the_black_face_and_strength_zero_is_the_same(encode: Any, golden: GoldenT5, people: Any) -> None:
    without = encode(golden.prompts[2])[0][0]
    assert golden.prompts[2] == ""
    assert _relative(without[0], golden.outputs["embeddings"][2]) < FP32  # that row has no face
    black = next(i for i, present in enumerate(people.present) if not present)
    assert _relative(encode("a man", people[black])[0][0], encode("a man")[0][0]) < FP32
    assert torch.equal(encode("a man", people[0], strength=0.0)[0][0], encode("a man")[0][0])


def test_several_people_give_a_row_each_and_none_sees_the_other(encode: Any, people: Any) -> None:
    ((rows, options),) = encode("a man", people[[0, 1]])
    assert rows.shape == (2, 512, 64) and options["pooled_output"].shape == (2, 48)
    assert _relative(rows[1:], encode("a man", people[1])[0][0]) < FP32


def test_words_beyond_511_tokens_are_cut_with_the_end_token_last_and_said(
    pack_module: Any, clip: Any, encode: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import sys

    read = sys.modules[f"{pack_module.__name__}.nodes.flux_clip"].read_prompt
    long = "blue " * 511 + "and the end is here"
    prompt = read(clip, long)
    ids = [token for token, _ in prompt.tokens["t5xxl"][0]]
    assert len(ids) == 512 and ids[-1] == 1 and ids[-2] != 1
    assert prompt.cut == "and the end is here" and prompt.count == 511 + 5
    said: list[str] = []
    monkeypatch.setattr(sys.modules[f"{pack_module.__name__}.nodes.facet5"], "show_status", said.append)
    assert encode(long)[0][0].shape == (1, 512, 64)
    assert said == ["516 of 511 tokens: too long. Left out: and the end is here"]
    assert "this was cut off: 'and the end is here'" in caplog.text
    fits = read(clip, "blue " * 511)
    assert fits.cut == "" and fits.count == 511 and fits.status == "511 of 511 tokens"
    assert [t for t, _ in fits.tokens["t5xxl"][0]][-1] == 1


def test_padding_is_512_whatever_the_clip_was_told(pack_module: Any, clip: Any) -> None:
    import sys

    read = sys.modules[f"{pack_module.__name__}.nodes.flux_clip"].read_prompt
    other = clip.clone()
    other.set_tokenizer_option("t5xxl_min_length", 300)
    other.set_tokenizer_option("t5xxl_min_padding", 400)
    for given in (clip, other):
        ids = [token for token, _ in read(given, "a man").tokens["t5xxl"][0]]
        assert len(ids) == 512 and ids[3] == 1 and set(ids[4:]) == {0}
    assert other.tokenizer_options == {"t5xxl_min_length": 300, "t5xxl_min_padding": 400}


def test_weighted_words_move_away_from_the_empty_prompt_of_the_same_person(encode: Any, people: Any) -> None:
    plain, more, empty = (encode(text, people[0])[0][0] for text in ("a man in red", "a man in (red:1.5)", ""))
    moved = (more - plain).norm(dim=-1)[0]
    assert [i for i, distance in enumerate(moved) if distance > 1e-5] == [4]  # the token of "red" alone
    assert torch.allclose(more[0, 4], empty[0, 4] + 1.5 * (plain[0, 4] - empty[0, 4]), atol=1e-5)


@pytest.mark.parametrize(("keys", "name"), [({"l"}, "Stable Diffusion 1.x's"), ({"l", "g"}, "SDXL's"), ({"x"}, "another model")])
def test_a_clip_that_is_not_fluxs_is_refused_by_name(run: Any, facet5: Any, keys: set[str], name: str) -> None:
    class Other:
        cond_stage_model = torch.nn.Identity()

        def tokenize(self, text: str, **options: Any) -> dict[str, list]:
            return {key: [[(0, 1.0)]] for key in keys}

    with pytest.raises(ValueError, match=f"This CLIP is .*{name}.*needs FLUX's.*DualCLIPLoader, type flux"):
        run("FaceCLIPT5TextEncode", clip=Other(), facet5=facet5, prompt="a man")


def test_the_cores_own_sd1_clip_is_refused(run: Any, facet5: Any) -> None:
    import comfy.sd
    import comfy.sd1_clip
    from comfy.supported_models_base import ClipTarget

    target = ClipTarget(comfy.sd1_clip.SD1Tokenizer, comfy.sd1_clip.SD1ClipModel)
    one = comfy.sd.CLIP(target, model_options={"clip_l_model_config": CLIP_L})
    with pytest.raises(ValueError, match=r"Stable Diffusion 1\.x's"):
        run("FaceCLIPT5TextEncode", clip=one, facet5=facet5, prompt="a man")
    with pytest.raises(ValueError, match="There is no CLIP"):
        run("FaceCLIPT5TextEncode", clip=None, facet5=facet5, prompt="a man")


def test_a_t5_of_another_width_is_refused(run: Any, facet5: Any, parts: dict[str, Path]) -> None:
    other = tiny_flux_clip(parts["t5xxl"], parts["clip_l"], width=128)
    with pytest.raises(ValueError, match="width 128, and this FaceT5 takes 64"):
        run("FaceCLIPT5TextEncode", clip=other, facet5=facet5, prompt="a man")


def test_the_wrong_encoder_is_sent_to_its_own_loader(run: Any, golden: GoldenT5, model_folder: Any) -> None:
    folder = model_folder("faceclip")
    (folder / "face_t5_encoder.pt").symlink_to(golden.file)
    with pytest.raises(ValueError, match="is not a FaceT5 encoder.*Load FaceCLIP Encoder"):
        run("FaceCLIPT5Loader", facet5_name="faceclip_mini_encoder.safetensors")
    with pytest.raises(ValueError, match="is not a FaceCLIP encoder.*Load FaceT5"):
        run("FaceCLIPEncoderLoader", encoder_name="face_t5_encoder.pt")


def test_an_identity_of_another_tower_is_refused(encode: Any, identity: Any) -> None:
    with pytest.raises(ValueError, match="made by another encoder.*Encode the face again"):
        encode("a man", identity)


def test_identities_are_blended_saved_and_loaded_as_faceclips(run: Any, encode: Any, people: Any) -> None:
    blend = run("FaceCLIPBlendIdentities", first=people[0], second=people[1], ratio=0.5)[0]
    saved, name = run("FaceCLIPSaveIdentity", identity=blend, name="flux person")
    loaded = run("FaceCLIPLoadIdentity", file_name=name)[0]
    assert torch.equal(encode("a man", loaded)[0][0], encode("a man", saved)[0][0])
    assert _relative(encode("a man", loaded)[0][0], encode("a man", people[0])[0][0]) > 1e-3


def test_comfyui_can_unload_it_and_it_comes_back(encode: Any, facet5: Any, people: Any) -> None:
    import comfy.model_management as management

    first = encode("a man", people[0])[0][0]
    assert any(held.model is facet5.patcher for held in management.current_loaded_models)
    management.unload_all_models()
    assert torch.equal(encode("a man", people[0])[0][0], first)


@pytest.mark.parametrize("weight", ["1e39", "nan", "inf"])
def test_a_weight_that_makes_no_numbers_is_refused(weight: str, encode: Any) -> None:
    with pytest.raises(ValueError, match="not finite numbers.*a weight in the prompt"):
        encode(f"a man in (red:{weight})")


@pytest.mark.parametrize("what", ["load", "text"])
def test_the_bar_moves_and_cancel_is_heeded(what: str, bar: Any, run: Any, encode: Any, facet5: Any) -> None:
    import comfy.model_management as management

    def work() -> None:
        if what == "load":
            run("FaceCLIPT5Loader", facet5_name="face_t5_encoder.pt", dtype="fp32")
        else:
            encode("a man")

    before = encode("a man")[0][0]
    bar.shown.clear()
    work()
    done, totals = zip(*bar.shown, strict=True)
    assert done[-1] == totals[-1] > 5 and list(done) == sorted(done)
    bar.shown.clear()
    bar.cancel_at = 3
    with pytest.raises(management.InterruptProcessingException):
        work()
    bar.cancel_at = 0
    assert torch.equal(encode("a man")[0][0], before)


def test_a_dtype_that_is_none_is_refused(run: Any, facet5: Any) -> None:
    with pytest.raises(ValueError, match="dtype is 'int4'. Choose one of: default, fp32"):
        run("FaceCLIPT5Loader", facet5_name="face_t5_encoder.pt", dtype="int4")
