"""`faceclip download facet5`: what it tells before anything is fetched."""

from __future__ import annotations

from faceclip.cli import main


def test_both_licences_are_told_and_nothing_is_fetched_unasked(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert main(["download", "facet5", "--to", str(tmp_path / "models")]) == 2
    shown = capsys.readouterr()
    assert "faceclip/face_t5_encoder.pt (12.5 GB)" in shown.out and "diffusion_models/dit.pt (23.8 GB)" in shown.out
    assert "face_t5_encoder.pt, dit.pt: CC BY-NC 4.0, https://creativecommons.org" in shown.out
    assert (
        "face_t5_encoder.pt, dit.pt: FLUX.1 [dev] Non-Commercial License, https://huggingface.co/black-forest-labs" in shown.out
    )
    assert "add --accept-licence. Nothing was fetched" in shown.err
    assert not list((tmp_path / "models").rglob("*.p*t"))


def test_the_list_knows_the_groups(tmp_path, capsys):
    (tmp_path / "models").mkdir()
    assert main(["download", "facet5", "flux", "--list", "--to", str(tmp_path / "models")]) == 0
    shown = capsys.readouterr().out
    assert "diffusion_models/dit.pt, 23.8 GB, CC BY-NC 4.0, on top of the FLUX.1 [dev] Non-Commercial License" in shown
    assert "text_encoders/t5xxl_fp16.safetensors, 9.79 GB, Apache 2.0" in shown
    assert "vae/ae.safetensors, 335.3 MB" in shown
    assert main(["download", "nothing", "--list", "--to", str(tmp_path / "models")]) == 2
    assert "There are: facet5, flux, training, face_clip_encoder.pt" in capsys.readouterr().err
