"""Checkpoints in folders on disk: any folder, and the folders of the local zoo (`<run>/<criterion>/`)."""

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from os import fsencode
from pathlib import Path

from cosemzoo.checkpoints.header import read_header
from cosemzoo.errors import CriterionNotFound, IntegrityError, InvalidReference, RunNotFound, WeightsNotFound
from cosemzoo.manifest import MANIFEST_FILE, Manifest, is_manifest, read_manifest
from cosemzoo.reference import Reference, criterion_of, tag_of
from cosemzoo.zoo.checkpoint import Checkpoint, WeightsFile
from cosemzoo.zoo.digests import DigestMemory, state_folder
from cosemzoo.zoo.weights import SHARD_INDEX, SINGLE_FILE, find_shards, other_weights, read_table, shapes_of


def resolve_folder(reference: Reference) -> Checkpoint:
    """Describe the checkpoint in a folder.

    Raises
    ------
    RunNotFound
        If there is no such folder.
    WeightsNotFound, InvalidSafetensors, InvalidManifest
        If its files are no checkpoint.
    """
    folder = Path(reference.run).absolute()
    if folder.is_file():
        hint = f"It is a file: give its folder, {folder.parent}."
        raise RunNotFound(str(reference), f"folder {folder}", hint)
    if not folder.is_dir():
        raise RunNotFound(str(reference), f"folder {folder}", "Check the path.")
    return _describe(reference, folder, folder.resolve().name)


def resolve_local(reference: Reference, zoo_folder: Path) -> Checkpoint:
    """Describe a checkpoint of the local zoo.

    Raises
    ------
    RunNotFound
        If it has no such run.
    CriterionNotFound
        If the run has no such criterion.
    WeightsNotFound, InvalidSafetensors, InvalidManifest
        If its files are no checkpoint.
    """
    run = zoo_folder.absolute() / reference.run
    if not run.is_dir():
        there = sorted(path.name for path in zoo_folder.iterdir()) if zoo_folder.is_dir() else []
        hint = f"It holds: {', '.join(there) or 'nothing'}. Another one is set with COSEMZOO_LOCAL_DIR."
        raise RunNotFound(str(reference), f"run {reference.run} in the local zoo {zoo_folder}", hint)
    folder = run / tag_of(reference.wanted)
    if not folder.is_dir():
        raise CriterionNotFound(str(reference), reference.wanted, _criteria(run))
    # `best` can be a link to an iteration.
    meant = {
        (run / tag_of(name)).resolve(): name
        for name in _criteria(run)
        if not (run / tag_of(name)).is_symlink()
    }
    return _describe(reference, folder, meant.get(folder.resolve(), reference.wanted))


def fetch_folder(checkpoint: Checkpoint) -> dict[str, Path]:
    """Give the path of every weights file, by its name.

    Raises
    ------
    IntegrityError
        If one is not what it was when the checkpoint was resolved.
    """
    folder = checkpoint.folder
    assert folder is not None
    for file in checkpoint.files:
        path = folder / file.name
        found = _published(folder, file.name).sha256 if path.is_file() else "no file"
        if found != file.sha256:
            done = "It has changed since the folder was resolved and was left as it is."
            raise IntegrityError(str(checkpoint.reference), path, str(file.sha256), str(found), done)
    return {file.name: folder / file.name for file in checkpoint.files}


def _describe(reference: Reference, folder: Path, criterion: str) -> Checkpoint:
    names = {path.name for path in folder.iterdir() if path.is_file()}
    if not {SINGLE_FILE, SHARD_INDEX} & names:
        raise WeightsNotFound(str(reference), str(folder), other_weights(names))
    shards = find_shards(names, lambda name: (folder / name).read_bytes(), str(folder))
    weights = read_table(names, shards, lambda name: read_header(folder / name), str(folder))
    files = tuple(_published(folder, name) for name in weights.files)
    return Checkpoint(
        reference=reference,
        folder=folder,
        content_hash=_content_hash(files),
        criterion=criterion,
        manifest=_manifest(folder, shapes_of(weights)) if MANIFEST_FILE in names else None,
        weights=weights,
        files=files,
    )


def _manifest(folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> Manifest | None:
    path = folder / MANIFEST_FILE
    text = path.read_bytes()
    return read_manifest(text, str(path), shapes) if is_manifest(text) else None


def _published(folder: Path, name: str) -> WeightsFile:
    # Folders are other people's: what is remembered of them is kept in the user's own state folder.
    own = state_folder()
    places = [own / "folders" / sha256(fsencode(folder.resolve())).hexdigest()[:16]] if own else []
    path = folder / name
    return WeightsFile(name, path.stat().st_size, sha256=DigestMemory(places).digest_of(path, name))


def _content_hash(files: tuple[WeightsFile, ...]) -> str | None:
    if len(files) == 1:
        return files[0].sha256
    return sha256("".join(f"{file.sha256}  {file.name}\n" for file in files).encode()).hexdigest()


def _criteria(run: Path) -> list[str]:
    found = []
    for path in sorted(run.iterdir()):
        with suppress(InvalidReference):
            found.append(criterion_of(path.name))
    return found
