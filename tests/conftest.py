"""What the tests stand on: a real ComfyUI, in this process and as a
server, the pack loaded as ComfyUI loads it, and a photo."""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
_PACK = "custom_nodes_faceclip"


def _load_folder(name: str, folder: Path) -> ModuleType:
    """Import a folder as the package `name` without putting the repository's root on sys.path (see pyproject.toml)."""
    spec = importlib.util.spec_from_file_location(name, folder / "__init__.py", submodule_search_locations=[str(folder)])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


# The server, its client and the graph conversion are the demo's own: the tests exercise what users run.
_load_folder("demo", ROOT / "demo")


# From the quickest kind to the slowest: in this order they run, after all others. What asks for one of these fixtures is marked
# by that alone; a test that trains or starts a server in its own way bears the mark in its file.
LONG_KINDS: dict[str, set[str]] = {
    "program": set(),
    "training": {"launch", "pretrain_arguments", "finetune_command", "benchmark"},
    "proof": {"shop"},
    "server": {"server"},
    "browser": {"browser"},
}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--full-size", action="store_true", help="run the tests that need the full-size weights")
    parser.addoption("--front-end-root", help="the folder static of another comfyui-frontend-package, for the browser's tests")
    parser.addoption(
        "--quick", action="store_true", help="leave out what takes long: whole programs, training runs, proof, server, browser"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--quick"):
        import hypothesis

        hypothesis.settings.register_profile("quick", max_examples=20)
        hypothesis.settings.load_profile("quick")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip = pytest.mark.skip(reason="needs the full-size weights: run with --full-size")
    for item in items:
        asks_for = set(getattr(item, "fixturenames", ()))
        for kind, fixtures in LONG_KINDS.items():
            if fixtures & asks_for:
                item.add_marker(kind)
        if "full_size" in item.keywords and not config.getoption("--full-size"):
            item.add_marker(skip)
    if config.getoption("--quick"):
        config.hook.pytest_deselected(items=[item for item in items if _length(item)])
        items[:] = [item for item in items if not _length(item)]
    items.sort(key=_length)  # within a kind the order stays


def _length(item: pytest.Item) -> int:
    """0 for a test that is quick, else the place of its longest kind, from 1 on."""
    kinds = {marker.name for marker in item.iter_markers()}  # not `item.keywords`, where folders' names are, too
    return max((place for place, kind in enumerate(LONG_KINDS, start=1) if kind in kinds), default=0)


@pytest.hookimpl(tryfirst=True)  # before fixtures of any scope
def pytest_runtest_setup() -> None:
    """Every test finds torch as a new process has it, with one thread.

    What an earlier one ran may have set otherwise.
    """
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)  # sums over other numbers of threads differ in their last bits
        torch.set_default_dtype(torch.float32)
        torch.set_grad_enabled(True)
        torch.use_deterministic_algorithms(False)


OWN_FILES = (
    ("loras", "my_style.safetensors"),
    ("loras", "my_few_steps.safetensors"),
    ("checkpoints", "my_sdxl_checkpoint.safetensors"),
    ("checkpoints", "sd_xl_base_1.0.safetensors"),
)
"""Files that the workflows name for the user's own: folder below `models/`, name."""


PEOPLE_FOLDER = "my_people"
"""Folder below `input/` that a workflow reads."""


def workflow_files() -> list[Path]:
    """The pack's workflows."""
    return sorted((ROOT / "workflows").glob("*.json"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Tests run per workflow: `workflow` for every one, `mini_workflow` for those that run as they are,
    `download_workflow` for those that want files from elsewhere, `sdxl_workflow` for those of them that have
    SDXL's."""
    from demo.graph import downloads, read_workflow

    if "workflow" in metafunc.fixturenames:
        metafunc.parametrize("workflow", workflow_files(), ids=lambda path: path.stem)
    if "mini_workflow" in metafunc.fixturenames:
        mini = [path for path in workflow_files() if not downloads(read_workflow(path))]
        metafunc.parametrize("mini_workflow", mini, ids=lambda path: path.stem)
    if "download_workflow" in metafunc.fixturenames:
        large = [path for path in workflow_files() if downloads(read_workflow(path))]
        metafunc.parametrize("download_workflow", large, ids=lambda path: path.stem)
    if "sdxl_workflow" in metafunc.fixturenames:
        sdxl = [path for path in workflow_files() if "unet.pt" in {f["name"] for f in downloads(read_workflow(path))}]
        metafunc.parametrize("sdxl_workflow", sdxl, ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    """The ComfyUI to test against: COMFYUI_PATH, else the one that `python dev.py test` fetched."""
    path = Path(os.environ.get("COMFYUI_PATH") or ROOT / ".dev" / "comfyui").resolve()
    if not (path / "main.py").is_file():
        pytest.fail(f"No ComfyUI at {path}. Run `python dev.py test`, or set COMFYUI_PATH to a ComfyUI folder.", pytrace=False)
    return path


@pytest.fixture(scope="session")
def comfy(comfyui_path: Path, tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """ComfyUI's `comfy` package in this process, on the CPU; all its folders lie below a temporary one."""
    base = tmp_path_factory.mktemp("comfyui_in_process")
    for folder in ("models", "input", "output", "temp", "user", "custom_nodes"):
        (base / folder).mkdir()
    sys.path.insert(0, str(comfyui_path))
    # Before anything else of ComfyUI is imported: both are read at import.
    args = importlib.import_module("comfy.cli_args").args
    args.cpu = True
    args.base_directory = str(base)
    importlib.import_module("comfy.model_management")
    return importlib.import_module("comfy")


@pytest.fixture(scope="session")
def pack_module(comfy: ModuleType) -> ModuleType:
    """The repository loaded as ComfyUI loads a folder of `custom_nodes`: by file, under a name of ComfyUI's choice."""
    return _load_folder(_PACK, ROOT)


@pytest.fixture(scope="session")
def pack(pack_module: ModuleType) -> dict[str, type]:
    """The pack's node classes by id, obtained with the calls that ComfyUI 0.3.75 makes (it does not call `on_load`)."""

    async def load() -> list[type]:
        extension = await pack_module.comfy_entrypoint()
        return await extension.get_node_list()

    return {node.GET_SCHEMA().node_id: node for node in asyncio.run(load())}


@pytest.fixture(scope="session")
def mini_controlnet(pack: dict[str, type]) -> dict[str, Any]:
    """The weights of an untrained ControlNet for the mini UNet, in the core's own format."""
    import comfy.cldm.cldm
    import comfy.ops
    import torch

    mini = pack["FaceCLIPUNetLoader"].execute("faceclip_mini_unet.safetensors", "default").result[0]
    config = dict(mini.model.model_config.unet_config)
    for unused in ("out_channels", "transformer_depth_output", "dtype", "device"):
        config.pop(unused, None)
    net = comfy.cldm.cldm.ControlNet(hint_channels=3, operations=comfy.ops.manual_cast, **config)
    generator = torch.Generator().manual_seed(0)
    return {
        f"control_model.{name}": torch.randn(tensor.shape, generator=generator) / tensor[0].numel() ** 0.5
        for name, tensor in net.state_dict().items()
    }


@pytest.fixture(scope="session")
def astronaut() -> np.ndarray:
    """A real photograph with one face: uint8 [512, 512, 3], RGB."""
    from skimage import data

    return data.astronaut()


@pytest.fixture
def no_last_resort(monkeypatch: pytest.MonkeyPatch) -> None:
    """dlib without its convolutional detector, which takes ten seconds to
    find nothing: for tests of what is done then."""
    importlib.import_module("faceclip.face.dlib_backend")
    for name, module in list(sys.modules.items()):  # ComfyUI has its own copy of the library, within the pack
        if name.endswith("faceclip.face.dlib_backend"):
            monkeypatch.setattr(module, "CNN_SIZES", ())


@pytest.fixture(scope="session")
def server_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The server's own folders (models, input, output, ...), with the pack linked into `custom_nodes`.

    The files that the workflows offer for download, or want of the user, are there by name, empty: enough for the
    combos to list them. So is the saved identity that one of them loads, of no face, and a folder of two drawn
    people.
    """
    from demo.graph import downloads, read_workflow
    from demo.link import link_pack
    from faceclip import FaceCLIPEncoder

    base = tmp_path_factory.mktemp("ComfyUI for Zoë")  # spaces and accents, as in the paths of many
    for folder in ("models", "input", "output", "temp", "user"):
        (base / folder).mkdir()
    offered = [(f["directory"], f["name"]) for workflow in workflow_files() for f in downloads(read_workflow(workflow))]
    for folder, name in (*offered, *OWN_FILES):
        (base / "models" / folder).mkdir(parents=True, exist_ok=True)
        (base / "models" / folder / name).touch()
    shutil.copytree(ROOT / "models" / "people", base / "input" / PEOPLE_FOLDER)
    link_pack(base / "custom_nodes")
    (base / "custom_nodes" / "tiny_flux").mkdir()
    for source, name in (("tiny_flux_node.py", "__init__.py"), ("flux_core.py", "flux_core.py")):
        shutil.copy(ROOT / "tests" / source, base / "custom_nodes" / "tiny_flux" / name)
    encoder = FaceCLIPEncoder.from_file(ROOT / "models" / "faceclip" / "faceclip_mini_encoder.safetensors").eval()
    (base / "output" / "faceclip_identities").mkdir()
    encoder.blank_face().save(base / "output" / "faceclip_identities" / "my_person.safetensors")
    return base


@pytest.fixture(scope="session")
def server(comfyui_path: Path, server_base: Path, pytestconfig: pytest.Config) -> Iterator[object]:
    """A running ComfyUI with the pack in it (`demo.server.ComfyServer`).

    Everything it writes is below `server_base`.
    """
    from demo.server import ComfyServer

    arguments = ["--cpu", "--base-directory", str(server_base)]
    if front_end := pytestconfig.getoption("--front-end-root"):
        arguments += ["--front-end-root", front_end]
    with ComfyServer(comfyui_path, Path(sys.executable), server_base / "server.log", arguments) as running:
        yield running
