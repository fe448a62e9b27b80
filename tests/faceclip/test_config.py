from __future__ import annotations

import pytest
import torch

from faceclip import FaceCLIPConfig, FaceCLIPEncoder


@pytest.mark.parametrize("preset", ["sdxl", "mini", "tiny"])
def test_presets_survive_json_and_are_told_from_shapes(preset):
    config = FaceCLIPConfig.preset(preset)
    assert FaceCLIPConfig.from_json(config.to_json()) == config
    with torch.device("meta"):
        shapes = {name: tuple(t.shape) for name, t in FaceCLIPEncoder(config).state_dict().items()}
    assert FaceCLIPConfig.from_shapes(shapes) == config
    only_g = {name: shape for name, shape in shapes.items() if name.startswith("face_clip_g")}
    assert FaceCLIPConfig.from_shapes(only_g) == config.only("g")


def test_sdxl_has_sdxls_widths():
    config = FaceCLIPConfig.preset("sdxl")
    assert (config.width, config.pooled_width) == (2048, 1280)


def test_unknown_presets_and_sizes_are_named():
    with pytest.raises(ValueError, match="no FaceCLIP preset called 'huge'.*sdxl"):
        FaceCLIPConfig.preset("huge")
    with pytest.raises(ValueError, match="none of the known sizes"):
        FaceCLIPConfig.from_shapes({"face_clip_l.text_projection": (100, 100)})
    with pytest.raises(ValueError, match="none of the known sizes"):
        FaceCLIPConfig.from_shapes({})


@pytest.mark.parametrize("text", ["not json", "[]", '{"l": {}}', '{"l": {"text": {"wide": 3}, "face": {}, "fusion": {}}}'])
def test_damaged_json_is_refused(text):
    with pytest.raises(ValueError, match="not the configuration"):
        FaceCLIPConfig.from_json(text)
