"""Decoded images on disk, so that they are decoded once.

A cache file belongs to one source and carries a key made of the names, sizes and times of its files. A file
that is truncated, foreign, or of another key is not used.

Not `joblib.Memory`: it loads with pickle, which runs whatever code a file brings along, keeps the images of
every earlier state of a folder, and ends the run where the cache folder cannot be made.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

import torch

from project.data.image_set import ImageSet, ImageSplits
from vitals.files import replacing


def key_of(files: Iterable[Path | str], *settings: object) -> str:
    """A key that changes when a file is added, removed, renamed or rewritten, or a setting changes."""
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        facts = os.stat(file)
        digest.update(f"{file}\0{facts.st_size}\0{facts.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def cached(source: str, key: str, decode: Callable[[], ImageSplits]) -> ImageSplits:
    """The images of `source`: from the cache where it holds them under `key`, else decoded and stored.

    Args:
        source: what is cached, such as the path of the folder; it names the cache file, so that a source
            that has changed replaces its own file.
        key: from `key_of`.
        decode: makes the images.
    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vitals"
    path = folder / f"{hashlib.sha256(source.encode()).hexdigest()[:16]}.pt"
    try:
        content = torch.load(path, weights_only=True)
        if content["key"] == key:
            train, test = content["train"], content["test"]
            return ImageSplits(ImageSet(**train), ImageSet(**test) if test else None)
    except Exception:  # whatever a foreign or truncated file makes of the loader, it is no cache of ours
        pass
    splits = decode()
    with suppress(OSError, RuntimeError):  # torch's for a full disk, which is no error, nor a read-only one
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:  # in one step, for several jobs can start at once
            torch.save({"key": key, **asdict(splits)}, temporary)
    return splits
