"""Image folders as people have them: what can be used is used, and the rest gets one sentence."""

import gzip
import math
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from project.data.data_module import ImageData
from vitals.errors import UserError


def picture(grey=100, size=8):
    return Image.new("RGB", (size, size), (grey, grey, grey))


def add(file, image=None, **settings):
    file.parent.mkdir(parents=True, exist_ok=True)
    (image or picture()).save(file, **settings)


@pytest.fixture
def write(tmp_path):
    """A function that writes so many images of two classes below a folder of the tree."""

    def write(below="", count=6, classes=("ant", "bee")):
        for name in classes:
            for number in range(count):
                add(tmp_path / below / name / f"{number}.png", picture(10 * number))
        return tmp_path

    return write


def read(root, **settings):
    data = ImageData("image_folder", root=str(root), **settings)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's would reach the terminal
        data.setup()
    return data


def counts(data):
    return [len(data.train), len(data.validation), len(data.test)]


def refused(root, **settings):
    with pytest.raises(UserError) as error:
        read(root, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("train", ["train", "Training_Set"])
@pytest.mark.parametrize("val", ["valid", "Validation", "val-images", "dev"])
def test_a_folder_of_validation_images_is_the_validation_split(tmp_path, write, train, val):
    write(train, 6), write(val, 3), write("TEST", 2)
    data = read(tmp_path)
    assert counts(data) == [12, 6, 4]
    assert data.validation.images[:, 0, 0, 0].tolist() == [0, 10, 20] * 2


def test_without_test_images_some_of_training_are_set_apart(write):
    write("train", 10)
    assert counts(read(write("val", 3), test_fraction=0.2)) == [16, 6, 4]


def test_sub_folders_of_a_class_and_every_format_are_read(write):
    tree = write(count=4)
    for place in ("session 1/a", "session 1/b", "session 2"):
        for ending in ("gif", "webp", "TIF", "ppm", "jfif"):
            add(tree / "ant" / place / f"x.{ending}")
    data = read(tree)
    assert sum(counts(data)) == 8 + 15
    assert data.classes == ["ant", "bee"]
    assert data.note == ""


def test_what_file_managers_leave_behind_is_passed_over_without_a_word(write):
    tree = write()
    for name in (
        "._0.png",
        ".DS_Store",
        "Thumbs.db",
        "desktop.ini",
        ".ipynb_checkpoints/0.png",
        "@eaDir/0.png",
    ):
        for place in (tree, tree / "ant", tree / "__MACOSX" / "ant"):
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_bytes(b"\0\5\26\7")
    data = read(tree)
    assert sum(counts(data)) == 12
    assert data.note == ""


def test_what_else_is_passed_over_is_counted(write):
    write("train"), write("test", 2, ("ant",)), write("unlabelled")
    tree = write("val", 2)
    (tree / "train" / "cow").mkdir()
    (tree / "train" / "ant" / "notes.txt").write_text("")
    for number in range(3):
        (tree / "train" / "bee" / f"{number}.heic").write_text("")
        add(tree / "test" / f"{number}.png")  # without a class
    data = read(tree)
    assert data.classes == ["ant", "bee"]
    for said in (
        "folders beside train passed over (1)",
        ".txt files passed over (1)",
        ".heic files passed over (3)",
        "files outside of class folders passed over (3)",
        "empty class folders (1)",
        "classes without test files (1)",
    ):
        assert said in data.note


def test_sixteen_bits_are_scaled_and_not_cut_off(write):
    tree = write(classes=("bee",))
    for number in range(6):
        image = Image.fromarray(np.full((8, 8), 257 * 40 * number, dtype=np.uint16))
        add(tree / "ant" / f"{number}.png", image)
    data = read(tree)
    levels = torch.cat([part.images[part.labels == 0] for part in (data.train, data.validation, data.test)])
    assert sorted(levels[:, 0, 0, 0].tolist()) == [0, 40, 80, 120, 160, 200]


def test_a_photograph_stands_upright(write):
    tree = write(classes=("bee",))
    lying = Image.fromarray(np.repeat(np.array([[0] * 4 + [255] * 4], np.uint8), 8, axis=0)).convert("RGB")
    exif = Image.Exif()
    exif[0x0112] = 6  # turn it by 90 degrees: what is left is the top
    for number in range(6):
        add(tree / "ant" / f"{number}.jpg", lying, exif=exif, quality=100)
    [image] = read(tree).test.images[:1]
    assert image[0, 0].max() < 20
    assert image[0, -1].min() > 235


def test_transparent_palettes_are_read_without_a_warning(write):
    tree = write(classes=("bee",))
    for number in range(6):
        add(tree / "ant" / f"{number}.png", picture().convert("P"), transparency=bytes([0, 100]))
    assert read(tree).train.images[0].unique().tolist() == [102]  # of the palette


def test_three_images_a_class_are_one_to_train_one_to_validate_and_one_to_test(write):
    data = read(write(count=3, classes=[f"c{number}" for number in range(40)]))
    for part in (data.train, data.validation, data.test):
        assert part.labels.tolist() == list(range(40))


def test_a_class_of_one_image_trains(write):
    write(count=8)
    data = read(write(count=1, classes=["rare"]))
    assert (data.train.labels == 2).sum() == 1
    assert sum(counts(data)) == 17


def test_too_few_images_to_split_are_answered_with_what_would_do(write):
    assert "none of 2 classes has two images" in refused(write(count=1))
    assert "val/ and test/ beside train/" in refused(write(count=1))


def test_one_class_or_a_folder_too_high_or_too_low_is_answered(tmp_path, write):
    write("inner", 3)
    assert f"did you mean data.root={tmp_path / 'inner'}?" in refused(tmp_path)
    message = refused(tmp_path / "inner" / "ant")
    assert "two classes or more" in message
    assert "files outside of class folders passed over (3)" in message
    assert "is not a folder" in refused(tmp_path / "nowhere")


def test_the_many_files_after_an_unreadable_one_are_not_read_first(write):
    tree = write(count=1)
    (tree / "ant" / "1.png").write_bytes(b"")
    for number in range(2, 1100):
        (tree / "ant" / f"{number}.png").hardlink_to(tree / "ant" / "0.png")
    assert "one of 1 of 1,000 that were read so far, and there are 1,101: mend" in refused(tree)


def test_split_folders_without_class_folders_are_no_classes(tmp_path):
    for split in ("train", "test"):
        for number in range(6):
            add(tmp_path / split / f"{number}.png")
    assert "train/<class>/*" in refused(tmp_path)


def spoil(tree):
    (tree / "ant" / "0.png").write_bytes(b"")
    (tree / "ant" / "1.png").write_bytes((tree / "ant" / "1.png").read_bytes()[:-30])
    (tree / "bee" / "link.png").symlink_to(tree / "nowhere.png")


def test_unreadable_images_are_counted_and_a_key_does_without_them(write):
    tree = write()
    spoil(tree)
    for _ in range(2):  # decoded, and from the cache
        message = refused(tree)
        assert "3 of 13" in message
        assert "data.skip_unreadable=true" in message
    data = read(tree, skip_unreadable=True)
    assert sum(counts(data)) == 10
    assert "unreadable files passed over (3)" in data.note


def test_sizes_that_differ_ask_for_image_size(write):
    tree = write()
    add(tree / "bee" / "wide.png", picture(size=11))
    assert "data.image_size=8" in refused(tree)
    assert read(tree, image_size=8).image_shape == (3, 8, 8)


def test_an_image_size_beyond_all_memory_is_refused_before_it_is_asked_for(write):
    for message in (refused(write(), image_size=10**6), refused(write(), image_size=10**6, batch_size=1)):
        assert "GiB of memory" in message
        assert "smaller data.image_size" in message


def test_names_that_are_no_unicode_are_read(tmp_path, write):
    write()
    name = b"caf\xe9".decode(errors="surrogateescape")
    try:
        (tmp_path / name).mkdir()
    except (OSError, UnicodeError):
        pytest.skip("this file system has Unicode names alone")
    for number in range(6):
        add(tmp_path / name / f"{number} {name}.png")
    assert len(read(tmp_path).classes) == 3


@pytest.mark.parametrize("layout", [False, True])
def test_mapped_images_give_the_same_batches_to_the_bit(own_cache, write, layout):
    write("train", 20), write("val", 4)
    tree = write("test", 4)
    kept, mapped = (
        read(tree, mapped=mapped, crop_padding=2, flip=True, batch_size=8, channels_last=layout)
        for mapped in (False, True)
    )
    assert [data.train.mapped for data in (kept, mapped)] == [False, True]
    assert list(own_cache.rglob("*.npy"))
    assert torch.equal(kept.mean, mapped.mean)
    assert torch.equal(kept.std, mapped.std)
    for part in ("train", "val", "test"):
        pairs = [list(getattr(data, f"{part}_dataloader")()) for data in (kept, mapped)]
        for (images, labels), (others, theirs) in zip(*pairs, strict=True):
            assert torch.equal(images, others)
            assert torch.equal(labels, theirs)
            assert images.stride() == others.stride()
    assert len(pairs[0]) == math.ceil(8 / 500)


def test_mapped_images_that_the_cache_has_no_room_for_are_answered(tmp_path, write, monkeypatch):
    tree = write("images")
    (tmp_path / "blocked").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "blocked"))
    assert "XDG_CACHE_HOME" in refused(tree / "images", mapped=True)
    assert counts(read(tree / "images"))


def bomb(pixels):
    """A PNG of some hundred bytes that says it has `pixels` times as many."""
    head = struct.pack(">IIBBBBB", pixels, pixels, 1, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    chunks = (
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def fits(size):
    """A compressed FITS, of which Pillow unpacks the whole before it looks at its size."""
    cards = ["XTENSION= 'BINTABLE'", "BITPIX  = 8", "NAXIS   = 2", "NAXIS1  = 8", "NAXIS2  = 8"]
    cards += ["ZIMAGE  = T", "ZCMPTYPE= 'GZIP_1'", "ZBITPIX = 8", "ZNAXIS  = 2", "END"]
    first = ["SIMPLE  = T", "BITPIX  = 8", "NAXIS   = 0", "END"]
    blocks = ["".join(card.ljust(80) for card in some).ljust(2880) for some in (first, cards)]
    return "".join(blocks).encode() + gzip.compress(bytes(size))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (bomb(12_000), "12000×12000 pixels are too many"),
        (bomb(60_000), "decompression bomb"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n", "no format"),
        (fits(10**6), "no format"),
    ],
)
def test_a_file_that_would_fill_memory_or_start_a_program_is_not_decoded(write, content, said):
    tree = write()
    (tree / "ant" / "x.png").write_bytes(content)
    assert said in refused(tree)
    assert counts(read(tree, skip_unreadable=True))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes here")
def test_pipes_and_circles_of_links_are_passed_over(write):
    tree = write(count=10)
    os.mkfifo(tree / "ant" / "pipe.png")
    (tree / "ant" / "again").symlink_to(tree)
    (tree / "bee" / "again").symlink_to(tree / "bee")
    (tree / "bee" / "there").symlink_to(tree / "bee" / "again")
    data = read(tree)
    assert data.classes == ["ant", "bee"]
    assert sum(counts(data)) == 20
    assert "links to folders that were read already passed over (3)" in data.note
    assert "pipes, sockets and devices passed over (1)" in data.note


@pytest.mark.skipif(os.name == "nt", reason="names are text there")
def test_the_name_of_a_class_need_not_be_text(write):
    tree = write()
    os.rename(tree / "bee", os.fsencode(tree) + b"/b\xe9e")
    data = read(tree)
    assert data.classes == ["ant", "b\ufffde"]
