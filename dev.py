#!/usr/bin/env python3
"""FaceCLIP from nothing, in two commands. Needs Python 3.10 or newer and the package registries; nothing else.

    python dev.py demo [PHOTO]    faces become pictures inside a real ComfyUI; a contact sheet shows them
    python dev.py test [ARGS]     the whole test suite, browser included; ARGS go to pytest
    python dev.py test --quick    without server, browser, proof, training runs and whole programs: some three minutes

Everything is made below `.dev/` in this folder; delete that to start afresh. `--comfyui PATH` or the variable
COMFYUI_PATH uses your own ComfyUI, with the Python of its virtual
environment (or `--python`); nothing is installed there.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - the message is for those who run an older one
    sys.exit(f"FaceCLIP needs Python 3.10 or newer; this is {sys.version.split()[0]} ({sys.executable}).")

sys.path.insert(0, str(Path(__file__).resolve().parent))

from demo.setup import (
    CLIENT,
    ROOT,
    DevFolder,
    SetupError,
    check_users_python,
    comfyui_requirements,
    ensure_chromium,
    ensure_comfyui,
    ensure_packages,
    ensure_venv,
    has_accelerator,
    users_comfyui,
    users_python,
)

# Two processes share the tests, file by file in the order of `tests/conftest.py`. Arguments of the user's come later and win.
TWO_PROCESSES = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder")


def main() -> int:
    """Run the command that the user asked for; return the exit code."""
    options = parse()
    try:
        # Before anything is installed: what the user gave must be there.
        options.comfyui = users_comfyui(options.comfyui) if options.comfyui else None
        if options.photo and not options.photo.is_file():
            raise SetupError(f"There is no photo at {options.photo}.")
        return options.command(options)
    except SetupError as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def demo(options: argparse.Namespace) -> int:
    """`dev.py demo`: prepare, then hand over to `demo/__main__.py`."""
    began = time.monotonic()
    workshop = DevFolder()
    ensure_venv(workshop)
    ensure_packages(workshop, "client", CLIENT)
    comfyui, python = comfyui_to_use(options, workshop)
    command = [workshop.python, "-m", "demo", "--comfyui", comfyui, "--server-python", python]
    if not options.comfyui or not has_accelerator(python):
        command.append("--server-argument=--cpu")
    command += ["--keep"] * options.keep
    command += [options.photo.resolve()] if options.photo else []
    code = hand_over(command)
    print(f"In all {time.monotonic() - began:.0f} s")
    return code


def test(options: argparse.Namespace) -> int:
    """`dev.py test`: prepare, then run pytest on everything, or as its arguments say."""
    workshop = DevFolder()
    ensure_venv(workshop)
    comfyui = options.comfyui or ensure_comfyui(workshop)
    ensure_packages(workshop, "client", CLIENT)
    install_comfyui_and_pack(workshop, comfyui)
    ensure_packages(workshop, "test", ["-e", ".[test]"])
    ensure_chromium(workshop)
    # One thread each, and sleeping instead of spinning ones: both processes and ComfyUI's servers share the cores.
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    pytest = workshop.python.with_name("pytest")  # not `python -m`: the root has to stay off sys.path
    return hand_over([pytest, *TWO_PROCESSES, *options.pytest_arguments], {**threads, **os.environ, "COMFYUI_PATH": str(comfyui)})


def hand_over(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> int:
    """Run a command to its end; return its exit code. Ctrl-C reaches it too, and it may take its time to tidy up."""
    process = subprocess.Popen(command, cwd=ROOT, env=environment)
    while True:
        try:
            return process.wait()
        except KeyboardInterrupt:
            continue


def comfyui_to_use(options: argparse.Namespace, workshop: DevFolder) -> tuple[Path, Path]:
    """The ComfyUI folder and the interpreter that runs it, both ready."""
    comfyui = options.comfyui or ensure_comfyui(workshop)
    # Not resolved: the `python` of a virtual environment is a link, and what it points to has other packages.
    python = options.python.absolute() if options.python else users_python(comfyui) if options.comfyui else None
    if python:
        check_users_python(python)
        return comfyui, python
    install_comfyui_and_pack(workshop, comfyui)
    return comfyui, workshop.python


def install_comfyui_and_pack(workshop: DevFolder, comfyui: Path) -> None:
    """ComfyUI's requirements and the pack in our own environment."""
    ensure_packages(workshop, "ComfyUI and the pack", [*comfyui_requirements(comfyui), "-e", "."])


def parse() -> argparse.Namespace:
    """The command line; unknown arguments of `test` are pytest's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    own = os.environ.get("COMFYUI_PATH") or None

    show = commands.add_parser("demo", help="run the mini workflow and draw a contact sheet")
    show.add_argument("photo", nargs="?", type=Path, help="a photo with a face; two drawn people without one")
    show.add_argument("--comfyui", type=Path, default=own, help="your own ComfyUI folder (default: COMFYUI_PATH)")
    show.add_argument("--python", type=Path, help="the interpreter of your ComfyUI (default: that of its venv)")
    show.add_argument("--keep", action="store_true", help="leave ComfyUI running, with the pack in it")
    show.set_defaults(command=demo)

    check = commands.add_parser("test", help="run the test suite", add_help=False)
    check.set_defaults(command=test, comfyui=own, photo=None)

    options, rest = parser.parse_known_args()
    if rest and options.command is not test:
        parser.error(f"unknown arguments: {' '.join(rest)}")
    options.pytest_arguments = rest
    options.comfyui = Path(options.comfyui) if options.comfyui else None
    return options


if __name__ == "__main__":
    sys.exit(main())
