"""Rank by Face Similarity: which of the pictures made looks most like the person."""

from __future__ import annotations

from typing import get_args

import comfy.model_management
import comfy.utils
from comfy_api.latest import io, ui
from torch import Tensor

from ..faceclip.face.similarity import Judge, SimilarityScores, label_ranking, load_judge, rank_images
from .compat import newer
from .faces import detector_device, watched_detector
from .folders import insightface_folders
from .status import STAYS


class FaceCLIPFaceSimilarity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPFaceSimilarity",
            display_name="Rank by Face Similarity",
            category="FaceCLIP",
            description="Sort pictures by how much they look like a person, as a face recognition network judges it.",
            inputs=[
                io.Image.Input(
                    "images", tooltip="The pictures to rank. If a picture shows several faces, the most similar one counts."
                ),
                io.Image.Input(
                    "reference", tooltip="One photo of the person, or several. Aligned crops from Detect Faces will do."
                ),
                io.Combo.Input(
                    "judge",
                    options=list(get_args(Judge)),
                    default="auto",
                    tooltip="The network that compares. Scores of different judges do not compare. insightface: buffalo_l. "
                    "auto: insightface if it and its pack are installed, else dlib.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "ranked",
                    display_name="ranked images",
                    tooltip="The pictures, most similar first; those without a face come last.",
                ),
                io.String.Output(
                    "scores", display_name="scores", tooltip="Place, picture and score (cosine, 1 is the same face)."
                ),
                io.Image.Output("best", display_name="best", tooltip="The most similar picture alone."),
            ],
            **STAYS,
            **newer(io.Schema, search_aliases=["likeness", "face distance", "compare faces"]),
        )

    @classmethod
    def execute(cls, images: Tensor, reference: Tensor, judge: Judge) -> io.NodeOutput:
        progress = comfy.utils.ProgressBar(len(images))

        def seen(done: int) -> None:
            comfy.model_management.throw_exception_if_processing_interrupted()
            progress.update_absolute(done)

        network = load_judge(judge, roots=insightface_folders(), device=detector_device())
        network.detector = watched_detector(network.detector)
        found = rank_images(network, images, reference, seen)
        ranking = list(found.ranking)
        shown = ui.PreviewImage(label_ranking(images, found))  # on the node; the outputs bear no labels
        return io.NodeOutput(images[ranking], _table(found), images[ranking[:1]], ui=shown)


def _table(found: SimilarityScores) -> str:
    rows = [f"Judge {found.judge}: usually the same person above {found.same_person_above:g}."]
    for place, index in enumerate(found.ranking, 1):
        score = "no face found" if index in found.without_face else f"{found.scores[index]:.3f}"
        rows.append(f"{place}. image {index}: {score}")
    return "\n".join(rows)
