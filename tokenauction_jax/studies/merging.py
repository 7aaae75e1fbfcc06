"""Puts the shards of a study together, into the folder that one run would have made."""

import dataclasses
import pathlib
from collections.abc import Sequence

from tokenauction_jax import files
from tokenauction_jax.files import StoreError
from tokenauction_jax.outside import listed, shortened
from tokenauction_jax.studies import results
from tokenauction_jax.studies.manifest import Manifest
from tokenauction_jax.studies.parts import Folder
from tokenauction_jax.studies.results import Results
from tokenauction_jax.studies.shards import Shard

# Where a shard ran, on which no number depends.
_PLACE = ("base", "python", "platform", "devices")


def merge(folders: Sequence[str | pathlib.Path], out: str | pathlib.Path) -> Results:
    """Merges all shards of a study; what they made stays as it is.

    Args:
      folders: Of the shards, in any order.
      out: The new folder, which appears whole or not at all.

    Returns:
      The results, which are those of one run byte for byte, but for where it ran: that
      is told of the first shard, and what each session did, of all.

    Raises:
      ExistsError: If `out` exists.
      StoreError: If the shards are not all those of one study, or not finished; if a
        part is damaged; if the new folder cannot be written.
    """
    path = pathlib.Path(out)
    files.check_new(path)
    shards = _all_shards([Folder(pathlib.Path(folder)) for folder in folders])
    try:
        with files.write_folder(path) as place:
            _copy(shards, Folder(place))
            results.load(place).write_tables()
    except OSError as error:
        raise StoreError(f"cannot write {path}: {files.reason(error)}") from None
    return results.load(path)


def _copy(shards: Sequence[Folder], whole: Folder) -> None:
    """Fills a new folder with what the shards have, in their order."""
    first = shards[0]
    if files.exists(first.study_path):
        files.write(whole.study_path, files.read(first.study_path))
    manifest = dataclasses.replace(first.manifest, shard=None)
    files.write_json(whole.manifest_path, manifest.content())
    sums = {}
    for chunk in manifest.chunks:
        for name, data in shards[chunk % len(shards)].copies(chunk, whole):
            (whole.path / name).parent.mkdir(exist_ok=True)
            files.write(whole.path / name, data)
            sums[name] = files.checksum(data)
    files.write_checksums(whole.path, sums)
    for shard in shards:
        for entry in shard.sessions():
            whole.log(entry)


def _all_shards(folders: Sequence[Folder]) -> list[Folder]:
    """The shards of a study in their order.

    Raises:
      StoreError: Unless they are all, each once and finished.
    """
    found: dict[int, Folder] = {}
    for folder in folders:
        shard, first = _shard(folder), folders[0]
        if shard.count != _shard(first).count:
            raise StoreError(
                f"{_name(first)} and {_name(folder)} are of different numbers of "
                "shards: merge those of one number"
            )
        _check_same(first, folder)
        if shard.index in found:
            twice = f"{shortened(str(found[shard.index].path), 80)} and {_name(folder)}"
            raise StoreError(f"{twice} are the same shard: leave one out")
        found[shard.index] = folder
    count = _shard(folders[0]).count if folders else 0
    if missing := sorted(set(range(1, count + 1)) - set(found)):
        raise StoreError(
            f"{len(missing):,} of {count:,} shards are missing: {listed(missing)}"
        )
    if not found:
        raise StoreError("there are no shards to merge: name their folders")
    ordered = [found[index] for index in sorted(found)]
    for folder in ordered:
        done, due = len(folder.finished()), len(folder.manifest.chunks)
        if done < due:
            raise StoreError(
                f"{_name(folder)} is not finished, with {done:,} of its {due:,} "
                "chunks: resume it, then merge"
            )
    return ordered


def _shard(folder: Folder) -> Shard:
    """Which shard a folder has."""
    if folder.manifest.shard is None:
        raise StoreError(f"{folder.path} has a whole study, and no shard of one")
    return folder.manifest.shard


def _name(folder: Folder) -> str:
    return f"{shortened(str(folder.path), 80)} (shard {_shard(folder)})"


def _check_same(first: Folder, other: Folder) -> None:
    """Raises `StoreError` unless two folders are of one study, cut and run alike."""
    one, two = first.manifest, other.manifest
    both = f"{_name(first)} and {_name(other)}"
    if one.digest != two.digest:
        shown = one.config_difference(two.config)
        raise StoreError(f"{both} are of different studies ({shown})")
    if (one.plan.block, one.plan.chunk) != (two.plan.block, two.plan.chunk):
        raise StoreError(
            f"{both} have chunks of {one.plan.chunk:,} and of {two.plan.chunk:,} "
            "auctions: run all shards with the same blocks_per_chunk"
        )
    if one.stamp != _placed_as(two, one).stamp:
        before, now = one.content(), _placed_as(two, one).content()
        changed = [
            f"{key}: {before[key]} and {now[key]}"
            for key in before
            if before[key] != now[key]
        ]
        shown = shortened("; ".join(changed), 200)
        raise StoreError(f"{both} were not run alike ({shown}): run one of them again")


def _placed_as(manifest: Manifest, other: Manifest) -> Manifest:
    """A manifest as if it had been made where another one was."""
    # Names of files are those from where a shard was begun.
    labels = {"levels": other.outline.levels, "rule": other.outline.rule}
    return dataclasses.replace(
        manifest,
        shard=other.shard,
        outline=dataclasses.replace(manifest.outline, **labels),
        **{name: getattr(other, name) for name in _PLACE},
    )
