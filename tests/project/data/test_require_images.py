"""Whether the images are there is answered without reading them, and without writing anything."""

import pytest

from project.data import sources
from project.data.sources import CIFAR, require_images
from vitals.errors import UserError


@pytest.fixture
def no_network(monkeypatch):
    """The published files lie where nobody listens, so that a connection is refused at once."""
    for dataset in CIFAR.values():
        monkeypatch.setattr(dataset, "url", f"http://127.0.0.1:9/{dataset.filename}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_with_neither_copy_nor_network_three_lines_say_what_where_and_what_else(tmp_path, name):
    root = tmp_path / "images"
    with pytest.raises(UserError) as error:
        require_images(name, str(root))
    what, where, instead = str(error.value).splitlines()
    assert f"no copy of {name}" in what
    assert f"data.root={root}" in what
    assert CIFAR[name].filename in where
    assert str(root) in where
    assert "data=digits" in instead
    assert not root.exists()


@pytest.mark.usefixtures("no_network")
def test_a_download_that_fails_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="could not be downloaded") as error:
        sources.read("cifar10", str(tmp_path))
    assert "\n" not in str(error.value)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("layout", ["folder", "archive", "tree"])
def test_a_copy_needs_no_network(tmp_path, write_cifar, write_tree, layout):
    if layout == "tree":
        write_tree(tmp_path)
    else:
        write_cifar(tmp_path, archive=layout == "archive")
    require_images("cifar10", str(tmp_path))


@pytest.mark.usefixtures("no_network")
def test_digits_need_neither_copy_nor_network():
    require_images("digits", None)
