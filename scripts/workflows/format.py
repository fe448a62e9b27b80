"""ComfyUI's workflow format (UI format 0.4), drawn node by node from the
definitions that a ComfyUI answers at /object_info.

Widget order, sockets and types come from there, so a workflow cannot disagree with the nodes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
PACK, PACK_VERSION, CORE, CORE_VERSION = "faceclip", "0.1.0", "comfy-core", "0.3.75"
OPTIONAL_SHAPE = 7  # how the front end draws an optional socket
GROUP_MARGIN, GROUP_TITLE, NODE_TITLE = 20, 50, 30


@dataclass(frozen=True)
class Socket:
    """An output of a node in a graph."""

    node: int
    slot: int
    type: str


@dataclass(frozen=True)
class Node:
    """A node that was added to a graph; `node["IMAGE"]` is its output of that name."""

    id: int
    outputs: Mapping[str, Socket]

    def __getitem__(self, name: str) -> Socket:
        return self.outputs[name]


@dataclass(frozen=True)
class Place:
    """Where a node stands, in pixels of the canvas."""

    x: int
    y: int
    width: int
    height: int


class Graph:
    """A workflow in the making."""

    def __init__(self, name: str, object_info: Mapping[str, Any]):
        self._name = name
        self._object_info = object_info
        self._nodes: list[dict[str, Any]] = []
        self._links: list[list[Any]] = []
        self._groups: list[dict[str, Any]] = []

    def add(self, kind: str, place: Place, title: str | None = None, models: Sequence[Mapping[str, str]] = (), **values) -> Node:
        """Add a node. `values` are its inputs: sockets of other nodes, and widgets that differ from their defaults.

        Raises ValueError for an input that the node lacks, and for a widget that has neither value nor default.
        """
        info = self._object_info[kind]
        node_id = len(self._nodes) + 1
        sockets, widgets, widget_values = [], [], []
        for name, (spec, options, optional) in _inputs(info).items():
            value = values.pop(name, None)
            if _is_widget(spec, options):
                widgets.append({"name": name, "type": _type_name(spec), "widget": {"name": name}, "link": None})
                widget_values += _widget_values(kind, name, spec, options, value)
                continue
            sockets.append({"name": name, "type": spec, **({"shape": OPTIONAL_SHAPE} if optional else {}), "link": None})
            if value is not None:
                sockets[-1]["link"] = self._connect(value, node_id, len(sockets) - 1)
        if values:
            raise ValueError(f"{kind} has no input {', '.join(values)}.")
        outputs = [
            {"name": name, "type": type_name, "links": []}
            for name, type_name in zip(info["output_name"], info["output"], strict=True)
        ]
        properties = {**_origin(info), "Node name for S&R": kind, **({"models": list(models)} if models else {})}
        self._append(kind, place, title, inputs=sockets + widgets, outputs=outputs, properties=properties, values=widget_values)
        return Node(node_id, {output["name"]: Socket(node_id, slot, output["type"]) for slot, output in enumerate(outputs)})

    def note(self, text: str, place: Place, title: str = "Note") -> None:
        """Add a note in Markdown, without code spans (Nodes 2.0: blue on blue) and in the editor's own colours."""
        self._append("MarkdownNote", place, title, inputs=[], outputs=[], properties={}, values=[text.strip().replace("`", "")])

    def group(self, title: str, colour: str, nodes: Sequence[Node]) -> None:
        """Frame nodes."""
        boxes = [(*self._nodes[node.id - 1]["pos"], *self._nodes[node.id - 1]["size"]) for node in nodes]
        left, top = min(box[0] for box in boxes) - GROUP_MARGIN, min(box[1] for box in boxes) - NODE_TITLE - GROUP_TITLE
        right, bottom = (max(box[axis] + box[axis + 2] for box in boxes) + GROUP_MARGIN for axis in (0, 1))
        bounding = [left, top, right - left, bottom - top]
        self._groups.append(
            {"id": len(self._groups) + 1, "title": title, "bounding": bounding, "color": colour, "font_size": 24, "flags": {}}
        )

    def choices(self, kind: str, name: str) -> list[str]:
        """What a combo of a node offers."""
        spec, options, _ = _inputs(self._object_info[kind])[name]
        return list(spec if isinstance(spec, list) else options["options"])

    def to_dict(self) -> dict[str, Any]:
        """The workflow in UI format 0.4."""
        return {
            "id": str(uuid.uuid5(uuid.NAMESPACE_URL, self._name)),
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": self._links,
            "groups": self._groups,
            "config": {},
            "extra": {"ds": {"scale": 0.55, "offset": [650, 180]}},
            "version": 0.4,
        }

    def _connect(self, source: Socket, target: int, slot: int) -> int:
        link = len(self._links) + 1
        self._links.append([link, source.node, source.slot, target, slot, source.type])
        self._nodes[source.node - 1]["outputs"][source.slot]["links"].append(link)
        return link

    def _append(self, kind: str, place: Place, title: str | None, *, inputs, outputs, properties, values) -> None:
        self._nodes.append(
            {
                "id": len(self._nodes) + 1,
                "type": kind,
                "pos": [place.x, place.y],
                "size": [place.width, place.height],
                "flags": {},
                "order": len(self._nodes),
                "mode": 0,
                **({"title": title} if title else {}),
                "inputs": inputs,
                "outputs": outputs,
                "properties": properties,
                "widgets_values": values,
            }
        )


def _inputs(info: Mapping[str, Any]) -> dict[str, tuple[Any, Mapping[str, Any], bool]]:
    """Name -> (type or list of choices, options, optional), in the node's order."""
    found = {}
    for kind in ("required", "optional"):
        for name, (spec, *options) in info["input"].get(kind, {}).items():
            found[name] = (spec, options[0] if options else {}, kind == "optional")
    return found


def _is_widget(spec: Any, options: Mapping[str, Any]) -> bool:
    return isinstance(spec, list) or (spec in WIDGET_TYPES and not options.get("forceInput"))


def _type_name(spec: Any) -> str:
    return "COMBO" if isinstance(spec, list) else spec


def _widget_values(kind: str, name: str, spec: Any, options: Mapping[str, Any], value: Any) -> list[Any]:
    """What a widget adds to `widgets_values`: its value, and that of the control the front end puts beside it."""
    if value is None:
        value = options.get("default", "" if spec == "STRING" else None)
    if value is None:
        raise ValueError(f"{kind} needs a value for {name}.")
    if options.get("control_after_generate"):
        return [value, "randomize"]
    return [value, "image"] if options.get("image_upload") else [value]


def _origin(info: Mapping[str, Any]) -> dict[str, str]:
    """Which pack a node is from, as the Manager reads it."""
    ours = info["name"].startswith("FaceCLIP")
    return {"cnr_id": PACK, "ver": PACK_VERSION} if ours else {"cnr_id": CORE, "ver": CORE_VERSION}
