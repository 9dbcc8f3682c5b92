"""The paper's data by name, from a server that has small archives of the same form."""

from __future__ import annotations

import hashlib
import io
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from pocketvit.config import DataConfig
from pocketvit.data import load
from pocketvit.data.sources import cifar, open_source
from pocketvit.errors import UserError

RNG = np.random.default_rng(0)
CONTENTS = {
    "cifar10": {f"data_batch_{n}.bin": 20 for n in range(1, 6)} | {"test_batch.bin": 10},
    "cifar100": {"train.bin": 200, "test.bin": 100},
}
NAMES = {"cifar10": ("batches.meta.txt", 10), "cifar100": ("fine_label_names.txt", 100)}


def records(name: str, count: int, first: int = 0) -> np.ndarray:
    """(count, labels and pixels): fine labels go round, coarse ones are 7, pixels are random."""
    classes, before = NAMES[name][1], cifar.ARCHIVES[name].labels
    rows = RNG.integers(0, 256, (count, before + 3072), dtype=np.uint8)
    rows[:, 0] = 7
    rows[:, before - 1] = (first + np.arange(count)) % classes
    return rows


def packed(name: str) -> tuple[bytes, dict[str, np.ndarray]]:
    """An archive of the authors' form, and its records by member."""
    members = {member: records(name, count) for member, count in CONTENTS[name].items()}
    file, classes = NAMES[name]
    texts = {file: "".join(f"kind{i}\n" for i in range(classes)).encode() + b"\n", "readme.html": b"<html>"}
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as made:
        for member, content in [*texts.items(), *((m, rows.tobytes()) for m, rows in reversed(members.items()))]:
            info = tarfile.TarInfo(f"a-folder/{member}")
            info.size = len(content)
            made.addfile(info, io.BytesIO(content))
    return stream.getvalue(), members


class Server:
    """Serves one file, with ranges or without; may cut answers off."""

    def __init__(self, content: bytes) -> None:
        self.content, self.cut, self.ranges, self.asked = content, 0, True, list[str | None]()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked = self.headers.get("Range")
                server.asked.append(asked)
                start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and server.ranges else 0
                rest = server.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                self.wfile.write(rest[: server.cut or None])

            def log_message(self, *args: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def served(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Server]:
    """A server of the set that the test asks for, which the table of archives names."""
    name = getattr(request, "param", "cifar10")
    content, server_members = packed(name)
    server = Server(content)
    server.members = server_members  # type: ignore[attr-defined]
    archive = replace(
        cifar.ARCHIVES[name],
        url=f"{server.url}/{cifar.ARCHIVES[name].file}",
        sha256=hashlib.sha256(content).hexdigest(),
    )
    monkeypatch.setitem(cifar.ARCHIVES, name, archive)
    monkeypatch.setenv("POCKETVIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("POCKETVIT_DATA", raising=False)
    monkeypatch.chdir(tmp_path)
    yield server
    server.http.shutdown()


@pytest.mark.parametrize(("served", "name"), [("cifar10", "cifar10"), ("cifar100", "cifar100")], indirect=["served"])
def test_a_set_is_downloaded_once_and_read_as_it_is(served: Server, name: str) -> None:
    dataset = load(name, DataConfig(val_fraction=0.5), need_labels=True)
    members = served.members  # type: ignore[attr-defined]
    test = members[cifar.ARCHIVES[name].test[0]]
    before = cifar.ARCHIVES[name].labels
    assert dataset.classes == tuple(f"kind{i}" for i in range(NAMES[name][1]))
    assert dataset.test is not None
    np.testing.assert_array_equal(dataset.test.labels, test[:, before - 1])
    # Channel by channel there, pixel by pixel here.
    expected = test[:, before:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(dataset.test.images, expected)
    assert len(dataset.train) + len(dataset.val) == sum(CONTENTS[name][m] for m in cifar.ARCHIVES[name].train)
    load(name, DataConfig(val_fraction=0.5))
    assert served.asked == [None]


def test_a_transfer_that_was_cut_off_is_gone_on_with(served: Server) -> None:
    served.cut = 5000
    with pytest.raises(UserError, match=r"cannot be downloaded \(.*run again to go on, or put cifar-10-binary"):
        open_source("cifar10")
    served.cut = 0
    assert open_source("cifar10").sections["test"].count == 10
    assert served.asked == [None, "bytes=5000-"]


def test_a_server_without_ranges_sends_all_of_it_again(served: Server) -> None:
    served.cut = 5000
    with pytest.raises(UserError):
        open_source("cifar10")
    served.cut, served.ranges = 0, False
    assert open_source("cifar10").sections["train"].count == 100


def test_other_bytes_are_refused_and_not_kept(served: Server, tmp_path: Path) -> None:
    served.content = served.content[:-1] + bytes([served.content[-1] ^ 1])
    with pytest.raises(UserError, match="its SHA-256 is another"):
        open_source("cifar10")
    assert list((tmp_path / "cache" / "downloads").iterdir()) == []


def test_without_a_network_one_line_says_what_to_put_where(served: Server) -> None:
    served.http.shutdown()
    served.http.server_close()
    with pytest.raises(UserError, match=r"put cifar-10-binary\.tar\.gz or a folder 'cifar10' .* into \$POCKETVIT_DATA"):
        open_source("cifar10")


def test_an_archive_at_hand_comes_before_the_network(
    served: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data").mkdir()
    file = tmp_path / "data" / "cifar-10-binary.tar.gz"
    file.write_bytes(served.content)
    monkeypatch.setenv("POCKETVIT_DATA", str(tmp_path / "data"))
    assert str(file) in open_source("cifar10").notes[0]
    assert served.asked == []
    file.write_bytes(b"other")
    with pytest.raises(UserError, match="not the authors' archive"):
        open_source("cifar10")


def test_a_folder_of_that_name_comes_first(served: Server, class_folders, tmp_path: Path) -> None:
    class_folders(tmp_path / "cifar10")
    assert open_source("cifar10").classes == ("cat", "dog")
    assert served.asked == []
