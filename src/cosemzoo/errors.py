"""Everything that can go wrong, one class per thing a caller can act on.

All derive from `CosemZooError`. Each keeps what it knows in attributes and says, in this order: what was
asked, what was found, what to type next.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

_SHOWN = 20


def listing(items: Iterable[str], *, shown: int = _SHOWN) -> str:
    """Join lines for a message, one per line, the first `shown` of them in full."""
    lines = list(items)
    text = "".join(f"\n  - {line}" for line in lines[:shown])
    return text + (f"\n  … and {len(lines) - shown} more" if len(lines) > shown else "")


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the nearest known word, or nothing."""
    spelt = {other.casefold(): other for other in known}
    near = get_close_matches(word.casefold(), spelt, n=1, cutoff=0.6)
    return f" Did you mean {spelt[near[0]]!r}?" if near else ""


class CosemZooError(Exception):
    """Base of every error that cosemzoo raises on purpose."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by attributes: errors cross process borders (data loaders, pools) whole."""
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(
    kind: type[CosemZooError], args: tuple[object, ...], attributes: dict[str, object]
) -> CosemZooError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(attributes)
    return error


class CosemZooWarning(UserWarning):
    """Base of every warning that cosemzoo gives."""


# --- what was asked ----------------------------------------------------------------------------------------


class InvalidReference(CosemZooError, ValueError):
    """A text that cannot be a reference (`run@criterion`).

    Attributes
    ----------
    text : str
        What was given.
    problem : str
        Why it cannot be a reference.
    suggestion : str or None
        A reference that was probably meant.
    """

    def __init__(self, text: str, problem: str, suggestion: str | None = None) -> None:
        self.text, self.problem, self.suggestion = text, problem, suggestion
        hint = (
            f"did you mean {suggestion}?"
            if suggestion
            else (
                "a reference is run[@criterion], namespace/repo[@criterion], "
                "hf://namespace/repo[@criterion], local:run[@criterion] or a folder (./folder, /folder)"
            )
        )
        super().__init__(f"{text!r} is not a reference: {problem}; {hint}")


class NamespaceMissing(CosemZooError, LookupError):
    """A bare run that is not one of the known runs, and no namespace to look in.

    Attributes
    ----------
    run : str
    known : tuple of str
        The runs that need no namespace.
    """

    def __init__(self, run: str, known: Sequence[str]) -> None:
        self.run, self.known = run, tuple(known)
        super().__init__(
            f"run {run!r} is not one of the known runs ({', '.join(known)}) and no namespace is configured."
            f"{did_you_mean(run, known)} "
            f"Write namespace/{run}, set COSEMZOO_NAMESPACE, or use --namespace or Zoo(namespace=…)."
        )


class ExportRefused(CosemZooError, ValueError):
    """An export to another program's format that it, or the place for it, does not allow.

    Attributes
    ----------
    reference : str
    folder : Path
    problems : tuple of str
    """

    def __init__(self, reference: str, folder: Path, problems: Sequence[str]) -> None:
        self.reference, self.folder, self.problems = reference, folder, tuple(problems)
        super().__init__(f"{reference} was not exported to {folder}; nothing was written:{listing(problems)}")


# --- where it should come from -----------------------------------------------------------------------------


def without_credentials(text: str) -> str:
    """Leave ``user:password@`` out of every address in a text."""
    return re.sub(r"://[^/?#\s]*@", "://", text)


class InvalidSetting(CosemZooError, ValueError):
    """A setting (endpoint, namespace, token, a folder) that cannot be used.

    Attributes
    ----------
    option : str
    reason : str
        Why it cannot be used; never a token.
    """

    def __init__(self, option: str, reason: str, hint: str) -> None:
        self.option, self.reason = option, without_credentials(reason)
        super().__init__(f"the {option} that is set cannot be used: {self.reason}. {hint}")


class RunNotFound(CosemZooError, LookupError):
    """There is no such run (repository, or folder of the local zoo) that this caller may see.

    Attributes
    ----------
    reference : str
    where : str
        The repository and endpoint, or the folder, that was asked.
    """

    def __init__(self, reference: str, where: str, hint: str) -> None:
        self.reference, self.where = reference, without_credentials(where)
        super().__init__(f"{reference}: found no {self.where}. {hint}")


class CriterionNotFound(CosemZooError, LookupError):
    """The run exists, the criterion does not.

    Attributes
    ----------
    reference : str
    criterion : str
    available : tuple of str
        Every criterion that the run has.
    """

    def __init__(self, reference: str, criterion: str, available: Sequence[str], note: str = "") -> None:
        self.reference, self.criterion, self.available = reference, criterion, tuple(available)
        has = ", ".join(available) if available else "none"
        super().__init__(
            f"{reference}: no criterion {criterion!r}; there are: {has}."
            f"{did_you_mean(criterion, available)}{' ' + note if note else ''}"
        )


class AccessDenied(CosemZooError, PermissionError):
    """The Hub knows the repository and refuses this caller: gated, or a token without the right.

    Attributes
    ----------
    reference : str
    repository : str
    gated : bool
    """

    def __init__(self, reference: str, repository: str, url: str, *, gated: bool) -> None:
        self.reference, self.repository, self.gated = reference, repository, gated
        found = "is gated" if gated else "may not be read with the present token"
        step = f"Ask for access at {without_credentials(url)}, then run" if gated else "Run"
        super().__init__(f"{reference}: {repository} {found}. {step} `hf auth login` (or set HF_TOKEN).")


class HubUnavailable(CosemZooError, ConnectionError):
    """The Hub did not answer, or answered that it cannot now, and the cache has no answer either.

    Attributes
    ----------
    reference : str
    endpoint : str
    reason : str
    status : int or None
        The HTTP status, where there was an answer.
    """

    def __init__(self, reference: str, endpoint: str, reason: str, status: int | None = None) -> None:
        self.reference, self.endpoint = reference, without_credentials(endpoint)
        self.reason, self.status = without_credentials(reason), status
        super().__init__(
            f"{reference}: {self.endpoint} could not be asked ({self.reason}) and the cache does not hold "
            f"it. Where there is a network, run: cosemzoo fetch {reference}"
        )


class NotCached(CosemZooError, FileNotFoundError):
    """Offline, and the cache does not hold what was asked.

    Attributes
    ----------
    reference : str
    missing : str
        What the cache lacks.
    cache_dir : str
    """

    def __init__(self, reference: str, missing: str, cache_dir: str) -> None:
        self.reference, self.missing, self.cache_dir = reference, missing, cache_dir
        super().__init__(
            f"{reference}: offline, and {missing} is not in the cache {cache_dir}. "
            f"Where there is a network, run: cosemzoo fetch {reference}"
        )


class IntegrityError(CosemZooError):
    """A weights file whose bytes are not those that were published; it was removed where it could be.

    Attributes
    ----------
    reference : str
    path : Path
    expected, found : str
        Digests (hexadecimal).
    """

    def __init__(self, reference: str, path: Path, expected: str, found: str, done: str) -> None:
        self.reference, self.path, self.expected, self.found = reference, path, expected, found
        on_disk = reference.startswith(("local:", ".", "/"))
        again = "" if on_disk else f" To fetch it again, run: cosemzoo fetch {reference}"
        super().__init__(
            f"{reference}: {path} is corrupt: published {expected}, found {found}. {done}{again}"
        )


class ContradictoryPublication(IntegrityError):
    """Two sources that do not say the same of one published weights file.

    Attributes
    ----------
    reference : str
    path : Path
    expected, found : str
        What the one says, and the other.
    """

    def __init__(self, reference: str, path: Path, expected: str, found: str) -> None:
        super().__init__(reference, path, expected, found, "")
        self.args = (
            f"{reference}: what was published as {path} is not certain: {expected}, {found}. "
            "Nothing was loaded. Ask the run's maintainers to amend it.",
        )


class AlreadyPublished(CosemZooError, FileExistsError):
    """A criterion that was published before with other weights: its weights never change.

    Attributes
    ----------
    reference : str
    published : mapping of str to str
        SHA-256 of the weights that it has, by file name.
    """

    def __init__(self, reference: str, published: Mapping[str, str | None]) -> None:
        self.reference, self.published = reference, dict(published)
        has = listing(f"{name}: {digest}" for name, digest in self.published.items())
        super().__init__(
            f"{reference} was published before with other weights, which never change; "
            f"nothing was published. It has:{has}\nPublish these weights under another criterion."
        )


class PublicationFailed(CosemZooError):
    """The Hub did not take all of a publication; readers see the run as it was before.

    Attributes
    ----------
    reference : str
    endpoint : str
    reason : str
    status : int or None
        The HTTP status, where there was an answer.
    """

    def __init__(self, reference: str, endpoint: str, reason: str, status: int | None = None) -> None:
        self.reference, self.endpoint = reference, without_credentials(endpoint)
        self.reason, self.status = without_credentials(reason), status
        super().__init__(
            f"{reference} was not published: {self.endpoint} did not take it ({self.reason}). "
            "Publish it again: what has arrived is not sent twice."
        )


class CacheNotWritable(CosemZooError, PermissionError):
    """The cache cannot take a download.

    Attributes
    ----------
    reference : str
    cache_dir : str
    """

    def __init__(self, reference: str, cache_dir: str, reason: str) -> None:
        self.reference, self.cache_dir = reference, cache_dir
        super().__init__(
            f"{reference}: must be downloaded, but the cache {cache_dir} cannot be written ({reason}). "
            "Choose another with Zoo(cache_dir=…), --cache-dir or HF_HUB_CACHE."
        )


class NotReadable(CosemZooError, PermissionError):
    """Files on this machine, in the cache or in a folder, that cannot be read.

    Attributes
    ----------
    reference : str
    path : str
    """

    def __init__(self, reference: str, path: str, reason: str) -> None:
        self.reference, self.path = reference, path
        super().__init__(
            f"{reference}: {path} cannot be read ({reason}). "
            "Ask its owner for the right to read it (chmod -R a+rX), or choose another cache with "
            "Zoo(cache_dir=…), --cache-dir or HF_HUB_CACHE."
        )


class DiskFull(CosemZooError, OSError):
    """No room for the download; nothing of it was left behind.

    Attributes
    ----------
    reference : str
    path : str
    needed : int
        Bytes.
    free : int
        Bytes.
    """

    def __init__(self, reference: str, path: str, needed: int, free: int) -> None:
        self.reference, self.path, self.needed, self.free = reference, path, needed, free
        super().__init__(
            f"{reference}: needs {needed:,} bytes in {path}, which has {free:,} free. "
            "Free some (of the cache: hf cache ls, hf cache rm), or choose another disk (for the cache: "
            "HF_HUB_CACHE)."
        )


class PublicationRefused(CosemZooError, ValueError):
    """A publication that contradicts itself, or the run that is there.

    Attributes
    ----------
    reference : str
    problem : str
        What contradicts what.
    """

    def __init__(self, reference: str, problem: str, step: str) -> None:
        self.reference, self.problem = reference, problem
        super().__init__(f"{reference}: {problem}; nothing was published. {step}")


class DescriptionDiffers(AlreadyPublished):
    """A criterion that was published before with these weights, but described otherwise.

    Attributes
    ----------
    reference : str
    published : mapping of str to str
        SHA-256 of the weights that it has, by file name.
    commit : str
        Where it was published.
    files : tuple of str
        The files that differ from those there.
    """

    def __init__(
        self, reference: str, published: Mapping[str, str | None], commit: str, files: Sequence[str]
    ) -> None:
        super().__init__(reference, published)
        self.commit, self.files = commit, tuple(files)
        self.args = (
            f"{reference} was published before with these weights, as commit {commit}, but with other files "
            f"beside them; nothing was published. These differ:{listing(self.files)}\n"
            "If what is there is wrong, correct it: cosemzoo push --amend, or publish(…, amend=True).",
        )


class WriteDenied(AccessDenied):
    """The Hub does not let this caller write.

    Attributes
    ----------
    reference : str
    repository : str
    """

    def __init__(self, reference: str, repository: str, url: str) -> None:
        super().__init__(reference, repository, url, gated=False)
        self.args = (
            f"{reference}: {repository} may not be written with the present token. Ask the owners of {url} "
            "for the right to write, or run `hf auth login` (or set HF_TOKEN) with a token that has it.",
        )


class AliasTaken(PublicationRefused):
    """Names that mean another checkpoint now, and were not to be moved.

    Attributes
    ----------
    reference : str
    taken : mapping of str to (str, str)
        For each name, the criterion and the commit that it means now.
    """

    def __init__(self, reference: str, taken: Mapping[str, tuple[str, str]]) -> None:
        self.taken = dict(taken)
        means = "; ".join(
            f"{name!r} means {criterion} now (commit {commit})" for name, (criterion, commit) in taken.items()
        )
        super().__init__(reference, means, "To move it here, say so: --move-alias.")


class NotACosemCheckpoint(CosemZooError, LookupError):
    """A reference that is none of the published COSEM checkpoints.

    Attributes
    ----------
    reference : str
    known : tuple of str
        The references that can be imported.
    """

    def __init__(self, reference: str, known: Sequence[str]) -> None:
        self.reference, self.known = reference, tuple(known)
        super().__init__(
            f"{reference} is none of the published COSEM checkpoints.{did_you_mean(reference, known)} "
            f"These can be imported:{listing(self.known)}"
        )


class ImportConflict(CosemZooError, FileExistsError):
    """The local zoo has another checkpoint under the name of the one that was to be imported.

    Attributes
    ----------
    reference : str
    folder : Path
    problem : str
        What is otherwise there.
    """

    def __init__(self, reference: str, folder: Path, problem: str) -> None:
        self.reference, self.folder, self.problem = reference, folder, problem
        super().__init__(
            f"{reference}: {folder} {problem}; nothing was changed. To import it again, remove that folder."
        )


class DownloadFailed(CosemZooError, ConnectionError):
    """A published file that could not be downloaded whole; what has arrived is kept and is resumed from.

    Attributes
    ----------
    reference : str
    url : str
    reason : str
    """

    def __init__(self, reference: str, url: str, reason: str, step: str) -> None:
        self.reference, self.url = reference, without_credentials(url)
        self.reason = without_credentials(reason)
        super().__init__(f"{reference}: {self.url} was not downloaded ({self.reason}). {step}")


class YankedCheckpoint(CosemZooWarning):
    """A checkpoint that its maintainers withdrew, asked for by iteration or commit."""


class StaleAnswer(CosemZooWarning):
    """The Hub could not be asked; the answer is the one the cache remembers."""


# --- what the files say ------------------------------------------------------------------------------------


class InvalidSafetensors(CosemZooError, ValueError):
    """A file that the safetensors format forbids.

    Attributes
    ----------
    source : str
        The file.
    problems : tuple of str
        All of them.
    """

    def __init__(self, source: str, problems: Sequence[str]) -> None:
        self.source, self.problems = source, tuple(problems)
        super().__init__(
            f"{source} is not a valid safetensors file:{listing(self.problems)}\n"
            "Nothing was loaded. Fetch or convert it again; files that hold pickles are never read."
        )


class UnreadableCheckpoint(CosemZooError, ValueError):
    """A file or folder that is no training checkpoint, or holds no state dict.

    Attributes
    ----------
    source : str
    problem : str
    """

    def __init__(self, source: str, problem: str, step: str) -> None:
        self.source, self.problem = source, problem
        super().__init__(f"{source} cannot be read as a checkpoint: {problem}. {step}")


class UnsafePickle(CosemZooError, ValueError):
    """A pickle that asks for more than tensors and plain values: reading it would run its code.

    Attributes
    ----------
    source : str
    wanted : tuple of str
        The globals that it asks for, such as ``os.system``.
    """

    def __init__(self, source: str, wanted: Sequence[str]) -> None:
        self.source, self.wanted = source, tuple(wanted)
        super().__init__(
            f"{source} is a pickle that asks for more than tensors, and was not read; none of its code ran. "
            f"It wants:{listing(self.wanted)}\n"
            "If you trust it, save its state dict alone where it was made: "
            "torch.save(model.state_dict(), path)."
        )


class NonFiniteValues(CosemZooError, ValueError):
    """Weights that hold NaN or infinities.

    Attributes
    ----------
    source : str
    counts : tuple of (str, int, int)
        (tensor, how many NaN, how many infinities).
    """

    def __init__(self, source: str, counts: Sequence[tuple[str, int, int]]) -> None:
        self.source, self.counts = source, tuple(counts)
        lines = listing(f"{name}: {nan:,} NaN, {inf:,} infinite" for name, nan, inf in self.counts)
        super().__init__(
            f"{source} holds values that are not finite; nothing was written:{lines}\n"
            "A training that diverged leaves such weights. To keep them all the same, use --allow-nonfinite."
        )


class InvalidDocument(CosemZooError, ValueError):
    """A JSON document of a run (`config.json`, `criteria.json`) that cannot be trusted.

    Attributes
    ----------
    source : str
    problems : tuple of (str, str)
        Every problem as (JSON path, what is wrong there).
    """

    what = "document"
    step = "Ask the run's maintainers to amend it."

    def __init__(self, source: str, problems: Sequence[tuple[str, str]]) -> None:
        self.source, self.problems = source, tuple(problems)
        lines = listing(f"{path}: {problem}" for path, problem in self.problems)
        super().__init__(f"{source} is not a valid {self.what}:{lines}\n{self.step}")


class InvalidManifest(InvalidDocument):
    """A `config.json` that is malformed, or contradicts the tensors beside it."""

    what = "manifest"


class InvalidIndex(InvalidDocument):
    """A `criteria.json` that is malformed."""

    what = "index of criteria"


class InvalidCard(InvalidDocument):
    """A model card that the Hub, or the manifest that is made from it, would not take."""

    what = "model card"
    step = "Correct it, then run: cosemzoo card check"


class InvalidMetadata(InvalidDocument):
    """A `metadata.json` of cellmap-models that no manifest can be made of."""

    what = "metadata.json of a network"
    step = "Correct it, or ask whoever exported the network."


class InvalidLineage(InvalidDocument):
    """A load report that does not say what a run was fine-tuned from, or says another base."""

    what = "load report of the base"
    step = "Give the JSON of the report that the load from the base returned: report.to_json()."


class WeightsNotFound(CosemZooError, FileNotFoundError):
    """A checkpoint without safetensors weights.

    Attributes
    ----------
    reference : str
    where : str
    available : tuple of str
        The safetensors files of other names that are there.
    """

    def __init__(self, reference: str, where: str, available: Sequence[str] = ()) -> None:
        self.reference, self.where, self.available = reference, where, tuple(available)
        step = "Weights in one file must have that name, and shards need their index. "
        named = f"It holds:{listing(available)}\n{step}" if available else ""
        super().__init__(
            f"{reference}: {where} holds neither model.safetensors nor model.safetensors.index.json. "
            f"{named}Pickled weights (.pt, .pth, .bin) are not read; convert them: "
            "cosemzoo convert FILE model.safetensors"
        )


# --- how it fits the model ---------------------------------------------------------------------------------


class InvalidHead(CosemZooError, ValueError):
    """Channels (`new_head`) or a head name (`head`) that cannot be applied to this model.

    Attributes
    ----------
    problems : tuple of str
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"the head asked for does not fit; nothing was changed:{listing(self.problems)}")


class InvalidOption(CosemZooError, ValueError):
    """An option of a load that has none of its allowed values.

    Attributes
    ----------
    option : str
    value : object
    """

    def __init__(self, option: str, value: object, allowed: str) -> None:
        self.option, self.value = option, value
        super().__init__(f"{option} is {value!r}; it is {allowed}. Nothing was changed.")


class InvalidInput(CosemZooError, ValueError):
    """What the model will be given does not fit the checkpoint's first layer, and cannot be made to.

    Attributes
    ----------
    problems : tuple of str
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"the input does not fit; nothing was changed:{listing(self.problems)}")


class InvalidRename(CosemZooError, ValueError):
    """Rules for names (`rename`) that cannot be applied to this checkpoint and model.

    Attributes
    ----------
    problems : tuple of str
    """

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__(f"rename does not fit; nothing was changed:{listing(self.problems)}")


class AmbiguousNames(CosemZooError, LookupError):
    """The checkpoint's names are none of the model's, and fit several parts of it.

    Attributes
    ----------
    prefix : str
        What the checkpoint's names start with.
    candidates : tuple of str
        What they could start with in the model: all names and shapes under it agree.
    """

    def __init__(self, prefix: str, candidates: Sequence[str]) -> None:
        self.prefix, self.candidates = prefix, tuple(candidates)
        super().__init__(
            f"the checkpoint's tensors under {prefix!r} fit several parts of the model in all names and "
            f"shapes; nothing was changed:{listing(repr(one) for one in self.candidates)}\n"
            f"Say which: rename={{{prefix!r}: {self.candidates[0]!r}}}."
        )


class StrictLoadFailed(CosemZooError):
    """`strict="require"`, and names, shapes or channels differ.

    Attributes
    ----------
    problems : tuple of str
        Every difference.
    """

    def __init__(self, reference: str, problems: Sequence[str]) -> None:
        self.reference, self.problems = reference, tuple(problems)
        super().__init__(
            f"{reference} does not fit the model exactly; nothing was changed:{listing(self.problems)}\n"
            'To load what does fit, use strict="auto".'
        )


class CoverageTooLow(CosemZooError):
    """So little of the model would be filled that it is probably another network.

    Attributes
    ----------
    coverage : float
        The smaller of the two fractions of the backbone (tensors, parameters) that would be filled.
    required : float
    """

    def __init__(self, reference: str, coverage: float, required: float, details: str) -> None:
        self.reference, self.coverage, self.required = reference, coverage, required
        found = (
            "has nothing in common with the model's backbone"
            if coverage == 0
            else f"would fill only {coverage:.2%} of it"
        )
        super().__init__(
            f"{reference} {found} (at least {required:.0%} of the backbone is required); "
            f"nothing was changed.\n{details}\nIf this is intended, lower min_coverage."
        )


class AliasConflict(CosemZooError, ValueError):
    """Two names of one tensor that hold different values in the file.

    Attributes
    ----------
    source : str
    conflicts : tuple of (str, str, str)
        (name, other name, where they differ).
    """

    def __init__(self, source: str, conflicts: Sequence[tuple[str, str, str]]) -> None:
        self.source, self.conflicts = source, tuple(conflicts)
        lines = listing(f"{first} and {second} differ: {where}" for first, second, where in self.conflicts)
        super().__init__(
            f"{source} holds names that are one tensor in the model, with different values; "
            f"nothing was changed:{lines}\nRepair the file: it is not known which of them is right."
        )


class UnsupportedModel(CosemZooError, TypeError):
    """A model whose tensors cannot be written safely.

    Attributes
    ----------
    problems : tuple of (str, str)
        (tensor or module name, why).
    """

    def __init__(self, problems: Sequence[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        lines = listing(f"{name}: {why}" for name, why in self.problems)
        super().__init__(f"there are tensors that cannot be handled safely; nothing was changed:{lines}")


class DifferentModel(CosemZooError, LookupError):
    """A model that is not the one that a report is about.

    Attributes
    ----------
    reference : str
        What was loaded.
    missing : tuple of str
        The tensors that were loaded, and that this model does not have.
    """

    def __init__(self, reference: str, missing: Sequence[str]) -> None:
        self.reference, self.missing = reference, tuple(missing)
        super().__init__(
            f"the model is not the one that {reference} was loaded into; it does not have:"
            f"{listing(self.missing)}\n"
            "Give the model that was loaded, as it is or wrapped whole (DataParallel, torch.compile)."
        )


class UnknownNetwork(CosemZooError, LookupError):
    """A checkpoint whose network cannot be built here.

    Attributes
    ----------
    reference : str
    problem : str
    """

    def __init__(self, reference: str, problem: str) -> None:
        self.reference, self.problem = reference, problem
        end = "\n" if "\n" in problem else ". "
        super().__init__(
            f"{reference}: its network cannot be built here: {problem}{end}"
            "Build it yourself, and load the checkpoint into it: load_into(model, reference)."
        )


class ExtraMissing(CosemZooError, ImportError):
    """Something needs a package that comes with an extra of cosemzoo, and is not installed.

    Attributes
    ----------
    package : str
    extra : str
    """

    def __init__(self, what: str, package: str, extra: str) -> None:
        self.package, self.extra = package, extra
        super().__init__(
            f'{what} needs {package}, which is not installed. Install it: pip install "cosemzoo[{extra}]"'
        )


class MetaTensorsLeft(UnsupportedModel):
    """Tensors on `meta` that neither the checkpoint nor their module's `reset_parameters` can fill."""


class UnsafeConversion(CosemZooError, OverflowError):
    """Values that the model's narrower dtype cannot hold.

    Attributes
    ----------
    tensors : tuple of str
        One line per tensor.
    """

    def __init__(self, tensors: Sequence[str]) -> None:
        self.tensors = tuple(tensors)
        super().__init__(
            "values are beyond what the dtype asked for can hold; nothing was changed:"
            f"{listing(self.tensors)}\n"
            "Use a wider dtype, such as float32 or bfloat16."
        )


class InputDiffers(CosemZooWarning):
    """The model will be given other data than the checkpoint was trained with."""


class PartialLoad(CosemZooWarning):
    """Not every tensor or channel of the model came from the checkpoint; the report has the details."""
