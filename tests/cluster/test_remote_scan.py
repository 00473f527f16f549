"""A scan in this process that keeps its examples at a URL."""

from __future__ import annotations

import signal
import socket

import fsspec
import numpy as np
import pytest
import torch

import dreamy_lens as dl
from dreamy_lens.errors import DreamyLensError, ExamplesError, RunFolderError
from dreamy_lens.scan import Examples, scanner
from dreamy_lens.scan.storage import HEADER
from tests.scan.conftest import small_blocks  # noqa: F401

TEXTS = [f"Return a copy of the array {i}, with axes transposed and the values sorted." for i in range(30)]
SETTINGS = {"length": 6, "k": 4, "progress": False}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def url():
    files = fsspec.filesystem("memory")
    yield "memory://bucket/scan"
    if files.exists("/bucket"):
        files.rm("/bucket", recursive=True)


def values(examples):
    return [window.value for window in examples.of("L2.N17").top]


def scan(out, feature="L2.N17", **settings):
    return dl.max_activating(feature, corpus=TEXTS, out=out, **{**SETTINGS, **settings})


def test_the_examples_are_those_of_a_folder_and_are_opened_again(url, tmp_path, monkeypatch):
    there, here = scan(url), scan(tmp_path / "scan")
    assert values(there) == values(here) and len(values(there)) == 4
    names = {path.rpartition("/")[2] for path in fsspec.filesystem("memory").ls("/bucket/scan", detail=False)}
    assert names == {file.name for file in (tmp_path / "scan").iterdir() if not file.name.startswith(".")}
    # Another machine, whose cache has nothing, opens what is at the URL, and scans nothing.
    monkeypatch.setenv("DREAMY_LENS_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr("dreamy_lens.scan.scan.Scan._scan", lambda *args: pytest.fail("it scans again"))
    assert values(scan(url)) == values(here)
    copied = tmp_path / "copied"
    fsspec.filesystem("memory").get("/bucket/scan/", str(copied), recursive=True)
    assert values(Examples.load(copied)) == values(here)


def test_a_url_with_another_scan_is_refused_and_left(url):
    scan(url)
    header = fsspec.filesystem("memory").cat_file(f"/bucket/scan/{HEADER}")
    with pytest.raises(ExamplesError):
        scan(url, feature="L2.N18")
    assert fsspec.filesystem("memory").cat_file(f"/bucket/scan/{HEADER}") == header


def test_an_interrupted_scan_goes_on(url, small_blocks, monkeypatch):  # noqa: F811
    whole, usual = values(scan(None, cache=False)), scanner.Scanner._count

    def interrupting(*arguments):
        monkeypatch.setattr(scanner.Scanner, "_count", usual)
        signal.raise_signal(signal.SIGINT)
        usual(*arguments)

    monkeypatch.setattr(scanner.Scanner, "_count", interrupting)
    part = scan(url, batch_size=4)
    assert not part.header["complete"] and part.counts["windows"]
    assert np.allclose(values(scan(url, batch_size=4)), whole, atol=1e-5)


def test_a_finished_scan_is_opened_at_its_url(url, tmp_path):
    whole = scan(url)
    opened = dl.load(url)
    assert type(opened) is type(whole) and values(opened) == values(whole)
    run = dl.dream("L2.N17", iterations=1, population=2, children=4, length=5, progress=False)
    assert str(dl.compare(run, url)) == str(dl.compare(run, whole))
    browser = dl.browse(examples=url)
    browser.wait()
    browser.close()
    with pytest.raises(ExamplesError, match=r"'memory://bucket/none' has no examples\.json"):
        dl.compare(run, "memory://bucket/none")


def test_what_is_saved_on_this_machine_alone_is_refused_at_a_url(url, tmp_path, monkeypatch):
    """No folder "memory:" or "s3:" is made here, in which a run would be lost with the machine."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    small = {"iterations": 1, "population": 2, "children": 4, "length": 5, "progress": False}
    run = dl.dream("L2.N17", **small)
    direction = dl.direction([1.0, 2.0])
    sae = dl.load_sae(_Halves(), "blocks.0.hook_resid_post", tensors={"W_enc": "W", "b_enc": "b"})
    for write in (
        lambda: dl.dream("L2.N17", save_to="s3://bucket/run", **small),
        lambda: dl.dream("L2.N17", seeds=2, save_to=url, **small),
        lambda: run.save("s3://bucket/run"),
        lambda: run.to_html("s3://bucket/page.html"),
        lambda: run.frontier.save("s3://bucket/frontier.json"),
        lambda: run.frontier.save("s3://bucket/frontier.csv"),
        lambda: run.frontier.save("s3://bucket/figure.svg"),
        lambda: run.replay("s3://bucket/replay.svg"),
        lambda: direction.save("s3://bucket/v.safetensors"),
        lambda: sae.save("s3://bucket/sae"),
    ):
        with pytest.raises(DreamyLensError, match="is a URL, and this is written to a folder of this machine"):
            write()
    assert list((tmp_path / "here").iterdir()) == []
    dl.sweep("L2.N17", out=f"{url}-sweep", **small)
    assert len(dl.load(f"{url}-sweep")) == 1
    fsspec.filesystem("memory").pipe_file("/bucket/run/run.json", b"{}")
    with pytest.raises(RunFolderError, match="holds a run, which is opened from a folder of this machine"):
        dl.load("memory://bucket/run")


class _Halves:
    W, b = torch.ones(4, 2), torch.zeros(2)

    def encode(self, x):
        return x @ self.W


def test_examples_that_cannot_be_written_stay_in_memory(url, monkeypatch):
    from dreamy_lens.cluster.shared_folder import SharedFolder

    def fails(self, local, name):
        raise PermissionError("access denied")

    monkeypatch.setattr(SharedFolder, "put_file", fails)
    with pytest.warns(RuntimeWarning, match=r"'memory://bucket/scan': access denied.*complete in memory"):
        examples = scan(url)
    assert len(values(examples)) == 4


def test_a_bucket_of_s3_is_written(tmp_path, monkeypatch):
    pytest.importorskip("s3fs", reason="S3 needs the library s3fs")
    server_module = pytest.importorskip("moto.server", reason="a local S3 server needs the library moto")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)
    server.start()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "x")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        fsspec.filesystem("s3").mkdir("bucket")
        assert values(scan("s3://bucket/scan")) == values(scan(tmp_path / "scan"))
        assert f"bucket/scan/{HEADER}" in fsspec.filesystem("s3").ls("bucket/scan", detail=False)
    finally:
        server.stop()
