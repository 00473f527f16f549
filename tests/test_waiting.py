"""Waits for something outside: each has a limit that can be set, says what it waits for, and ends on Ctrl-C."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import constants

import dreamy_lens as dl
from dreamy_lens import _waiting
from dreamy_lens._host import progress_bar, say, silenced, working
from dreamy_lens.cluster import RayConfig, ray_cluster
from dreamy_lens.corpus.files import ReadOptions, file_shards
from dreamy_lens.corpus.paths import File
from dreamy_lens.errors import ClusterError, CorpusError, DreamyLensError, ModelError, SettingsError, WaitError
from dreamy_lens.models import hub


@contextlib.contextmanager
def silent_server() -> Iterator[str]:
    """A server that takes connections and says nothing: its host and port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("DREAMY_LENS_TIMEOUT", "0.5")
    for name in ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "*")
    with silent_server() as address:
        yield address


def test_a_wait_ends_with_the_result_the_error_or_the_limit():
    assert _waiting.within(60, "Waiting", lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        _waiting.within(60, "Waiting", lambda: 1 // 0)
    event = threading.Event()
    with pytest.raises(WaitError, match=r"Waiting for it took longer than 0.3 seconds.*DREAMY_LENS_TIMEOUT") as caught:
        _waiting.within(0.3, "Waiting for it", event.wait)
    event.set()
    assert isinstance(caught.value, TimeoutError) and isinstance(caught.value, DreamyLensError)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "1e99"])
def test_a_limit_is_a_positive_number(monkeypatch, text):
    assert _waiting.limit(7) == 7
    monkeypatch.setenv("DREAMY_LENS_TIMEOUT", "2.5")
    assert _waiting.limit(7) == 2.5
    monkeypatch.setenv("DREAMY_LENS_TIMEOUT", text)
    with pytest.raises(SettingsError, match="number of seconds, more than 0"):
        _waiting.limit(7)


@pytest.fixture
def watched(monkeypatch):
    """A process whose stderr is a terminal, and a wait that counts as long after 0.05 seconds."""
    monkeypatch.setattr(_waiting, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(_waiting, "is_watched", lambda: True)


def test_what_takes_long_says_what_it_does(watched, capsys):
    for shown in (True, False, None):
        with working(f"Working {shown}", shown):
            time.sleep(0.3)
    assert capsys.readouterr().err == "Working True ...\nWorking None ...\n"
    with _waiting.announced("Waiting for it", 60):
        time.sleep(0.3)
    assert capsys.readouterr().err == "Waiting for it, at most 60 s (Ctrl-C ends it) ...\n"
    with working("Importing", at_once=True):
        assert capsys.readouterr().err == "Importing ...\n"


def test_what_is_called_with_progress_false_is_silent_all_through(watched, capsys):
    @silenced
    def work(progress: bool | None = None) -> None:
        with working("Working"):
            say("Now the other part.")
            with progress_bar(None, desc="parts", total=2) as bar:
                time.sleep(0.2)
                assert bar.disable == (progress is False)

    work(progress=False)
    assert capsys.readouterr().err == ""
    work()
    assert "Working ..." in capsys.readouterr().err


def test_a_log_gets_lines_at_intervals_and_no_bar(monkeypatch, capsys, caplog):
    monkeypatch.setattr(_waiting, "QUIET_SECONDS", 0.05)
    monkeypatch.setattr(_waiting, "LOG_SECONDS", 0.1)
    with progress_bar(None, desc="sweep", total=4, unit="run") as bar:
        bar.update(1)
        bar.set_postfix_str("best value 3")
        time.sleep(0.5)
    lines = [record.getMessage() for record in caplog.records if record.name == "dreamy_lens.progress"]
    assert len(lines) >= 2 and all(re.match(r"sweep: +25% 1/4 \[.*best value 3\]$", line) for line in lines), lines
    caplog.clear()
    with working("Computing"):
        time.sleep(0.5)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) >= 2 and lines[0] == "Computing ..." and re.match(r"Computing \.\.\. \(\d+ s\)$", lines[-1])
    time.sleep(0.2)
    assert len(caplog.records) == len(lines)  # nothing more after the end
    assert capsys.readouterr().err == ""  # which is for programs without a log
    with progress_bar(False, total=4) as bar:
        assert bar.disable


def test_a_program_without_a_log_gets_the_lines_on_stderr():
    script = """
import logging, time
from dreamy_lens import _waiting
from dreamy_lens._host import progress_bar, working
_waiting.QUIET_SECONDS = 0.02
def work(name):
    with working(name), progress_bar(None, total=2, desc="parts of " + name):
        time.sleep(0.5)
work("first")
logging.getLogger("dreamy_lens.progress").setLevel("WARNING")
work("second")
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    assert sorted(line[:15] for line in ran.stderr.splitlines()) == ["first ...", "parts of first:"]
    assert "\r" not in ran.stderr and ran.stdout == ""


def test_ctrl_c_ends_a_wait():
    script = """
import threading
from dreamy_lens import _waiting
print("ready", flush=True)
try:
    _waiting.within(600, "Waiting", threading.Event().wait)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    child = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    assert child.stdout is not None and child.stdout.readline() == "ready\n"
    while child.poll() is None:  # the first one may come before the wait
        child.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(1)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (0, "interrupted\n") or "KeyboardInterrupt" in err


def test_a_hub_that_says_nothing(server, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("HF_ENDPOINT", f"http://{server}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    with pytest.raises(ModelError, match=r"only the cache was searched, because http://.* gave no answer in 0.5 s"):
        dl.load_model("owner/missing")
    assert constants.HF_HUB_OFFLINE is False


def test_a_hub_that_cannot_be_reached_is_given_up_at_once(server, monkeypatch, capfd):
    pytest.importorskip("transformers")
    with socket.create_server(("127.0.0.1", 0)) as closed:
        endpoint = f"http://127.0.0.1:{closed.getsockname()[1]}"
    monkeypatch.setenv("HF_ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    began = time.monotonic()
    with pytest.raises(ModelError) as caught:
        dl.load_model("owner/missing")
    assert time.monotonic() - began < 5  # the client alone tries for 23 seconds
    text = str(caught.value)
    assert f"only the cache was searched, because {endpoint} cannot be reached" in text and "HF_HUB_OFFLINE=1" in text
    assert "\n" not in text and "installation#offline-mode" not in text
    assert "Retry" not in capfd.readouterr().err and constants.HF_HUB_OFFLINE is False


def test_the_attempts_of_the_hubs_client_are_one_line(monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(hub.urllib.request, "urlopen", lambda *_, **__: io.BytesIO())
    logger, heard = logging.getLogger("huggingface_hub.utils._http"), logging.Handler()
    seen: list[str] = []
    heard.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(heard)
    try:
        with hub.asked("owner/missing") as unanswered:
            for i in range(3):
                logger.warning(f"'{OSError('gone')}' thrown while requesting HEAD https://huggingface.co/x")
                logger.warning(f"Retrying in {2**i}s [Retry {i + 1}/5].")
            logger.warning("something else")
        logger.warning("Retrying in 1s [Retry 1/5].")
    finally:
        logger.removeHandler(heard)
    assert unanswered == "" and seen == ["something else", "Retrying in 1s [Retry 1/5]."]
    line = capsys.readouterr().err
    assert line.startswith("Waiting for the Hugging Face Hub at ") and line.count("\n") == 1
    assert "HF_HUB_OFFLINE=1" in line


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """An event that never comes while the test lasts."""
    event = threading.Event()
    yield event
    event.set()


def test_a_url_that_says_nothing(server, monkeypatch, never):
    class Silent:
        def info(self, path: str) -> dict[str, str]:
            never.wait()
            return {"type": "file"}

    monkeypatch.setattr("fsspec.core.url_to_fs", lambda source, **options: (Silent(), source))
    with pytest.raises(WaitError, match=r"Waiting for s3://bucket/corpus.txt took longer than 0.5 seconds"):
        dl.corpus.open("s3://bucket/corpus.txt")


def test_a_file_at_a_url_that_stops_in_the_middle(server, monkeypatch, never):
    class Stops(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            return data if data else b"x" * never.wait()

    monkeypatch.setattr("fsspec.open", lambda path, mode, **options: SimpleNamespace(open=lambda: Stops(b"One text.")))
    file = File("corpus.txt", "s3://bucket/corpus.txt", 100, "")
    (shard,) = file_shards([file], ReadOptions())
    with pytest.raises(CorpusError, match=r"s3://bucket/corpus.txt could not be read: .*longer than 0.5 s.* Try again"):
        list(shard.pieces(None, lambda problem: None))


def test_a_data_set_that_stops_in_the_middle(server, never):
    datasets = pytest.importorskip("datasets")

    def rows() -> Iterator[dict[str, str]]:
        for i in range(40):
            yield {"text": f"Text {i}."}
        never.wait()

    corpus = dl.corpus.open(datasets.IterableDataset.from_generator(rows))
    texts = []
    with pytest.raises(WaitError, match=r"took longer than 0.5 seconds"):
        for block in corpus.blocks(0):
            texts += [section.text for section in block.sections]


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_cluster_that_says_nothing(server, scheme):
    pytest.importorskip("ray")
    with pytest.raises(ClusterError, match=r"no Ray cluster to join at .*: it has not answered in 0.5 s"):
        with ray_cluster.connected(RayConfig(address=scheme + server)):
            pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_or_a_device_in_a_corpus_is_passed_over(tmp_path):
    (tmp_path / "a.txt").write_text("The dog runs over the hill.")
    for name in ("b.txt", "c.jsonl", "d.parquet", "e.txt.gz"):
        os.mkfifo(tmp_path / name)
    (tmp_path / "f.txt").symlink_to("/dev/zero")
    corpus = dl.corpus.open(tmp_path)
    texts = [text for shard in range(len(corpus.shards)) for block in corpus.blocks(shard) for text in block.sections]
    assert len(texts) == 1
    for name in ("b.txt", "f.txt"):
        with pytest.raises(CorpusError, match="is a pipe or a device; save what it gives as a file"):
            dl.corpus.open(tmp_path / name)


def test_every_test_has_a_limit(request):
    assert request.config.getini("timeout") and request.config.pluginmanager.hasplugin("timeout")
