"""A training's checkpoint of setup04's full size, and scripts in processes of their own."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

TENSORS = Path(__file__).parent.parent / "data" / "setup04_tensors.json"

SAVE = """
import json, sys
import torch
tensors = json.load(open(sys.argv[2]))["layouts"]["dacapo 0.3"]
generator = torch.Generator().manual_seed(4)
model, state = {}, {}
for number, tensor in enumerate(tensors):
    values = torch.rand(tensor["shape"], generator=generator) - 0.5
    model |= dict.fromkeys(tensor["names"], values)
    moment = torch.full(tensor["shape"], 1e-4)
    state[number] = {"step": torch.tensor(1820500.0), "exp_avg": moment, "exp_avg_sq": moment.clone()}
optimizer = {"state": state, "param_groups": [{"lr": 5e-5, "params": list(state)}]}
torch.save({"model": model, "optimizer": optimizer}, sys.argv[1])
"""


@pytest.fixture(scope="session")
def run() -> Callable[..., str]:
    """Run a script in a process of its own, and give what it prints."""
    return run_script


def run_script(script: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Have a file as the COSEM bucket has them, its numbers made up: 84 names, and an optimizer's state."""
    path = tmp_path_factory.mktemp("training") / "1820500"
    run_script(SAVE, path, TENSORS)
    return path
