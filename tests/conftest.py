"""What every test shares: one thread, fixed seeds, and the small models, each made once."""

from __future__ import annotations

import atexit
import os
import random
import shutil
import signal
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings

from tests.helpers import models

# The same examples on every run; a test that passes or fails by the draw is no help to anyone.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.load_profile("repeatable")
torch.set_num_threads(1)

# Nothing that a test leaves in the cache is of use to the user, or the other way round.
_cache = tempfile.mkdtemp(prefix="dreamy_lens_cache_")
atexit.register(shutil.rmtree, _cache, ignore_errors=True)
os.environ["DREAMY_LENS_CACHE"] = _cache

# A shell starts background jobs with Ctrl-C ignored; the tests of interrupts send it to this very process.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# Ray's workers give way to every other process unless told otherwise, and get no time at all beside busy ones.
os.environ.setdefault("RAY_worker_niceness", "0")


TOGETHER = {
    "browsers": ("tests/browser/",),
    "Ray": ("tests/cluster/", "tests/golden/test_golden.py::test_a_scan_on_workers"),
    "kernels": ("tests/project/test_notebooks.py", "tests/benchmarks/test_benchmarks.py::test_the_benchmark_panels"),
}
"""Beginnings of the ids of tests that one process runs, because each of their browsers, clusters or kernels would
compete with the others for the machine."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give each process of pytest-xdist whole files, and one of them all tests of browsers, of Ray, or of kernels.

    These long groups come first, or the other processes would wait for them at the end.
    """
    groups = {item: item.nodeid.partition("::")[0] for item in items}
    for name, beginnings in TOGETHER.items():
        groups |= {item: name for item in items if item.nodeid.startswith(beginnings)}
    for item, group in groups.items():
        item.add_marker(pytest.mark.xdist_group(group))
    items.sort(key=lambda item: groups[item] not in TOGETHER)


@pytest.fixture(autouse=True)
def _seeds():
    """Every test starts from the same random state, whatever ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture
def short_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The frontier search's start tries few tokens, for tests of the embedded model whose point is not the search."""
    monkeypatch.setattr("dreamy_lens.search.frontier.beginnings.LEAST_SWEPT", 16)
    monkeypatch.setattr("dreamy_lens.search.frontier.beginnings.SWEPT_TOKENS", 16)


@pytest.fixture(scope="session", params=models.FAMILIES)
def family(request: pytest.FixtureRequest) -> models.Family:
    """Each of the four random-weight models in turn: bridge, plain Hugging Face model, tokenizer."""
    return models.family(request.param)


@pytest.fixture(scope="session", params=[*models.FAMILIES, models.STORIES])
def any_family(request: pytest.FixtureRequest) -> models.Family:
    """The four random-weight models, and the trained one where it is there."""
    return models.family(request.param)


@pytest.fixture(scope="session")
def gpt2() -> models.Family:
    return models.family("gpt2")


@pytest.fixture(scope="session")
def neox() -> models.Family:
    return models.family("neox")


@pytest.fixture(scope="session")
def llama() -> models.Family:
    return models.family("llama")


@pytest.fixture(scope="session")
def gemma2() -> models.Family:
    return models.family("gemma2")


@pytest.fixture(scope="session")
def stories() -> models.Family:
    """The trained model of the shared folder; the test is skipped where it is not there."""
    return models.family(models.STORIES)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared material; the test is skipped where it is not there."""
    folder = models.shared_folder()
    if not folder.is_dir():
        pytest.skip(f"there is no folder {folder}; DREAMY_LENS_SHARED names it")
    return folder
