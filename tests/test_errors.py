"""Errors cross process borders whole: every class is pickled and copied with all that it knows."""

import copy
import inspect
import pickle
from pathlib import Path
from typing import Any

import pytest

from cosemzoo import errors
from cosemzoo.errors import CosemZooError, CosemZooWarning

#: One argument for every name that a constructor may have.
ARGUMENTS: dict[str, Any] = {
    "text": "setup04/1",
    "problem": "it is wrong",
    "suggestion": "setup04@1",
    "run": "setup04",
    "known": ["setup04", "setup26.1"],
    "reference": "setup04@1",
    "where": "here",
    "hint": "Look there.",
    "criterion": "1",
    "commit": "a" * 40,
    "files": ["config.json"],
    "step": "Do this.",
    "others": ["weights.safetensors"],
    "advice": "Set another.",
    "setting": "endpoint",
    "option": "strict",
    "value": True,
    "allowed": "something else",
    "available": ["1", "2"],
    "note": "Noted.",
    "repository": "my-lab/setup04",
    "url": "https://example.org",
    "gated": True,
    "endpoint": "https://example.org",
    "reason": "no answer",
    "status": 503,
    "missing": "a file",
    "cache_dir": "/cache",
    "path": Path("/cache/file"),
    "expected": "00",
    "found": "11",
    "done": "Removed.",
    "published": {"model.safetensors": "00"},
    "needed": 3,
    "free": 2,
    "source": "config.json",
    "coverage": 0.25,
    "required": 0.5,
    "details": "It would fill little.",
    "conflicts": [("a", "b", "at [0]")],
    "tensors": ["a: float32 in the checkpoint"],
    "wanted": ["os.system"],
    "folder": Path("/runs/setup04/1"),
    "counts": [("a", 1, 2)],
    "what": "DaCapo's start",
    "package": "dacapo",
    "extra": "dacapo",
    "prefix": "backbone.",
    "candidates": ["left.", "right."],
    "taken": {"best": ("1", "a" * 40)},
}
#: Problems are texts, or pairs of a place and a text.
PAIRS = (
    "InvalidDocument",
    "InvalidManifest",
    "InvalidIndex",
    "InvalidCard",
    "InvalidLineage",
    "InvalidMetadata",
    "UnsupportedModel",
    "MetaTensorsLeft",
)

CLASSES = [
    kind
    for _, kind in inspect.getmembers(errors, inspect.isclass)
    if issubclass(kind, (CosemZooError, CosemZooWarning)) and kind.__module__ == errors.__name__
]


def made(kind: type[Exception]) -> Exception:
    if kind.__init__ in (CosemZooError.__init__, CosemZooWarning.__init__):
        return kind("said")
    problems = [("a", "is wrong"), ("b", "is too")] if kind.__name__ in PAIRS else ["one", "two"]
    arguments = ARGUMENTS | {"problems": problems}
    return kind(**{name: arguments[name] for name in inspect.signature(kind).parameters})


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("send", [lambda error: pickle.loads(pickle.dumps(error)), copy.copy, copy.deepcopy])
def test_an_error_is_the_same_on_the_other_side(send: Any, kind: type[Exception]) -> None:
    error = made(kind)
    other = send(error)
    assert type(other) is kind
    assert str(other) == str(error) != ""
    assert other.args == error.args
    assert vars(other) == vars(error)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_every_class_says_what_it_means_and_has_the_one_base(kind: type[Exception]) -> None:
    assert kind.__doc__
    assert issubclass(kind, (CosemZooError, CosemZooWarning))


@pytest.mark.parametrize(
    "kind", [k for k in CLASSES if vars(k).get("__init__")], ids=lambda kind: kind.__name__
)
def test_every_error_keeps_what_it_knows(kind: type[Exception]) -> None:
    error = made(kind)
    described = [line.strip().split(" :")[0] for line in (kind.__doc__ or "").splitlines() if " : " in line]
    names = [name.strip() for line in described for name in line.split(",")]
    assert names
    assert all(hasattr(error, name) for name in names)
