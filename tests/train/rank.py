"""One rank of a test's process group: python rank.py FILE MODULE FUNCTION FOLDER RANK WORLD (see conftest.py)."""

import importlib.util
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist


def main(file: str, name: str, function: str, folder: str, rank: int, world: int) -> None:
    torch.set_num_threads(1)  # several processes that spin for the same cores stall each other
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # under pytest's name for it, so that what it returns can be read there
    spec.loader.exec_module(module)
    dist.init_process_group("gloo", init_method=f"file://{Path(folder) / 'rendezvous'}", rank=rank, world_size=world)
    arguments = torch.load(Path(folder) / "arguments", weights_only=False)
    result = getattr(module, function)(rank, world, *arguments)
    dist.barrier()  # nobody leaves while another still receives
    torch.save(result, Path(folder) / f"result{rank}")
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]), int(sys.argv[6]))
