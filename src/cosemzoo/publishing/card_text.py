"""The text of a card: what it says of channels, iterations and loading, and whether the run is so."""

import ast
import re
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

from cosemzoo.document import Problem
from cosemzoo.errors import InvalidReference, did_you_mean
from cosemzoo.publishing.card_block import RunDescription
from cosemzoo.reference import Reference, is_iteration, parse_reference

_FENCE: Final = re.compile(r" {0,3}(`{3,}|~{3,}) *(\w*)")
_TITLE: Final = re.compile(r"# +\S")
_ROW: Final = re.compile(r"\| *(\d+) *\| *`([^`]+)` *\|")
_PUBLISHED: Final = re.compile(r"\bIterations published for this run:([\d,\s]*\d)")
_DOI: Final = re.compile(r"\b10\.\d{4,9}/\S")
_COMMAND: Final = re.compile(r"\bcosemzoo (?:show|fetch|import) [\"']?([\w./][^\s\"']*)")
_INLINE_CODE: Final = re.compile(r"(?<=`)[^`]+(?=`)")
_LINK_OR_CODE: Final = re.compile(r"`[^`]*`|https?://\S+|\bdoi:\S+")
_NUMBER: Final = r"(?<![\w.])(?:\d?\.\d+|\d+(?:\.\d+)? ?%)"
_MEASURE: Final = (
    r"\b(?:accuracy|average precision|dice|f1|f1[-_ ]score|hausdorff|iou|jaccard|mean false distance|"
    r"voi|variation of information)\b"
)
# Words that are also said of other things than an evaluation: a sign must follow them.
_ALSO_WORDS: Final = r"\b(?:precision|recall)\b"
# A measure's name and a number beside it: an evaluation, which belongs into the front matter.
_SCORE: Final = re.compile(
    rf"(?:{_MEASURE}[^.;|]{{0,40}}?[|:=\s]|{_ALSO_WORDS}\s*[|:=])\s*{_NUMBER}", re.IGNORECASE
)
_MEASURED: Final = re.compile(rf"{_MEASURE}|{_ALSO_WORDS}(?=\s*\|)", re.IGNORECASE)
# What a reference is given as, where not by its place.
_REFERENCE_NAMES: Final = frozenset({"reference", "start_config"})
_LOADERS: Final = frozenset(
    {"CosemStart", "Start", "CosemStartConfig", "StartConfig"}
    | {"fetch", "load_into", "plan_load", "resolve", "state_dict"}
)


@frozen
class Line:
    """One line of the text.

    Attributes
    ----------
    number : int
        In the file.
    text : str
    code : str or None
        The language of the block of code that it is part of, perhaps empty; None outside of one.
    """

    number: int
    text: str
    code: str | None


def read_lines(body: str, first: int = 1) -> list[Line]:
    """Give the lines of a body, the fences of its code blocks left out."""
    lines: list[Line] = []
    fence, language = "", None
    for number, text in enumerate(body.split("\n"), start=first):
        found = _FENCE.match(text)
        if language is None and found:
            fence, language = found[1], found[2]
        elif language is not None and text.strip().startswith(fence) and not text.strip(" `~"):
            language = None
        else:
            lines.append(Line(number, text, language))
    return lines


def title_line(lines: Sequence[Line]) -> Line | None:
    """Give the line of the title, None where there is none."""
    return next((line for line in lines if line.code is None and _TITLE.match(line.text)), None)


def contradictions(lines: Sequence[Line], run: RunDescription) -> Iterator[Problem]:
    """Give what the text says otherwise than the block, or says of another run."""
    yield from _channel_problems(lines, run)
    yield from _iteration_problems(lines, run)
    for place, reference in _references(lines):
        yield from _reference_problems(place, reference, run)
    for call in _calls(lines):
        yield from _head_problems(call, run)


def missing(lines: Sequence[Line], run: RunDescription) -> Iterator[Problem]:
    """Give what a reader needs and the text does not say."""
    text = "\n".join(line.text for line in lines)
    if title_line(lines) is None:
        yield "text", "has no title: a line '# …'"
    if not any(_ROW.match(line.text) for line in lines):
        yield "text", "has no table of the channels: a row '| 0 | `label` | …' for each"
    absent = [str(number) for number in run.iterations if not re.search(rf"\b{number}\b", text)]
    if absent:
        yield "text", f"does not name the iterations {', '.join(absent)}"
    if not any(line for line, _ in _references(lines)):
        yield "text", "does not say how to load the run: a block of Python with CosemStart(…) or resolve(…)"
    if not _DOI.search(text):
        yield "text", "names no DOI: what is to be cited?"


def code_problems(lines: Sequence[Line]) -> Iterator[Problem]:
    """Give where Python in the text is none."""
    for first, code in _blocks(lines):
        try:
            ast.parse(code)
        except SyntaxError as error:
            yield f"line {first + (error.lineno or 1) - 1}", f"is not Python: {error.msg}"


def scores(lines: Sequence[Line]) -> Iterator[Problem]:
    """Give the lines that state a measured quality, in words or in a table of a measure."""
    row, measured = False, False
    for line in _prose(lines):
        text = _LINK_OR_CODE.sub("", line.text)
        if line.text.startswith("|") and not row:
            measured = _MEASURED.search(text) is not None
        row = line.text.startswith("|")
        if _SCORE.search(text) or (row and measured and re.search(_NUMBER, text)):
            problem = "states a score: give it in the front matter's model-index, with its dataset"
            yield f"line {line.number}", problem


def at_repository(body: str, run: str, repository: str) -> str:
    """Give a body whose code finds the run in a repository where it said the run's name alone.

    In code, that are quoted texts which are the run, or the run and a criterion, and such words of a
    `cosemzoo` command. What is imported stays: it does not come from a repository.
    """
    name = re.escape(run)
    bare = re.compile(rf"(?<=[\s\"'=]){name}(?=[@\s\"']|$)")
    asks = re.compile(
        r"\bcosemzoo[ \t]+(?P<command>[\w-]+)(?:\\\n|[^\n|;&])*"
        rf"|(?P<quote>[\"']){name}(?:@[^\"'\s]+)?(?P=quote)"
    )

    def moved(code: str) -> str:
        return asks.sub(lambda m: m[0] if m["command"] == "import" else bare.sub(repository, m[0]), code)

    read, lines = read_lines(body), body.split("\n")
    for block in _code_blocks(read):
        first = block[0].number - 1
        lines[first : first + len(block)] = moved("\n".join(line.text for line in block)).split("\n")
    for line in _prose(read):
        lines[line.number - 1] = _INLINE_CODE.sub(lambda span: moved(span[0]), line.text)
    return "\n".join(lines)


def _prose(lines: Sequence[Line]) -> Iterator[Line]:
    return (line for line in lines if line.code is None)


def _channel_problems(lines: Sequence[Line], run: RunDescription) -> Iterator[Problem]:
    rows = [(line.number, found) for line in _prose(lines) if (found := _ROW.match(line.text))]
    for i, (number, found) in enumerate(rows):
        path, label = f"line {number}", found[2]
        if int(found[1]) != i:
            yield path, f"is row {found[1]} of the channels where row {i} is expected"
        elif i >= len(run.labels):
            yield path, f"is channel {i}, {label!r}; the block has {len(run.labels)} channels"
        elif label != run.labels[i]:
            yield path, f"calls channel {i} {label!r}; the block calls it {run.labels[i]!r}"
    if 0 < len(rows) < len(run.labels):
        absent = ", ".join(run.labels[len(rows) :])
        yield f"line {rows[-1][0]}", f"is the last channel of the table; the block also has: {absent}"


def _iteration_problems(lines: Sequence[Line], run: RunDescription) -> Iterator[Problem]:
    prose = list(_prose(lines))
    for i, line in enumerate(prose):
        # The list may go on in the next lines.
        found = _PUBLISHED.search(" ".join(one.text for one in prose[i : i + 5]))
        if found is None or found.start() >= len(line.text):
            continue
        stated = [int(number) for number in re.findall(r"\d+", found[1])]
        if sorted(stated) != sorted(run.iterations):
            listed = ", ".join(map(str, run.iterations)) or "none"
            yield f"line {line.number}", f"names other iterations than the block, which has: {listed}"


def _code_blocks(lines: Sequence[Line]) -> Iterator[list[Line]]:
    block: list[Line] = []
    for line in [*lines, Line(0, "", None)]:
        # Between two blocks is at least a fence.
        if block and line.number != block[-1].number + 1:
            yield block
            block = []
        if line.code is not None:
            block.append(line)


def _blocks(lines: Sequence[Line]) -> Iterator[tuple[int, str]]:
    """Give every block of Python, with the number of its first line."""
    for block in _code_blocks(lines):
        if block[0].code in {"py", "python"}:
            yield block[0].number, "\n".join(line.text for line in block)


def _calls(lines: Sequence[Line]) -> Iterator[tuple[int, ast.Call]]:
    for first, code in _blocks(lines):
        try:
            tree = ast.parse(code)
        except SyntaxError:
            continue
        yield from ((first - 1, node) for node in ast.walk(tree) if isinstance(node, ast.Call))


def _references(lines: Sequence[Line]) -> Iterator[tuple[str, str]]:
    for offset, call in _calls(lines):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", None)
        if name in _LOADERS:
            of_call = _of_config if name.endswith("Config") else _of_loader
            yield from ((f"line {offset + call.lineno}", text) for text in of_call(call))
    for line in lines:
        if line.code in {"sh", "bash", "console"}:
            yield from ((f"line {line.number}", found[1]) for found in _COMMAND.finditer(line.text))


def _of_loader(call: ast.Call) -> Iterator[str]:
    named = [word.value for word in call.keywords if word.arg in _REFERENCE_NAMES]
    for one in [*call.args, *named]:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value


def _of_config(call: ast.Call) -> Iterator[str]:
    """Give run and criterion, which a config is given apart; nothing where the run is not written there."""
    given = dict(zip(("run", "criterion"), call.args, strict=False))
    given |= {word.arg: word.value for word in call.keywords if word.arg is not None}
    texts = {name: str(one.value) for name, one in given.items() if isinstance(one, ast.Constant)}
    if "run" in texts:
        yield "@".join(texts[name] for name in ("run", "criterion") if name in texts)


def _reference_problems(place: str, text: str, run: RunDescription) -> Iterator[Problem]:
    try:
        reference = parse_reference(text)
    except InvalidReference as error:
        yield place, str(error)
        return
    if _is_elsewhere(reference):
        return
    if reference.run != run.run:
        yield place, f"loads {text!r}, which is not the run {run.run!r}"
    criterion = reference.criterion
    if criterion and is_iteration(criterion) and run.iterations and int(criterion) not in run.iterations:
        listed = ", ".join(map(str, run.iterations))
        yield place, f"loads iteration {criterion}, which is none of the block's: {listed}"


def _is_elsewhere(reference: Reference) -> bool:
    # Repositories and folders may have names of their own.
    return reference.namespace is not None or reference.place == "folder"


def _head_problems(located: tuple[int, ast.Call], run: RunDescription) -> Iterator[Problem]:
    offset, call = located
    for keyword in call.keywords:
        if keyword.arg != "new_head":
            continue
        value = keyword.value
        # A mapping gives the model's own names to the run's.
        members = value.values if isinstance(value, ast.Dict) else getattr(value, "elts", [])
        for member in members:
            channel = member.elts[0] if isinstance(member, ast.Tuple) and member.elts else member
            label = channel.value if isinstance(channel, ast.Constant) else None
            if isinstance(label, str) and label not in run.labels:
                hint = did_you_mean(label, run.labels)
                yield f"line {offset + channel.lineno}", f"{label!r} is no label of the run.{hint}"
