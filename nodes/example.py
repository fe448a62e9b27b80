"""Example Face: a person to try the pack on, without a photo of one's own."""

from __future__ import annotations

import torch
from comfy_api.latest import io, ui

from ..faceclip.face import load_photo
from .compat import newer, require_choice
from .folders import example_people
from .status import STAYS


class FaceCLIPExampleFace(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        people = list(example_people())
        return io.Schema(
            node_id="FaceCLIPExampleFace",
            display_name="Example Face",
            category="FaceCLIP",
            description="A drawn person that comes with the pack, as a photo to try a graph with. The mini model knows such.",
            inputs=[
                io.Combo.Input(
                    "person",
                    options=people,
                    default=people[0],
                    tooltip="Who. They are drawn by code: nobody is shown, and no licence is attached.",
                )
            ],
            outputs=[io.Image.Output("image", display_name="image", tooltip="The picture, for Detect Faces.")],
            **STAYS,
            **newer(io.Schema, search_aliases=["faceclip example", "sample photo", "test image", "demo face"]),
        )

    @classmethod
    def execute(cls, person: str) -> io.NodeOutput:
        people = example_people()
        require_choice("person", person, people)
        image = torch.from_numpy(load_photo(people[person])).float()[None] / 255
        return io.NodeOutput(image, ui=ui.PreviewImage(image))
