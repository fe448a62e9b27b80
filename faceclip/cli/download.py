"""`faceclip download`: the released weights into ComfyUI's models folder, after their licences were accepted."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import hub
from ..download.errors import DownloadError
from ..download.fetch import Offer, State, ask_server, check_space, fetch, state
from ..download.models_folder import models_folder
from ..hub import RemoteFile, size_text

_STATES: dict[State, str] = {
    "there": "there",
    "partial": "begun",
    "different": "another file",
    "missing": "missing",
}
_CONVERTED = {
    "face_clip_encoder.pt": ("To save 0.5 GB", "face_clip_encoder_bf16.safetensors"),
    "face_t5_encoder.pt": ("To keep FaceT5 alone, 2.05 GB", "facet5_bf16.safetensors"),
    "dit.pt": ("To have it as safetensors (with --dtype fp8: 11.9 GB)", "facet5_dit_bf16.safetensors"),
}
_NOT_TOUCHED = "It may have been cut off, or be your own: it is not touched. Move it away to fetch it."


def add_download(commands) -> None:
    """Add the command's parser."""
    parser = commands.add_parser("download", help="fetch the released weights into ComfyUI's models folder")
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"files to fetch (default: {' '.join(hub.NEEDED)}); facet5: FaceT5-FLUX; flux: T5, CLIP-L and VAE; "
        "training: what training starts from; see --list",
    )
    parser.add_argument("--to", type=Path, metavar="PATH", help="ComfyUI, or its models folder (default: the one found)")
    parser.add_argument("--list", action="store_true", help="show all files, their licences and what is there; fetch nothing")
    parser.add_argument("--accept-licence", action="store_true", help="for scripts: accept the licences without being asked")
    parser.set_defaults(run=_download)


def _download(options: argparse.Namespace) -> None:
    models = models_folder(options.to)
    if options.list:
        _show_list(_chosen(options.names) if options.names else hub.FILES, models)
        return
    wanted = []
    for file in _chosen(options.names or hub.NEEDED):
        if _is_needed(file, models):
            wanted.append(file)
        else:
            print(f"{_place(file, models)} is there: not fetched again.")
    if not wanted:
        return
    _ask_consent(wanted, models, options.accept_licence)
    offers = [ask_server(file) for file in wanted]
    check_space(offers, models)
    try:
        for offer in offers:
            _fetch(offer, models)
    except KeyboardInterrupt:
        print("\nStopped. What has come is kept: the same command goes on from there.", file=sys.stderr)
        raise SystemExit(130) from None


def _chosen(names: Sequence[str]) -> tuple[RemoteFile, ...]:
    """The files of these names, or groups; a pack may be named without its ending."""
    files = []
    for name in dict.fromkeys(file for given in names for file in hub.GROUPS.get(given, (given,))):
        file = hub.find(name) or hub.find(f"{name}.zip")
        if file is None:
            known = ", ".join([*hub.GROUPS, *(file.name for file in hub.FILES)])
            raise DownloadError(f"No file called {name} is known. There are: {known}.")
        files.append(file)
    return tuple(files)


def _is_needed(file: RemoteFile, models: Path) -> bool:
    """Whether anything is to be fetched. Raises DownloadError if another file lies in its place: it is the user's."""
    found = state(file, models)
    if found == "different":
        folder = models / file.folder
        wrong = next(
            f"{folder / name} has {(folder / name).stat().st_size:,} bytes, the published file {size:,}"
            for name, size in file.targets.items()
            if size is not None and (folder / name).is_file() and (folder / name).stat().st_size != size
        )
        raise DownloadError(f"{wrong}. {_NOT_TOUCHED}")
    if found == "there" and None in file.targets.values():
        _compare_with_server(file, models)
    return found != "there"


def _compare_with_server(file: RemoteFile, models: Path) -> None:
    """For a file whose size the table does not know: raise DownloadError if the server's is another."""
    path = models / file.folder / file.name
    try:
        size = ask_server(file).size
    except DownloadError:
        print(f"{path}: its size could not be compared with the published file's: no answer from there.")
        return
    if size is not None and size != path.stat().st_size:
        raise DownloadError(f"{path} has {path.stat().st_size:,} bytes, the published file {size:,}. {_NOT_TOUCHED}")


def _ask_consent(files: Sequence[RemoteFile], models: Path, accepted: bool) -> None:
    """Show what is fetched under which licence; go on only if the user agrees."""
    print(f"To fetch into {models}:")
    for file in files:
        print(f"  {file.folder}/{file.name} ({file.size_told}): {file.contents}")
        print(f"    from {file.page}")
    print("Licences:")
    for licence in dict.fromkeys(licence for file in files for licence in file.licences):
        names = ", ".join(file.name for file in files if licence in file.licences)
        print(f"  {names}: {licence}, {hub.LICENCE_PAGES[licence]}")
    if accepted:
        print("Accepted by --accept-licence.")
        return
    if not sys.stdin.isatty():
        raise DownloadError("Nobody can be asked here. Read the licences above, then add --accept-licence. Nothing was fetched.")
    if input("Do you accept them? [yes/no] ").strip().lower() not in ("y", "yes"):
        raise DownloadError("Not accepted: nothing was fetched.")


def _fetch(offer: Offer, models: Path) -> None:
    for path in fetch(offer, models):
        print(f"{path}: {size_text(path.stat().st_size)}")
    if offer.sha256 is None:
        print("  Neither the table nor the server has a checksum: only its size was compared.")
    if offer.file.name in _CONVERTED:
        saved, name = _CONVERTED[offer.file.name]
        source = models / offer.file.folder / offer.file.name
        print(f"  {saved}: faceclip convert {source} {source.with_name(name)}")


def _show_list(files: Sequence[RemoteFile], models: Path) -> None:
    print(f"In {models}:")
    for file in files:
        print(f"{_STATES[state(file, models)]:13} {file.folder}/{file.name}, {file.size_told}, {file.licence_told}")
        print(f"{'':13} {file.contents}; {file.page}")


def _place(file: RemoteFile, models: Path) -> Path:
    folder = models / file.folder
    return folder if file.members else folder / file.name
