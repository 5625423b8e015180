"""JSON documents as attrs records: read strictly, every problem with its path, unknown fields kept."""

import datetime
import json
import math
import operator
import re
from collections.abc import Callable, Mapping
from functools import partial
from typing import Annotated, Any, Final, get_args, get_origin

import attrs
from cattrs import BaseValidationError, Converter
from cattrs.gen import make_dict_structure_fn, make_dict_unstructure_fn, override
from cattrs.v import transform_error

from cosemzoo.strict_json import NotStrictJSON, decode, is_text, show

# Plain types to whoever makes a record; the second part tells the reader what it checks.
FormatVersion = Annotated[int, "format version"]
Commit = Annotated[str, "commit"]
Sha256 = Annotated[str, "SHA-256"]
Timestamp = Annotated[str, "timestamp"]
VoxelSize = Annotated[tuple[float, float, float], "voxel size"]
Interval = Annotated[tuple[float, float], "interval"]

#: The only format version that this release reads and writes.
FORMAT_VERSION: Final = 1

#: A JSON path and what is wrong there.
Problem = tuple[str, str]

_WRONG = (TypeError, ValueError, BaseValidationError)


def read_document(record: type[Any], text: bytes) -> tuple[dict[str, Any], list[Problem]]:
    """Read a JSON object into the values of an attrs class.

    Parameters
    ----------
    record : type
        The attrs class; its field ``extra`` takes the members that it has no field for.
    text : bytes
        The document.

    Returns
    -------
    dict
        The values that are right, by field; complete where there are no problems.
    list of Problem
        Everything that is wrong.
    """
    try:
        decoded = decode(text)
    except NotStrictJSON as error:
        return {}, [("$", str(error))]
    document = decoded.value
    if not isinstance(document, dict):
        return {}, [("$", f"is {show(document)}, not an object")]
    problems = [("$", f"repeats the key {show(key)}") for _, key in decoded.repeated]
    try:
        problems.extend(_number_problems(document, "$"))
    except RecursionError:
        return {}, [("$", "is nested too deeply")]
    values: dict[str, Any] = {}
    known = _fields_of(record)
    for name, field in known.items():
        if name in document:
            try:
                values[name] = _converter.structure(document[name], field.type)
            except _WRONG as error:
                problems.extend(_problems_of(error, f"$.{name}"))
        elif field.default is attrs.NOTHING or name == "format_version":
            problems.append((f"$.{name}", "is missing"))
    values["extra"] = _unknown(document, known)
    return values, list(dict.fromkeys(problems))


def write_document(record: Any) -> str:
    """Give the JSON text of an attrs record: two spaces, fields in the order of the class, None left out."""
    return json.dumps(_converter.unstructure(record), indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _number_problems(value: object, path: str) -> list[Problem]:
    if isinstance(value, float) and not math.isfinite(value):
        return [(path, "is not a finite number")]
    if isinstance(value, str) and not is_text(value):
        return [(path, f"is {show(value)}, not valid text")]
    members: list[tuple[str, object]] = []
    if isinstance(value, dict):
        members = [(f"{path}.{key}", member) for key, member in value.items()]
    elif isinstance(value, list):
        members = [(f"{path}[{i}]", member) for i, member in enumerate(value)]
    return [problem for where, member in members for problem in _number_problems(member, where)]


def _problems_of(error: Exception, path: str) -> list[Problem]:
    if not isinstance(error, BaseValidationError):
        return [(path, _describe(error, None))]
    lines = transform_error(error, path, _describe)
    return [(where, what) for what, _, where in (line.rpartition(" @ ") for line in lines)]


def _describe(error: BaseException, _: type[Any] | None) -> str:
    return "is missing" if isinstance(error, KeyError) else str(error)


# --- how each type is read ---------------------------------------------------------------------------------


def _exactly(kind: type, called: str) -> Callable[[Any, Any], Any]:
    # `type`, not `isinstance`: JSON's true is no number, though Python's is an int.
    def structure(value: Any, _: Any) -> Any:
        if type(value) is not kind:
            raise TypeError(f"is {show(value)}, not {called}")
        return value

    return structure


def _matching(pattern: str, called: str) -> Callable[[Any, Any], str]:
    def structure(value: Any, _: Any) -> str:
        if not (isinstance(value, str) and re.fullmatch(pattern, value)):
            raise ValueError(f"is {show(value)}, not {called}")
        return value

    return structure


def _structure_float(value: Any, _: Any) -> float:
    if type(value) not in (int, float):
        raise TypeError(f"is {show(value)}, not a number")
    return float(value)


def _structure_version(value: Any, _: Any) -> int:
    if type(value) is not int or value != FORMAT_VERSION:
        raise ValueError(f"is {show(value)}; this version of cosemzoo reads {FORMAT_VERSION}: upgrade it")
    return value


def _structure_timestamp(value: Any, _: Any) -> Any:
    try:
        datetime.datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"is {show(value)}, not a date of ISO 8601") from error
    return value


def _structure_voxel_size(value: Any, _: Any) -> Any:
    sizes = _structure_container(value, tuple[float, float, float])
    if min(sizes) <= 0:
        raise ValueError(f"is {list(sizes)}, not three lengths above 0 (nm; z, y, x)")
    return sizes


def _structure_interval(value: Any, _: Any) -> Any:
    ends = _structure_container(value, tuple[float, float])
    if not ends[0] < ends[1]:
        raise ValueError(f"is {list(ends)}, not a smaller and a larger number")
    return ends


def _is_container(kind: Any) -> bool:
    return get_origin(kind) in (tuple, Mapping)


def _structure_container(value: Any, kind: Any) -> Any:
    # cattrs takes any iterable for a tuple, a text too.
    expected, called = (list, "a list") if get_origin(kind) is tuple else (dict, "an object")
    if not isinstance(value, expected):
        raise TypeError(f"is {show(value)}, not {called}")
    members = get_args(kind)
    if expected is list and members[-1] is not Ellipsis and len(value) != len(members):
        raise ValueError(f"has {len(value)} members, not {len(members)}")
    return _containers.structure(value, kind)


def _record_reader(record: type[Any]) -> Callable[[Any, Any], Any]:
    read = make_dict_structure_fn(record, _converter, extra=override(omit=True))
    known = _fields_of(record)

    def structure(value: Any, _: Any) -> Any:
        if not isinstance(value, dict):
            raise TypeError(f"is {show(value)}, not an object")
        return attrs.evolve(read(value, record), extra=_unknown(value, known))

    return structure


def _record_writer(record: type[Any]) -> Callable[[Any], dict[str, Any]]:
    write = make_dict_unstructure_fn(record, _converter, extra=override(omit=True))

    def unstructure(value: Any) -> dict[str, Any]:
        members = {name: member for name, member in write(value).items() if member is not None}
        return {**members, **value.extra}

    return unstructure


def _fields_of(record: type[Any]) -> dict[str, Any]:
    return {field.name: field for field in attrs.fields(record) if field.name != "extra"}


def _unknown(document: dict[str, Any], known: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in document.items() if name not in known}


_SCALARS: Final[Mapping[Any, Callable[[Any, Any], Any]]] = {
    str: _exactly(str, "a text"),
    int: _exactly(int, "an integer"),
    bool: _exactly(bool, "true or false"),
    float: _structure_float,
    FormatVersion: _structure_version,
    Commit: _matching("[0-9a-f]{40}", "a commit of 40 hexadecimal digits"),
    Sha256: _matching("[0-9a-f]{64}", "a SHA-256 of 64 hexadecimal digits"),
    Timestamp: _structure_timestamp,
    VoxelSize: _structure_voxel_size,
    Interval: _structure_interval,
}
_converter: Final = Converter()
# Walks the members of lists and objects for `_converter`, once their own type has been checked.
_containers: Final = Converter()
for _kind, _structure in _SCALARS.items():
    for _each in (_converter, _containers):
        if isinstance(_kind, type):
            _each.register_structure_hook(_kind, _structure)
        else:
            _each.register_structure_hook_func(partial(operator.is_, _kind), _structure)
_containers.register_structure_hook_func(attrs.has, _converter.structure)
_converter.register_structure_hook_func(_is_container, _structure_container)
_converter.register_structure_hook_factory(attrs.has, _record_reader)
_converter.register_unstructure_hook_factory(attrs.has, _record_writer)
