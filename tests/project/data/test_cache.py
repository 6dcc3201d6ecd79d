"""Decoded once: the cache is used while the files stay the same, and only if it can be trusted."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from project.data import sources
from vitals.runs.array_cache import cached


@pytest.fixture
def tree(tmp_path, write_tree):
    copy = write_tree(tmp_path / "images")
    sources.read("image_folder", str(copy.place))
    return copy


def read(copy):
    return sources.read("image_folder", str(copy.place)).train.images


def rewrite_unnoticed(file, grey=7):
    """Other pixels under the same name, size and time: only a second decoding would see them."""
    before = file.stat()
    image = Image.new("RGB", (8, 8), (grey,) * 3)
    image.save(file)
    data = file.read_bytes()
    assert len(data) <= before.st_size
    file.write_bytes(data.ljust(before.st_size, b"\0"))  # decoders pass over what follows the image
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_a_second_read_decodes_nothing(tree):
    before = read(tree)
    rewrite_unnoticed(tree.place / "train" / "ant" / "0000.png")
    assert torch.equal(read(tree), before)


@pytest.mark.parametrize("layout", ["folder", "archive"])
def test_a_second_read_of_the_published_files_decodes_nothing(tmp_path, write_cifar, layout):
    write_cifar(tmp_path, archive=layout == "archive")
    before = sources.read("cifar10", str(tmp_path)).train.images
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        facts = file.stat()
        file.write_bytes(b"\0" * facts.st_size)
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert torch.equal(sources.read("cifar10", str(tmp_path)).train.images, before)


def test_a_rewritten_file_is_noticed(tree):
    file = tree.place / "train" / "ant" / "0000.png"
    rewrite_unnoticed(file, grey=9)
    later = file.stat().st_mtime_ns + 2_000_000_000  # however coarse the file system's clock
    os.utime(file, ns=(later, later))
    assert read(tree)[0].unique().tolist() == [9]


def test_an_added_file_is_noticed(tree):
    before = len(read(tree))
    Image.new("RGB", (8, 8)).save(tree.place / "train" / "bee" / "new.png")
    assert len(read(tree)) == before + 1


def test_a_removed_file_is_noticed(tree):
    before = len(read(tree))
    (tree.place / "train" / "bee" / "0004.png").unlink()
    assert len(read(tree)) == before - 1


def test_a_renamed_class_is_noticed(tree):
    for split in ("train", "test"):
        (tree.place / split / "ant").rename(tree.place / split / "wasp")
    assert sources.read("image_folder", str(tree.place)).train.classes == ["bee", "cow", "wasp"]


def test_each_image_size_has_its_own_images(tree):
    for size in (8, 16, 8):
        assert sources.read("image_folder", str(tree.place), size).train.images.shape[-1] == size


FOREIGN = {
    "truncated": lambda file: file.write_bytes(file.read_bytes()[:-500]),
    "empty": lambda file: file.write_bytes(b""),
    "text": lambda file: file.write_text("another program's notes"),
    "a tensor": lambda file: torch.save(torch.zeros(3), file),
    "an array": lambda file: np.save(file, np.zeros(3)),
    "without its key": lambda file: file.write_bytes(file.read_bytes().rpartition(b"{")[0]),
    "another key's images": lambda file: file.write_bytes(
        file.read_bytes().rpartition(b'"key"')[0] + b'"key": "of yesterday"}'
    ),
}


@pytest.mark.parametrize("spoil", FOREIGN.values(), ids=FOREIGN)
def test_a_spoilt_cache_file_is_rebuilt(own_cache, tree, spoil):
    before = read(tree)
    [file] = own_cache.rglob("*.npy")
    spoil(file)
    assert torch.equal(read(tree), before)
    # and is good again: a further read does not decode
    rewrite_unnoticed(tree.place / "train" / "ant" / "0000.png")
    assert torch.equal(read(tree), before)


def test_a_changed_source_replaces_its_own_cache_file(own_cache, tree):
    Image.new("RGB", (8, 8)).save(tree.place / "train" / "bee" / "new.png")
    read(tree)
    assert len([file for file in own_cache.rglob("*") if file.is_file()]) == 1


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path, monkeypatch, write_tree):
    copy = write_tree(tmp_path / "images")
    blocked = tmp_path / "a file, where the cache folder would be"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    for _ in range(2):
        assert len(read(copy)) == len(copy.labels["train"])


def test_a_failed_decoding_leaves_nothing_behind(own_cache):
    def fail():
        raise OSError("no images")

    with pytest.raises(OSError, match="no images"):
        cached("somewhere", "key", fail)
    assert not list(own_cache.rglob("*.*"))
