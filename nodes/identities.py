"""Identities at hand: Blend Identities, Save Identity, Load Identity."""

from __future__ import annotations

import re
from pathlib import Path

from comfy_api.latest import io

from ..faceclip import Identity
from ..faceclip.file_names import is_portable
from .compat import newer
from .folders import IDENTITIES, find_file, identities_folder, is_there, list_files
from .status import show_status, words
from .types import IdentityType


class FaceCLIPBlendIdentities(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPBlendIdentities",
            display_name="Blend Identities",
            category="FaceCLIP",
            description="A person between two others.",
            inputs=[
                IdentityType.Input("first", tooltip="The identity at ratio 0."),
                IdentityType.Input("second", tooltip="The identity at ratio 1, made by the same encoder."),
                io.Float.Input(
                    "ratio",
                    default=0.5,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How much of the second: 0 is the first alone, 1 the second alone.",
                ),
            ],
            outputs=[
                IdentityType.Output(display_name="identity", tooltip="The blend, for FaceCLIP Text Encode or FaceT5 Text Encode.")
            ],
            **newer(io.Schema, search_aliases=["mix faces", "merge faces", "morph"]),
        )

    @classmethod
    def execute(cls, first: Identity, second: Identity, ratio: float) -> io.NodeOutput:
        return io.NodeOutput(Identity.blend(first, second, ratio))


class FaceCLIPSaveIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPSaveIdentity",
            display_name="Save Identity",
            category="FaceCLIP",
            description="Keep an identity as a small file in output/faceclip_identities. It holds face features, no photo.",
            inputs=[
                IdentityType.Input("identity", tooltip="From Encode Identity or Blend Identities."),
                io.String.Input(
                    "name",
                    default="person",
                    tooltip="Name of the file. If there is one of this name, a number is added: nothing is overwritten.",
                ),
            ],
            outputs=[
                IdentityType.Output("saved", display_name="identity", tooltip="The same identity."),
                io.String.Output("file", display_name="file", tooltip="Name of the file written, as Load Identity shows it."),
            ],
            is_output_node=True,
            **newer(io.Schema, search_aliases=["export face"]),
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return True if name is None or _is_file_name(name) else _BAD_NAME.format(name=name)

    @classmethod
    def execute(cls, identity: Identity, name: str) -> io.NodeOutput:
        if not _is_file_name(name):  # a name that comes over a link is not seen by validate_inputs
            raise ValueError(_BAD_NAME.format(name=name))
        path = _new_file(identities_folder(), name.strip())
        try:
            identity.save(path)
        except BaseException:
            path.unlink(missing_ok=True)
            raise
        saved = f"Saved as {path.name}"
        show_status(saved)
        shown = words(saved)
        # The picture is on the node; the longer text is in the queue's history.
        return io.NodeOutput(identity, path.name, ui={**shown.as_dict(), "text": (f"{saved} in {path.parent}",)})


class FaceCLIPLoadIdentity(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FaceCLIPLoadIdentity",
            display_name="Load Identity",
            category="FaceCLIP/loaders",
            description="Load an identity that Save Identity wrote. It fits the encoder it was made with, "
            "and others with the same face tower.",
            inputs=[
                io.Combo.Input(
                    "file_name",
                    options=list_files([IDENTITIES]),
                    tooltip="A file in output/faceclip_identities. Press R to list new ones.",
                )
            ],
            outputs=[IdentityType.Output(display_name="identity", tooltip="For FaceCLIP Text Encode or FaceT5 Text Encode.")],
            **newer(io.Schema, search_aliases=["import face"]),
        )

    @classmethod
    def validate_inputs(cls, file_name: str | None = None) -> bool | str:
        return is_there(file_name=(file_name, [IDENTITIES]))

    @classmethod
    def fingerprint_inputs(cls, file_name: str) -> tuple[str, int, int]:
        status = find_file(file_name, [IDENTITIES]).stat()
        return file_name, status.st_mtime_ns, status.st_size

    @classmethod
    def execute(cls, file_name: str) -> io.NodeOutput:
        return io.NodeOutput(Identity.load(find_file(file_name, [IDENTITIES])))


_BAD_NAME = (
    "The name {name!r} cannot be a file's. Use letters, digits, spaces, '-', '_' and '.', the first a letter or digit; "
    "con, nul and the like are devices to Windows. At most 100 characters, of most scripts fewer."
)


def _is_file_name(name: str) -> bool:
    """Whether `name` is one plain file name on every system: nothing that leads to another folder, or to a device."""
    name = name.strip()
    longest = f"{name}.safetensors{'0' * 20}.part"  # while it is written, with a number in it
    return re.fullmatch(r"\w[\w .-]{0,99}", name) is not None and is_portable(longest)


def _new_file(folder: Path, name: str) -> Path:
    """`NAME.safetensors` in `folder`, or `NAME_2.safetensors` and so on: a
    file that was not there, and now is, empty.

    So two servers with one output folder do not take the same name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    name = name.removesuffix(".safetensors")
    path, number = folder / f"{name}.safetensors", 1
    while True:
        try:
            path.touch(exist_ok=False)
        except FileExistsError:
            number += 1
            path = folder / f"{name}_{number}.safetensors"
        else:
            return path
