"""The front matter of a card: the YAML that the Hub reads, checked against what the Hub knows."""

import tomllib
from collections.abc import Iterator, Mapping
from importlib.resources import files
from typing import Any, Final

import yaml  # type: ignore[import-untyped]
from attrs import frozen
from huggingface_hub import ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.repocard import REGEX_YAML_BLOCK
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from cosemzoo.document import Problem
from cosemzoo.errors import did_you_mean
from cosemzoo.publishing.card_block import BLOCK
from cosemzoo.strict_json import show

LIBRARY: Final = "cosemzoo"

# A table of words for each name that takes some words only; `names` has every name, by what its value is.
_WORDS: Final = tomllib.loads(files("cosemzoo.publishing").joinpath("hub_words.toml").read_text("utf-8"))
_NAMES: Final = _WORDS.pop("names")
_IDS: Final = ("base_model", "datasets")
# Levels of front matter; a model-index has eight.
_DEEPEST: Final = 50


@frozen
class FrontMatter:
    """A card, taken apart.

    Attributes
    ----------
    values : mapping or None
        What is for the Hub, as YAML gives it; None where it cannot be read.
    data : ModelCardData or None
        The same, where the Hub takes it.
    block : object
        What is for `config.json`, as YAML gives it.
    body : str
        The Markdown after the front matter.
    line : int
        The number of the body's first line in the file.
    problems : tuple of Problem
    """

    values: Mapping[str, Any] | None
    data: ModelCardData | None
    block: object
    body: str
    line: int
    problems: tuple[Problem, ...]


def read_front_matter(text: str) -> FrontMatter:
    """Take a card apart, and check what is for the Hub."""
    found = REGEX_YAML_BLOCK.match(text)
    if found is None:
        problem = "there is no front matter: YAML between a first line '---' and another line '---'"
        return FrontMatter(None, None, None, text, 1, (("line 1", problem),))
    body, line = text[found.end() :], text.count("\n", 0, found.end()) + 1
    values, problems = _read_yaml(found[2], text.count("\n", 0, found.start(2)) + 1)
    if values is None:
        return FrontMatter(None, None, None, body, line, tuple(problems))
    block = values.pop(BLOCK, None)
    problems.extend(_hub_problems(values))
    data = None
    if not problems:
        data, wrong = _data_of(values)
        problems.extend(wrong)
    return FrontMatter(values, data, block, body, line, tuple(problems))


def _data_of(values: Mapping[str, Any]) -> tuple[ModelCardData | None, list[Problem]]:
    """Give what the Hub's client makes of it; what it would lose or write otherwise are problems."""
    entries = values.get("model-index")
    if isinstance(entries, list) and len(entries) > 1:
        problem = f"has {len(entries)} entries, of which one name would be kept: put all results under one"
        return None, [("$.model-index", problem)]
    try:
        data = ModelCardData(**values)
    except (AttributeError, ValueError) as error:
        return None, [("$.model-index", " ".join(str(error).split()))]
    written = data.to_dict()  # type: ignore[no-untyped-call]
    return data, [
        (f"$.{name}", f"is {show(value)}; huggingface_hub would write {show(written.get(name))}: write it so")
        for name, value in values.items()
        if written.get(name) != value or name not in written
    ]


def missing_from(values: Mapping[str, Any]) -> Iterator[Problem]:
    """Give what the Hub can do without, and a person who looks for a network cannot."""
    hints = {"library_name": f": {LIBRARY}", "pipeline_tag": ", such as image-segmentation"}
    for name in ("license", "library_name", "pipeline_tag", "tags"):
        if name not in values:
            yield f"$.{name}", f"is missing{hints.get(name, '')}"


def _read_yaml(text: str, first_line: int) -> tuple[dict[str, Any] | None, list[Problem]]:
    try:
        # Before it is loaded: a few lines of aliases of aliases stand for billions of values.
        refused = list(_refused(text, first_line))
        if refused:
            return None, refused
        tree = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = first_line if mark is None else first_line + mark.line
        what = getattr(error, "problem", None) or " ".join(str(error).split())
        return None, [(f"line {line}", f"the front matter is not YAML: {what}")]
    except ValueError as error:
        return None, [(f"line {first_line}", f"the front matter is not YAML: {error}")]
    if not isinstance(values, dict):
        return None, [(f"line {first_line}", f"the front matter is {show(values)}, not names and values")]
    problems = list(_repeated(tree, first_line))
    for name in [name for name in values if not isinstance(name, str)]:
        del values[name]
        problems.append(("$", f"has the name {show(name)}: put it in quotes"))
    return values, problems


def _refused(text: str, first_line: int) -> Iterator[Problem]:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        where = f"line {first_line + event.start_mark.line}"
        if isinstance(event, yaml.AliasEvent):
            yield where, f"has the alias *{event.anchor}: write out what it stands for"
        if depth > _DEEPEST:
            yield where, f"is nested too deeply: more than {_DEEPEST} levels"
            return


def _repeated(node: Any, first_line: int) -> Iterator[Problem]:
    """YAML keeps the last of several values of a name and says nothing."""
    if isinstance(node, yaml.ScalarNode):
        return
    members = node.value
    if isinstance(node, yaml.MappingNode):
        names: set[str] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in names:
                yield f"line {first_line + key.start_mark.line}", f"repeats the name {show(key.value)}"
            names.add(str(key.value))
        members = [value for _, value in node.value]
    for member in members:
        yield from _repeated(member, first_line)


def _hub_problems(values: Mapping[str, Any]) -> Iterator[Problem]:
    for name, value in values.items():
        yield from (
            (f"$.{name}", what) for what in (_name_problem(name), *_value_problems(name, value)) if what
        )
    if values.get("license") == "other" and not {"license_name", "license_link"} <= set(values):
        yield "$.license", "is 'other': give license_name and license_link as well"
    if "base_model_relation" in values and "base_model" not in values:
        yield "$.base_model", "is missing, though base_model_relation is there"


def _name_problem(name: str) -> str:
    known = sorted([BLOCK, *(one for names in _NAMES.values() for one in names)])
    if name in known:
        return ""
    return (
        f"is no name of the Hub's.{did_you_mean(name, known)} What a person is to know belongs into the text."
    )


def _value_problems(name: str, value: Any) -> Iterator[str]:
    listed = isinstance(value, list) and all(isinstance(one, str) and one.strip() for one in value)
    text = isinstance(value, str) and value.strip()
    if name in _NAMES["text"] and not text:
        yield f"is {show(value)}, not a text"
    elif name in _NAMES["list"] and not listed:
        yield f"is {show(value)}, not a list of texts"
    elif name in _NAMES["either"] and not (text or listed):
        yield f"is {show(value)}, neither a text nor a list of texts"
    elif name in _WORDS and value not in _WORDS[name]:
        yield f"is {show(value)}, which the Hub does not know for it.{did_you_mean(value, _WORDS[name])}"
    elif name == "library_name" and value != LIBRARY:
        yield f"is {show(value)}; the library that loads the run is {LIBRARY}"
    elif name == "tags" and len(value) != len(set(value)):
        yield "names a tag twice"
    elif name in _IDS:
        yield from _id_problems([value] if isinstance(value, str) else value)


def _id_problems(ids: list[str]) -> Iterator[str]:
    for one in ids:
        try:
            validate_repo_id(one)
        except HFValidationError:
            yield f"{show(one)} cannot be on the Hub: an id is namespace/name"
