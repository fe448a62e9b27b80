"""A client of a ComfyUI server: upload a photo, queue a graph, follow it over the websocket, fetch the pictures."""

from __future__ import annotations

import io
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from PIL import Image

Prompt = dict[str, dict[str, Any]]

_MESSAGE_TIMEOUT = 600.0  # s without any word from the server; a CPU may spend minutes on one node


class GraphError(RuntimeError):
    """The server refused the graph, or a node failed; the message has each node's own words."""


@dataclass
class GraphRun:
    """What one run of a graph left.

    Attributes:
        outputs: what output nodes showed, by node id: `{"images": [{"filename", "subfolder", "type"}, ...], ...}`.
        seconds: time spent in each node that ran, by node id, in the order in which they ran.
    """

    outputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


class ComfyClient:
    """Talks to the server at `address` (`http://host:port`)."""

    def __init__(self, address: str) -> None:
        self.address = address
        self.client_id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON that the server answers at `path` (`/object_info`, `/system_stats`, ...)."""
        with urllib.request.urlopen(self.address + path) as response:
            return json.load(response)

    def post(self, path: str, content: Any) -> bytes:
        """Send JSON to the server; return what it answers. Raises urllib.error.HTTPError."""
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data=json.dumps(content).encode(), headers=headers)
        with urllib.request.urlopen(request) as response:
            return response.read()

    def upload_photo(self, name: str, content: bytes) -> str:
        """Put a picture into ComfyUI's input folder; return the name by which `LoadImage` finds it."""
        boundary = uuid.uuid4().hex
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{name}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        overwrite = f'\r\n--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n--{boundary}--\r\n'
        request = urllib.request.Request(
            f"{self.address}/upload/image",
            data=head.encode() + content + overwrite.encode(),
            headers={"Content-Type": f"multipart/form-data; boundary={boundary}"},
        )
        with urllib.request.urlopen(request) as response:
            return json.load(response)["name"]

    def queue(self, prompt: Prompt) -> str:
        """Queue a graph in API format; return its id. Raises GraphError if the server's validation refuses it."""
        try:
            answer = json.loads(self.post("/prompt", {"prompt": prompt, "client_id": self.client_id}))
        except urllib.error.HTTPError as error:
            if error.code != 400:
                raise
            answer = json.load(error)
        if "error" in answer or answer["node_errors"]:
            raise GraphError(_refusal(answer, prompt))
        return answer["prompt_id"]

    def run(self, prompt: Prompt, on_progress: Callable[[float, str], None] = lambda done, node_id: None) -> GraphRun:
        """Queue a graph and follow it to its end.

        `on_progress` gets the part of the graph that is done, in [0, 1], and the id of the node at work.
        Raises GraphError if the server refuses the graph or a node fails.
        """
        import websocket

        socket = websocket.create_connection(
            f"{self.address.replace('http', 'ws', 1)}/ws?clientId={self.client_id}", timeout=_MESSAGE_TIMEOUT
        )
        try:
            prompt_id = self.queue(prompt)
            return _follow(_messages(socket.recv, prompt_id), prompt, on_progress)
        finally:
            socket.close()

    def pictures(self, run: GraphRun, node_ids: Iterable[str]) -> list[Image.Image]:
        """What these output nodes showed, in RGB, node by node."""
        return [self._picture(reference) for node in node_ids for reference in run.outputs.get(node, {}).get("images", [])]

    def _picture(self, reference: dict[str, str]) -> Image.Image:
        with urllib.request.urlopen(f"{self.address}/view?{urllib.parse.urlencode(reference)}") as response:
            return Image.open(io.BytesIO(response.read())).convert("RGB")


def _messages(receive: Callable[[], str | bytes], prompt_id: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """The server's messages about one graph, as (type, data). Binary ones are previews of unfinished pictures."""
    while True:
        message = receive()
        if isinstance(message, bytes):
            continue
        content = json.loads(message)
        if content.get("data", {}).get("prompt_id") == prompt_id:
            yield content["type"], content["data"]


def _follow(
    messages: Iterator[tuple[str, dict[str, Any]]], prompt: Prompt, on_progress: Callable[[float, str], None]
) -> GraphRun:
    run = GraphRun()
    finished: set[str] = set()
    current, started = "", 0.0
    for kind, data in messages:
        if kind == "execution_cached":
            finished.update(data["nodes"])
        elif kind == "executing":
            now = time.monotonic()
            if current:
                run.seconds[current] = run.seconds.get(current, 0.0) + now - started
                finished.add(current)
            current, started = data["node"] or "", now
            on_progress(len(finished) / len(prompt), current)
            if not current:
                return run
        elif kind == "progress" and data["max"]:
            on_progress((len(finished) + data["value"] / data["max"]) / len(prompt), data["node"])
        elif kind == "executed" and data["output"]:
            run.outputs[data["node"]] = data["output"]
        elif kind == "execution_error":
            raise GraphError(f"{data['node_type']} (node {data['node_id']}) failed: {data['exception_message'].strip()}")
        elif kind == "execution_interrupted":
            raise GraphError(f"The run was interrupted at {data['node_type']} (node {data['node_id']}).")
    raise GraphError("The server closed the connection before the graph was done.")


def _refusal(answer: dict[str, Any], prompt: Prompt) -> str:
    lines = [f"ComfyUI refused the graph: {answer['error']['message']}"] if "error" in answer else ["ComfyUI refused nodes:"]
    for node_id, problem in answer["node_errors"].items():
        for error in problem["errors"]:
            lines.append(f"  {prompt[node_id]['class_type']} (node {node_id}): {error['message']}: {error['details']}")
    return "\n".join(lines)
