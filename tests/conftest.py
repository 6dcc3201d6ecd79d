"""What both houses are tried on: configurations, and a cache of their own."""

from __future__ import annotations

import gc
import os

# Before torch is imported: the networks are tiny, and several processes share the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import signal
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import yaml
from omegaconf import DictConfig

from vitals.runs.config.overrides import Overrides

CONFIGS = Path(__file__).parents[1] / "configs"

# OmegaConf reads with PyYAML's parser in Python, and the tests compose a thousand configurations: this is its
# parser in C, libyaml. Processes that tests start keep to the one in Python.
yaml.SafeLoader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

# A shell starts what it puts in the background with Ctrl-C ignored, and the programs that tests start and
# interrupt would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What the imports have made stays: to look for garbage in it took a tenth of the time of all tests."""
    gc.freeze()


def pytest_sessionfinish() -> None:
    gc.unfreeze()  # or nanobind, in one of them, complains of leaks at the end


@pytest.fixture(scope="session")
def caches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("caches")


@pytest.fixture(autouse=True)
def own_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads the user's cache of decoded images, or writes to it."""
    folder = Path(tempfile.mkdtemp(dir=caches))  # `mktemp` would look through the folders of all tests before
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    return folder


@pytest.fixture(scope="session")
def compose() -> Callable[..., DictConfig]:
    """`compose("optimizer=adam")`: the configuration of a command, each time as new."""

    @cache
    def compose(*words: str) -> DictConfig:
        [config] = Overrides(CONFIGS, "train", words).composed()
        return config

    return lambda *words: compose(*words).copy()
