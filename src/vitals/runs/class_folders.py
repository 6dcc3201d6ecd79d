"""Files in a folder for each class, as people have them: `train/<class>/*` and the like, or `<class>/*`."""

import os
import re
from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from vitals.errors import UserError, listed
from vitals.files import existing_folder

SPLITS = {"train": "train", "training": "train", "test": "test", "testing": "test"}
SPLITS |= dict.fromkeys(("val", "valid", "validation", "dev", "eval"), "validation")
"""Which split a folder of this name holds, or of `Training_Set` and the like."""
HIDDEN = (".", "__macosx", "@eadir", "$recycle.bin", "thumbs.db", "desktop.ini")
"""How the names begin of what file managers leave behind, in small letters."""


@dataclass(frozen=True)
class ClassFolders:
    """What `list_files` found: the names of the `classes` that have training files, in their order; the
    `files` of every split that has any, each with its label; and a sentence on what was passed over, or
    nothing."""

    classes: list[str]
    files: dict[str, list[tuple[str, int]]]
    note: str


def folders_of_splits(root: Path) -> dict[str, Path]:
    """The folders in `root` named after splits; none unless that of training has class folders in it."""
    places = {split: place for place in _folders(root) if (split := _split_of(place.name))}
    return places if "train" in places and _folders(places["train"]) else {}


def list_files(root: Path, endings: Collection[str]) -> ClassFolders:
    """The files below `root` that have one of the `endings`, as in `.png`; those of sub-folders included.

    Where no folder is named after a split, all are for training. Hidden ones are passed over without a word,
    those of other endings, those beside the class folders and empty class folders with a count. `UserError`
    if `root` is no folder, or has fewer than two classes, or some that training does not know.
    """
    existing_folder(root, "data.root", "the folder that holds the data")
    places = folders_of_splits(root) or {"train": root}
    train, noticed = places["train"], Counter[str]()
    if train != root:
        noticed[f"folders beside {train.name} passed over"] = len(_folders(root)) - len(places)
    found: dict[str, dict[str, list[str]]] = {}
    for split, place in places.items():
        found[split] = {folder.name: [] for folder in _folders(place)}
        for folder, names in _files(place, noticed):
            inside = Path(folder).relative_to(place).parts
            for name in names:  # without a Path for each, which takes seconds for tens of thousands
                ending = os.path.splitext(name)[1].lower()
                if ending not in endings:
                    noticed[f"{(ending.strip('.') and ending) or 'other'} files passed over"] += 1
                elif not inside:
                    noticed["files outside of class folders passed over"] += 1
                else:
                    found[split][inside[0]].append(os.path.join(folder, name))
    classes = [name for name, files in found["train"].items() if files]
    for split, of_class in found.items():
        noticed["empty class folders"] += list(of_class.values()).count([])
        noticed[f"classes without {split} files"] += sum(not of_class.get(name) for name in classes)
    said = ", ".join(f"{what} ({count:,})" for what, count in noticed.items() if count)
    note = f"noticed in {root}: {said}" if said else ""
    if len(classes) < 2 or all(map(_split_of, classes)):
        inner = [one for one in _folders(train) if len(_folders(one)) > 1 and not _split_of(one.name)]
        raise UserError(
            f"{train} does not have two classes or more, as <class>/* or train/<class>/*; it has "
            f"{f'{len(classes)} ({listed(classes)})' if classes else 'none'}{f'; {note}' if note else ''}: "
            f"{f'did you mean data.root={inner[0]}?' if inner else 'name the folder of all with data.root.'}"
        )
    for split, of_class in found.items():
        if unknown := [name for name, files in of_class.items() if files and name not in classes]:
            raise UserError(
                f"{places[split] / unknown[0]} is a {split} class that training does not know, one of "
                f"{len(unknown)}: there is no {train / unknown[0]} with files in it."
            )
    label_of = {name: label for label, name in enumerate(classes)}
    files_of = {
        split: [(file, label_of[name]) for name, files in of_class.items() for file in files]
        for split, of_class in found.items()
    }
    # Bytes that are no UTF-8 are a name on disk, and can be written nowhere else.
    classes = [os.fsencode(name).decode(errors="replace") for name in classes]
    return ClassFolders(classes, {split: files for split, files in files_of.items() if files}, note)


def _split_of(name: str) -> str | None:
    return SPLITS.get(re.sub(r"[ _-]?(set|data|images)$", "", name.lower()))


def _hidden(name: str) -> bool:
    return name.lower().startswith(HIDDEN)


def _folders(place: Path) -> list[Path]:
    entries = place.iterdir() if place.is_dir() else ()
    found = (entry for entry in entries if entry.is_dir() and not _hidden(entry.name))
    return sorted(found, key=lambda folder: folder.name)


def _files(place: Path, noticed: Counter[str]) -> list[tuple[str, list[str]]]:
    """All in a folder and below it that is not hidden: each folder, and the names of the files in it.

    Below each class folder every folder is read once, for links may go round in a circle. What is neither
    file nor folder is passed over: a pipe would never come to its end.
    """
    found: dict[str, list[str]] = {}
    for top in (place, *_folders(place)):
        folders, read, own = [str(top)], set[str](), os.path.realpath(top)
        while folders:
            folder = folders.pop()
            real = os.path.realpath(folder)
            if real in read or own.startswith(os.path.join(real, "")):
                noticed["links to folders that were read already passed over"] += 1
                continue
            read.add(real)
            try:
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except OSError as error:
                raise UserError(f"{folder} cannot be read: {error.strerror}.") from None
            for entry in entries:
                if _hidden(entry.name):
                    continue
                if entry.is_dir():
                    if top != place:
                        folders.append(entry.path)
                elif entry.is_file() or not os.path.exists(entry.path):  # a link that leads nowhere
                    found.setdefault(folder, []).append(entry.name)
                else:
                    noticed["pipes, sockets and devices passed over"] += 1
    return sorted(found.items())
