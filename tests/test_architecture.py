"""The rooms of docs/architecture.md: who imports whom, and who stays free of torch and of the Hub client."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "cosemzoo"
MODULES = sorted(PACKAGE.rglob("*.py"))
#: The module that reads training checkpoints.
READS_PICKLES = PACKAGE / "checkpoints" / "pickles.py"
WITH_TORCH = {
    "writer",
    "mapped",
    "pickles",
    "training",
    "model_tensors",
    "materialise",
    "apply",
    "assign",
    "cosem",
    "build",
    "derived",
    "first_layer",
    "fine_tuning",
}
TORCH_FREE_ROOMS = {
    "errors",
    "strict_json",
    "garbage",
    "document",
    "reference",
    "manifest",
    "zoo",
    "checkpoints",
    "loading",
    "nets",
}


def table() -> dict[str, set[str]]:
    text = (ROOT / "docs" / "architecture.md").read_text()
    section = text.partition("## Rooms")[2].partition("## Inside")[0]
    rows = re.findall(r"^\| `(\w+)` \|.*\|([^|]+)\|$", section, re.MULTILINE)
    return {room: set(re.findall(r"`(\w+)`", allowed)) for room, allowed in rows}


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_a_room_imports_only_the_rooms_in_its_row(path: Path) -> None:
    room = room_of(path)
    if room in ("__init__", "_version"):
        return
    rooms = {name.split(".")[1] for name in imported(path) if name.startswith("cosemzoo.")}
    assert rooms - {room, "_version", "__version__"} <= table()[room]


def test_every_room_has_its_row() -> None:
    rooms = {room_of(path) for path in MODULES} - {"__init__", "_version"}
    assert rooms == set(table())


def test_the_rooms_that_promise_it_import_no_torch() -> None:
    free = [path for path in MODULES if room_of(path) in TORCH_FREE_ROOMS and path.stem not in WITH_TORCH]
    check = "import sys; [__import__(name) for name in sys.argv[1:]]; print('torch' in sys.modules)"
    command = [sys.executable, "-c", check, *map(name_of, free)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_importing_the_package_imports_neither_torch_nor_the_hub_client() -> None:
    check = "import cosemzoo, sys; print({'torch', 'huggingface_hub', 'numpy', 'attrs'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_every_public_name_loads() -> None:
    check = "import cosemzoo as c; [getattr(c, n) for n in c.__all__]; print(set(c.__all__) - set(dir(c)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_nothing_is_unpickled_and_tls_is_always_verified(path: Path) -> None:
    text = path.read_text()
    forbidden = ["import pickle", "weights_only=False", "verify=False", "_create_unverified"]
    if path != READS_PICKLES:
        forbidden += ["torch.load(", "from pickle"]
    for words in forbidden:
        assert words not in text


def test_the_one_module_that_unpickles_reads_weights_only() -> None:
    nodes = list(ast.walk(ast.parse(READS_PICKLES.read_text())))
    from_pickle = {name for name in imported(READS_PICKLES) if name.split(".")[0] == "pickle"}
    assert from_pickle == {"pickle.UnpicklingError"}
    calls = [node for node in nodes if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    mentions = [node for node in nodes if isinstance(node, ast.Attribute) and node.attr == "load"]
    assert len(calls) == len(mentions) == 1
    for call in calls:
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given["weights_only"] == "True"
        assert None not in given
