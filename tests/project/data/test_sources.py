"""Image sets as users have them on disk, and the digits: every layout is read as it is."""

import pickle
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch.nn.functional import avg_pool2d

from project.data import sources
from project.data.sources import CIFAR
from vitals.errors import UserError


def assert_same(splits, copy):
    assert splits.train.classes == copy.classes
    for split, images in (("train", splits.train), ("test", splits.test)):
        assert images.images.dtype == torch.uint8
        assert np.array_equal(images.images.numpy(), copy.pixels[split])
        assert images.labels.tolist() == copy.labels[split]


@pytest.mark.parametrize("below", ["", "cifar10"], ids=["root", "root/cifar10"])
@pytest.mark.parametrize("layout", ["folder", "archive", "tree"])
def test_cifar10_is_read_from_any_layout_in_root_or_root_name(
    tmp_path, write_cifar, write_tree, layout, below
):
    place = tmp_path / below
    copy = write_tree(place) if layout == "tree" else write_cifar(place, archive=layout == "archive")
    assert_same(sources.read("cifar10", str(tmp_path)), copy)


def test_root_may_be_the_folder_of_the_published_files_itself(tmp_path, write_cifar):
    copy = write_cifar(tmp_path)
    assert_same(sources.read("cifar10", str(tmp_path / "cifar-10-batches-py")), copy)


@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_cifar100_is_read_with_its_hundred_fine_labels(tmp_path, write_cifar, archive):
    copy = write_cifar(tmp_path, name="cifar100", archive=archive)
    assert_same(sources.read("cifar100", str(tmp_path)), copy)


@pytest.fixture
def published(tmp_path, write_cifar, monkeypatch):
    """CIFAR-10's archive with its checksum, on a web server of this machine."""
    site = tmp_path / "site"
    write_cifar(site, archive=True)
    handler = partial(SimpleHTTPRequestHandler, directory=str(site))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    archive = site / CIFAR["cifar10"].filename
    monkeypatch.setattr(CIFAR["cifar10"], "url", f"http://127.0.0.1:{server.server_port}/{archive.name}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield archive
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_missing_copy_is_downloaded(tmp_path, published):
    assert len(sources.read("cifar10", str(tmp_path / "data")).train) == 100
    assert (tmp_path / "data" / published.name).read_bytes() == published.read_bytes()


def test_a_download_with_another_checksum_is_refused(tmp_path, published):
    published.write_bytes(published.read_bytes() + b"more")
    with pytest.raises(UserError, match=r"cifar-10-python\.tar\.gz could not be downloaded"):
        sources.read("cifar10", str(tmp_path / "data"))


def test_a_tree_without_a_test_folder_has_no_test_images(tmp_path, write_tree):
    copy = write_tree(tmp_path)
    shutil.rmtree(tmp_path / "test")
    assert sources.read("image_folder", str(tmp_path)).test is None
    bare = sources.read("image_folder", str(tmp_path / "train"))  # <class>/* alone
    assert bare.test is None
    assert np.array_equal(bare.train.images.numpy(), copy.pixels["train"])


def test_test_classes_keep_the_labels_of_training(tmp_path, write_tree):
    copy = write_tree(tmp_path)
    shutil.rmtree(tmp_path / "test" / "ant")
    test = sources.read("image_folder", str(tmp_path)).test
    assert test.labels.tolist() == [label for label in copy.labels["test"] if label != 0]
    assert test.classes == copy.classes


def test_files_that_are_no_images_by_name_are_passed_over(tmp_path, write_tree):
    copy = write_tree(tmp_path)
    (tmp_path / "train" / "ant" / "notes.txt").write_text("not an image")
    (tmp_path / "train" / ".thumbnails").mkdir()
    assert_same(sources.read("image_folder", str(tmp_path)), copy)


@pytest.mark.parametrize(
    ("mode", "ending"), [("L", "png"), ("RGBA", "PNG"), ("P", "png"), ("1", "bmp"), ("CMYK", "TIFF")]
)
def test_every_kind_of_image_becomes_three_channels(tmp_path, write_tree, mode, ending):
    write_tree(tmp_path, classes=["ant", "bee"])
    file = tmp_path / "train" / "ant" / f"0.{ending}"
    Image.new("RGB", (8, 8), (255, 255, 255)).convert(mode).save(file)
    assert sources.read("image_folder", str(tmp_path)).train.images[0].unique().tolist() == [255]


def test_a_jpeg_has_the_pixels_that_pillow_decodes(tmp_path, write_tree):
    write_tree(tmp_path, classes=["ant", "bee"])
    file = tmp_path / "train" / "ant" / "0.jpeg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file)
    [image] = sources.read("image_folder", str(tmp_path)).train.images[:1]
    with Image.open(file) as opened:
        assert np.array_equal(image.permute(1, 2, 0).numpy(), np.asarray(opened))


def test_images_that_are_not_square_keep_their_height_and_width(tmp_path, write_tree):
    copy = write_tree(tmp_path, size=(6, 9))
    assert_same(sources.read("image_folder", str(tmp_path)), copy)


def test_images_are_read_where_the_system_knows_no_affinity(tmp_path, write_tree, monkeypatch):
    monkeypatch.delattr("os.sched_getaffinity", raising=False)  # macOS, Windows
    copy = write_tree(tmp_path)
    assert_same(sources.read("image_folder", str(tmp_path)), copy)


def test_image_size_resizes_mixed_sizes(tmp_path, write_tree):
    write_tree(tmp_path)
    Image.new("RGB", (20, 13), (10, 20, 30)).save(tmp_path / "train" / "bee" / "wide.png")
    train = sources.read("image_folder", str(tmp_path), 16).train
    assert train.images.shape[1:] == (3, 16, 16)
    [wide] = [image for image in train.images if image[0].unique().tolist() == [10]]
    assert wide[:, 0, 0].tolist() == [10, 20, 30]


def corrupt(tree):
    file = tree / "train" / "bee" / "0005.png"
    file.write_bytes(file.read_bytes()[:60])


def write_text(tree):
    (tree / "test" / "cow" / "0004.png").write_text("not an image")


def claim_to_be_huge(tree):
    file = tree / "train" / "bee" / "0005.bmp"
    Image.new("RGB", (8, 8)).save(file)
    data = bytearray(file.read_bytes())
    data[18:22] = (1 << 30).to_bytes(4, "little")  # the width
    file.write_bytes(data)


def empty(tree):
    for file in (tree / "train" / "bee").iterdir():
        file.unlink()


def add_test_class(tree):
    shutil.copytree(tree / "test" / "ant", tree / "test" / "dog")


def mix_sizes(tree):
    Image.new("RGB", (9, 7)).save(tree / "test" / "ant" / "wide.png")


def remove_classes(tree):
    for folder in ("train", "test"):
        shutil.rmtree(tree / folder)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (corrupt, ("train/bee/0005.png", "not a readable image")),
        (claim_to_be_huge, ("train/bee/0005.bmp", "not a readable image")),
        (write_text, ("test/cow/0004.png", "not a readable image")),
        (empty, ("test/bee", "training does not know", "no {0}/train/bee with files")),
        (add_test_class, ("test/dog", "test class that training does not know")),
        (mix_sizes, ("test/ant/wide.png", "9×7", "8×8", "data.image_size")),
        (remove_classes, ("not have two classes", "<class>/*", "it has none")),
    ],
)
def test_a_spoilt_tree_is_answered_by_one_sentence_naming_the_file(tmp_path, write_tree, spoil, words):
    write_tree(tmp_path)
    spoil(tmp_path)
    with pytest.raises(UserError) as error:
        sources.read("image_folder", str(tmp_path))
    message = str(error.value)
    assert message.startswith(str(tmp_path))
    assert "\n" not in message
    assert all(word.format(tmp_path) in message for word in words)


class Bomb:
    """A pickle of it runs code when it is loaded."""

    def __reduce__(self):
        return exec, ("raise SystemExit('code in the pickle was run')",)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def with_a_flipped_bit(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


DAMAGE = {
    "truncated": truncated,
    "flipped bit": with_a_flipped_bit,
    "empty": lambda data: b"",
    "text": lambda data: b"<html>404</html>",
    "code": lambda data: pickle.dumps(Bomb(), protocol=2),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_pickle_is_answered_by_a_sentence_naming_the_file(tmp_path, write_cifar, damage):
    write_cifar(tmp_path)
    file = tmp_path / "cifar-10-batches-py" / "data_batch_3"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as error:
        sources.read("cifar10", str(tmp_path))
    assert str(error.value).startswith(f"{file} is damaged")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["batches.meta", "data_batch_4", "test_batch"])
def test_half_a_copy_is_answered_by_a_sentence_naming_what_is_missing(tmp_path, write_cifar, missing):
    write_cifar(tmp_path)
    (tmp_path / "cifar-10-batches-py" / missing).unlink()
    with pytest.raises(UserError, match=rf"{missing} is damaged or missing: delete .*cifar-10-batches-py"):
        sources.read("cifar10", str(tmp_path))


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_is_answered_by_a_sentence_naming_it(tmp_path, write_cifar, damage):
    write_cifar(tmp_path, archive=True)
    file = tmp_path / "cifar-10-python.tar.gz"
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(UserError) as error:
        sources.read("cifar10", str(tmp_path))
    assert str(error.value).startswith(f"{file} is damaged")
    assert "\n" not in str(error.value)


def test_the_archive_is_read_without_writing_beside_it(tmp_path, write_cifar):
    write_cifar(tmp_path, archive=True)
    sources.read("cifar10", str(tmp_path))
    assert [file.name for file in tmp_path.iterdir()] == ["cifar-10-python.tar.gz"]


def test_the_published_size_of_cifar_cannot_be_changed(tmp_path, write_cifar):
    write_cifar(tmp_path)
    with pytest.raises(UserError, match=r"data\.image_size=64 .* 32×32"):
        sources.read("cifar10", str(tmp_path), 64)


def test_digits_are_scikit_learns_1797_images_in_ten_classes():
    digits = sources.read("digits", None).train
    assert digits.images.shape == (1797, 3, 32, 32)
    assert digits.classes == [str(digit) for digit in range(10)]
    published = load_digits()
    assert digits.labels.tolist() == published.target.tolist()
    grey = digits.images[:, 0]
    assert (digits.images == grey.unsqueeze(1)).all()
    # Each pixel of the 8×8 originals has become 4×4, and the enlargement blends only neighbours.
    blocks = avg_pool2d(grey.float().unsqueeze(1), 4).flatten()
    originals = torch.tensor(published.images).flatten().float()
    assert torch.corrcoef(torch.stack([blocks, originals]))[0, 1] > 0.97
    assert grey.max() == 255


def test_digits_come_in_any_size():
    assert sources.read("digits", None, 8).train.images.shape == (1797, 3, 8, 8)
