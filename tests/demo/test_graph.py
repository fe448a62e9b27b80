"""Workflows into prompts; the comparison with the editor's own conversion is in tests/comfyui/test_browser.py."""

from __future__ import annotations

from demo.graph import downloads, shown_pictures, to_prompt, with_photo, with_previews

_OBJECT_INFO = {
    "LoadImage": {"input": {"required": {"image": [["a.png"], {"image_upload": True}]}}, "input_order": {"required": ["image"]}},
    "FaceCLIPDetectFaces": {
        "input": {"required": {"image": ["IMAGE", {}], "seed": ["INT", {"control_after_generate": True}], "index": ["INT", {}]}},
        "input_order": {"required": ["image", "seed", "index"]},
    },
    "PreviewImage": {"input": {"required": {"images": ["IMAGE", {}]}}, "input_order": {"required": ["images"]}},
}


def workflow(mode: int = 0) -> dict:
    def node(number: int, kind: str, link: int | None, widgets: list, entry: str = "images", mode: int = 0) -> dict:
        inputs = [{"name": entry, "type": "IMAGE", "link": link}] if link else []
        outputs = [{"name": "IMAGE", "type": "IMAGE", "links": []}] * 2
        return {"id": number, "type": kind, "mode": mode, "inputs": inputs, "outputs": outputs, "widgets_values": widgets}

    return {
        "nodes": [
            node(1, "LoadImage", None, ["a.png", "image"]),
            node(2, "FaceCLIPDetectFaces", 1, [7, "randomize", 3], "image"),
            node(3, "PreviewImage", 2, []),
            node(4, "PreviewImage", 3, [], mode=mode),
            node(5, "MarkdownNote", None, ["words"]),
        ],
        "links": [[1, 1, 0, 2, 0, "IMAGE"], [2, 2, 0, 3, 0, "IMAGE"], [3, 2, 1, 4, 0, "IMAGE"]],
        "version": 0.4,
    }


def test_widgets_are_named_the_seeds_control_is_dropped_and_notes_stay_out() -> None:
    prompt = to_prompt(workflow(), _OBJECT_INFO)
    assert sorted(prompt) == ["1", "2", "3", "4"]
    assert prompt["2"]["inputs"] == {"image": ["1", 0], "seed": 7, "index": 3}


def test_a_muted_node_is_left_out() -> None:
    assert sorted(to_prompt(workflow(mode=2), _OBJECT_INFO)) == ["1", "2", "3"]


def test_every_photo_loader_gets_the_photo_and_the_given_graph_stays() -> None:
    prompt = to_prompt(workflow(), _OBJECT_INFO)
    assert with_photo(prompt, "mine.png")["1"]["inputs"]["image"] == "mine.png"
    assert prompt["1"]["inputs"]["image"] == "a.png"


def test_an_example_face_makes_room_for_the_photo() -> None:
    prompt = {"1": {"class_type": "FaceCLIPExampleFace", "inputs": {"person": "ada"}}}
    assert with_photo(prompt, "mine.png")["1"] == {"class_type": "LoadImage", "inputs": {"image": "mine.png"}}


def test_what_detect_faces_gives_can_be_shown() -> None:
    prompt = {"2": {"class_type": "FaceCLIPDetectFaces", "inputs": {}}}
    assert shown_pictures(with_previews(prompt)) == {"faces": ["2_faces"], "aligned": ["2_aligned"], "result": []}
    assert list(prompt) == ["2"]


def test_what_an_output_node_shows_is_told_by_where_its_picture_comes_from() -> None:
    prompt = to_prompt(workflow(), _OBJECT_INFO)
    assert shown_pictures(prompt) == {"faces": ["4"], "aligned": ["3"], "result": []}
    prompt["3"]["inputs"]["images"] = ["1", 0]
    assert shown_pictures(prompt) == {"faces": ["4"], "aligned": [], "result": ["3"]}


def test_downloads_are_what_the_loaders_declare() -> None:
    graph = workflow()
    assert downloads(graph) == []
    graph["nodes"][0]["properties"] = {"models": [{"name": "a", "url": "b", "directory": "c"}]}
    assert [file["name"] for file in downloads(graph)] == ["a"]
