"""`requirements.lock`: what `pip install --require-hashes` takes."""

import re
import tomllib
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
LOCK = (ROOT / "requirements.lock").read_text("utf-8")


def test_it_holds_every_requirement_at_a_version_that_is_allowed_with_hashes_and_names_no_host():
    entries = [entry.strip() for entry in re.split(r"\n(?=\S)", LOCK) if not entry.startswith("#")]
    assert [entry for entry in entries if not re.search(r"\\\n\s+--hash=sha256:[0-9a-f]{64}", entry)] == []
    assert not re.search(r"://|index-url|find-links", LOCK)
    pinned = {}
    for entry in entries:
        requirement = Requirement(entry.split(" \\")[0])
        [version] = requirement.specifier
        pinned.setdefault(requirement.name, []).append(version.version)
    for wanted in map(Requirement, [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["project"]]):
        assert pinned[wanted.name]
        assert all(map(wanted.specifier.contains, pinned[wanted.name]))


def test_the_malicious_versions_of_lightning_are_excluded_whatever_is_installed():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    asked = [requirement for listed in lists for requirement in map(Requirement, listed)]
    of_lightning = [each for each in asked if each.name in ("lightning", "pytorch-lightning")]
    assert of_lightning
    for requirement in of_lightning:
        assert not {"2.6.2", "2.6.3"} & set(requirement.specifier.filter(["2.6.1", "2.6.2", "2.6.3"]))
