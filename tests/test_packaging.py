import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[1]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirements(lines: Iterable[str]) -> Iterator[Requirement]:
    """Parse requirements, comments and the project's own name left out."""
    for line in lines:
        text = line.partition("#")[0].strip()
        if text and not text.startswith("cosemzoo"):
            yield Requirement(text)


#: Other programs that cosemzoo works with: their tests are in `make test-full`, with one version of each.
PEERS = ("bioimageio", "dacapo")


def declared() -> dict[str, Requirement]:
    project = pyproject()["project"]
    extras = project["optional-dependencies"].items()
    lines = [
        *project["dependencies"],
        *(line for name, extra in extras if name not in PEERS for line in extra),
    ]
    return {requirement.name: requirement for requirement in requirements(lines)}


def pins(file: str) -> dict[str, Version]:
    found = {}
    for requirement in requirements((ROOT / file).read_text(encoding="utf-8").splitlines()):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        found[requirement.name] = Version(specifier.version)
    return found


def test_the_lowest_versions_are_the_floors_of_every_dependency() -> None:
    floors = {}
    for name, requirement in declared().items():
        (floor,) = [specifier for specifier in requirement.specifier if specifier.operator == ">="]
        floors[name] = Version(floor.version)
    lowest = pins("constraints-lowest.txt")
    # No older torch can be had as a CPU-only build everywhere.
    assert lowest.pop("torch") == pins("constraints.txt")["torch"] >= floors.pop("torch")
    assert lowest == floors


def test_development_installs_versions_that_are_allowed() -> None:
    allowed = declared()
    for name, version in pins("constraints.txt").items():
        assert version in allowed[name].specifier


def test_every_python_that_is_promised_is_tested() -> None:
    project = pyproject()["project"]
    promised = {
        line.rpartition(" ")[2]
        for line in project["classifiers"]
        if line.startswith("Programming Language :: Python :: 3.")
    }
    workflow = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    for version in promised:
        assert f'"{version}"' in workflow
    assert min(promised, key=Version) == project["requires-python"].removeprefix(">=")
