"""The graph around a node, as ComfyUI tells a node of it while it runs."""

from __future__ import annotations

from typing import Any


class Graph:
    """What ComfyUI tells a node of the graph that runs, in API format."""

    def __init__(self, nodes: dict[str, dict[str, Any]]):
        self.nodes = {node: {"inputs": inputs} for node, inputs in nodes.items()}

    def has_node(self, node: str) -> bool:
        return node in self.nodes

    def get_node(self, node: str) -> dict[str, Any]:
        return self.nodes[node]

    def all_node_ids(self) -> set[str]:
        return set(self.nodes)
