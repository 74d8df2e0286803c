"""Fetching weights: the real client against a hub of our own, and what is told when it fails."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlparse

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from neuroalign.config import parse_config
from neuroalign.config.video import Video
from neuroalign.errors import UserError
from neuroalign.video.weights import (
    BACKBONE_FILES,
    TENSOR_FILES,
    TOKENIZER_FILES,
    Request,
    backbone_request,
    fetch_weights,
    folder_problems,
    lacking,
    local_files,
    needed,
    weights_request,
)
from neuroalign.video.weights_record import open_weights

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub:
    """Repositories and how they are served.

    Attributes
    ----------
    repositories : dict of str to dict of str to bytes
        Files of each repository, by hub id.
    revisions : dict of str to str
        Commit of each revision that there is.
    gated : set of str
        Repositories that answer as gated ones do.
    broken : dict of str to int
        Files of which the first request gets only so many bytes.
    dies : bool
        Whether the hub fails from then on.
    lying : set of str
        Files whose listed checksum is not theirs.
    status : int, optional
        Answer to everything.
    requests : list of (method, path, range)
        What was asked for.
    """

    def __init__(self):
        self.repositories: dict[str, dict[str, bytes]] = {}
        self.revisions = {"main": COMMIT, COMMIT: COMMIT}
        self.gated: set[str] = set()
        self.broken: dict[str, int] = {}
        self.dies = False
        self.lying: set[str] = set()
        self.status: int | None = None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for."""
        return [
            path.rpartition("/")[2]
            for method, path, _ in self.requests
            if method == "GET" and "/resolve/" in path
        ]


@contextmanager
def serve():
    """A `Hub`, answering at ``hub.url`` until the block ends."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_HEAD(self):
            self._answer(body=False)

        def do_GET(self):
            self._answer(body=True)

        def _answer(self, body: bool) -> None:
            path = unquote(urlparse(self.path).path)
            hub.requests.append((self.command, path, self.headers.get("Range")))
            if hub.status:
                self._send(hub.status, b"", {}, body)
            elif path.startswith("/api/models/"):
                self._list(path.removeprefix("/api/models/"), body)
            else:
                self._file(path.removeprefix("/"), body)

        def _list(self, path: str, body: bool) -> None:
            repository, _, revision = path.partition("/revision/")
            if self._refused(repository, revision or "main", body):
                return
            siblings = []
            for name, content in hub.repositories[repository].items():
                entry = {"rfilename": name, "size": len(content), "blobId": hashlib.sha1(content).hexdigest()}
                if name.endswith(".safetensors"):
                    told = b"something else" if name in hub.lying else content
                    digest = hashlib.sha256(told).hexdigest()
                    entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
                siblings.append(entry)
            answer = {
                "id": repository,
                "modelId": repository,
                "sha": hub.revisions[revision or "main"],
                "siblings": siblings,
                "tags": [],
            }
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)

        def _file(self, path: str, body: bool) -> None:
            repository, _, rest = path.partition("/resolve/")
            revision, _, name = rest.partition("/")
            if self._refused(repository, revision, body):
                return
            content = hub.repositories[repository].get(name)
            if content is None:
                self._send(404, b"", {"X-Error-Code": "EntryNotFound"}, body)
                return
            headers = {
                "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
                "X-Repo-Commit": hub.revisions[revision],
                "Accept-Ranges": "bytes",
            }
            begin = self.headers.get("Range")
            if body and begin:
                first = int(begin.removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
                self._send(206, content[first:], headers, body)
            elif body and name in hub.broken:
                # The line goes dead in the middle of the file, and perhaps the hub with it.
                self.send_response(200)
                for key, value in headers.items():
                    self.send_header(key, value)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[: hub.broken.pop(name)])
                self.wfile.flush()
                hub.status = 503 if hub.dies else None
                self.close_connection = True
            else:
                self._send(200, content, headers, body)

        def _refused(self, repository: str, revision: str, body: bool) -> bool:
            if repository in hub.gated:
                self._send(403, b"", {"X-Error-Code": "GatedRepo"}, body)
            elif repository not in hub.repositories:
                # The hub does not tell strangers whether a repository is private or not there.
                self._send(401, b"", {"X-Error-Message": "Invalid username or password."}, body)
            elif revision not in hub.revisions:
                self._send(404, b"", {"X-Error-Code": "RevisionNotFound"}, body)
            else:
                return False
            return True

        def _send(self, status: int, content: bytes, headers: dict, body: bool) -> None:
            self.send_response(status)
            for key, value in headers.items():
                self.send_header(key, value)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if body:
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


TENSORS = bytes(range(256)) * 4000
FILES = {
    "config.json": b'{"model_type": "resnet"}',
    "preprocessor_config.json": b"{}",
    "model.safetensors": TENSORS,
    "pytorch_model.bin": b"a pickle",
    "modeling_evil.py": b"raise SystemExit",
    "tf_model.h5": b"keras",
    "README.md": b"# weights",
    "onnx/model.safetensors": b"for another library",
}
NEEDED = ["config.json", "model.safetensors", "preprocessor_config.json"]


@pytest.fixture
def hub(monkeypatch):
    """A hub with one good repository, to which the client in this process goes."""
    from huggingface_hub import constants

    with serve() as hub:
        hub.repositories["lab/resnet"] = dict(FILES)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setattr(
            constants,
            "HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        yield hub


def request_(weights="lab/resnet", revision=None, patterns=BACKBONE_FILES) -> Request:
    return Request(weights, revision, patterns, "video.weights")


def held(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def test_only_what_is_needed_is_fetched_and_recorded(hub, tmp_path):
    record = fetch_weights(request_(), tmp_path / "backbone")
    assert held(tmp_path / "backbone") == sorted([".fetched.json", "weights.json", *NEEDED])
    assert sorted(set(hub.fetched())) == NEEDED
    assert json.loads((tmp_path / "backbone/weights.json").read_text()) == record
    assert (record["weights"], record["revision"], record["commit"]) == ("lab/resnet", None, COMMIT)
    assert record["folder"] is None
    assert record["files"]["model.safetensors"] == {
        "size": len(TENSORS),
        "sha256": hashlib.sha256(TENSORS).hexdigest(),
    }
    assert (tmp_path / "backbone/model.safetensors").read_bytes() == TENSORS
    weights = open_weights(tmp_path / "backbone/weights.json")
    assert weights.folder == tmp_path / "backbone"
    assert weights.revision == f"lab/resnet@{COMMIT}"


def test_what_is_here_stays_without_the_hub_though_the_workflow_removed_the_record(hub, tmp_path):
    record = fetch_weights(request_(), tmp_path)
    (tmp_path / "weights.json").unlink()
    hub.status = 500
    seen = len(hub.requests)
    assert fetch_weights(request_(), tmp_path) == record
    assert len(hub.requests) == seen
    assert json.loads((tmp_path / "weights.json").read_text()) == record


def test_a_damaged_file_and_another_revision_are_fetched_anew(hub, tmp_path):
    fetch_weights(request_(), tmp_path)
    (tmp_path / "model.safetensors").write_bytes(TENSORS[:-1] + b"x")
    fetch_weights(request_(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == TENSORS
    hub.revisions["v2"] = hub.revisions["f" * 40] = "f" * 40
    hub.repositories["lab/resnet"]["model.safetensors"] = b"second"
    assert fetch_weights(request_(revision="v2"), tmp_path)["commit"] == "f" * 40
    assert (tmp_path / "model.safetensors").read_bytes() == b"second"


def test_nothing_of_earlier_weights_stays_beside_the_new(hub, tmp_path):
    fetch_weights(request_(), tmp_path)
    hub.repositories["lab/shards"] = {
        "config.json": b"{}",
        "video_preprocessor_config.json": b"{}",
        "model.safetensors.index.json": b"{}",
        "model-00001-of-00002.safetensors": b"1",
        "model-00002-of-00002.safetensors": b"2",
    }
    record = fetch_weights(request_("lab/shards"), tmp_path)
    assert held(tmp_path) == sorted([".fetched.json", "weights.json", *hub.repositories["lab/shards"]])
    assert set(record["files"]) == set(hub.repositories["lab/shards"])


def test_a_line_that_drops_is_taken_up_within_the_file(hub, tmp_path):
    hub.broken["model.safetensors"] = 500_000
    fetch_weights(request_(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == TENSORS
    ranges = [r for method, path, r in hub.requests if method == "GET" and path.endswith("model.safetensors")]
    assert len(ranges) == 2


def test_a_download_that_failed_goes_on_with_the_file_it_was_in(hub, tmp_path):
    hub.broken["model.safetensors"], hub.dies = 500_000, True
    with pytest.raises(UserError, match="hub answered with 503"):
        fetch_weights(request_(), tmp_path)
    # Nothing looks whole.
    assert not (tmp_path / "weights.json").exists()
    assert not (tmp_path / "model.safetensors").exists()
    hub.status = None
    hub.requests.clear()
    fetch_weights(request_(), tmp_path)
    assert (tmp_path / "model.safetensors").read_bytes() == TENSORS
    assert set(hub.fetched()) == {"model.safetensors", "preprocessor_config.json"}
    assert not (tmp_path / ".partial").exists()


def test_a_file_that_is_not_what_the_hub_lists_is_refused(hub, tmp_path):
    hub.lying.add("model.safetensors")
    with pytest.raises(UserError, match="arrived damaged"):
        fetch_weights(request_(), tmp_path)
    assert not (tmp_path / "weights.json").exists()


@pytest.mark.parametrize(
    ("weights", "revision", "words"),
    [
        ("lab/none", None, r"lab/none \(video.weights\) are not on the hub, or private: correct the id"),
        ("lab/gated", None, "are gated: accept their terms"),
        ("lab/resnet", "v9", "no revision 'v9'; set video.revision"),
        ("lab/pickle", None, r"has no model.safetensors \(it has pytorch_model.bin, which may run code"),
        ("lab/bare", None, "has no config.json"),
        ("lab/blind", None, "has no preprocessor_config.json"),
        ("lab:resnet", None, "neither a folder nor a hub id"),
        ("./none", None, "is not a folder"),
    ],
)
def test_what_cannot_be_fetched_is_one_sentence(hub, tmp_path, weights, revision, words):
    hub.repositories["lab/gated"] = dict(FILES)
    hub.gated.add("lab/gated")
    hub.repositories["lab/pickle"] = {"config.json": b"{}", "pytorch_model.bin": b"x"}
    hub.repositories["lab/blind"] = {"model.safetensors": b"x", "config.json": b"{}"}
    hub.repositories["lab/bare"] = {"model.safetensors": b"x"}
    with pytest.raises(UserError, match=words) as caught:
        fetch_weights(request_(weights, revision), tmp_path)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "weights.json").exists()
    assert not hub.fetched()


def test_without_internet_the_way_out_is_told(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    # A port at which nothing listens.
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match="does not reach the hub; run `neuroalign weights --config FILE`"):
        fetch_weights(request_(), tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
        fetch_weights(request_(), tmp_path)


def test_a_full_disk_is_told_before_and_while_it_fills(hub, tmp_path, monkeypatch):
    from neuroalign.video import hub as client

    usage = client.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(client.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(UserError, match=r"0\.0 GB are free in"):
        fetch_weights(request_(), tmp_path)
    assert not hub.fetched()
    monkeypatch.undo()

    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(client, "describe_files", full)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
    monkeypatch.setattr(
        "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
        hub.url + "/{repo_id}/resolve/{revision}/{filename}",
    )
    with pytest.raises(UserError, match=r"the disk of .* is full"):
        fetch_weights(request_(), tmp_path)


def test_a_local_folder_is_used_where_it_is(tmp_path):
    local, folder = tmp_path / "mine", tmp_path / "out/weights/backbone"
    local.mkdir()
    for name, content in FILES.items():
        if "/" not in name and name != "model.safetensors":
            (local / name).write_bytes(content)
    # As in the hub's own cache: the file is a link to a blob elsewhere.
    (tmp_path / "blob").write_bytes(TENSORS)
    (local / "model.safetensors").symlink_to(tmp_path / "blob")
    record = fetch_weights(request_(str(local), "ignored"), folder)
    assert held(folder) == [".fetched.json", "weights.json"][1:]
    assert (record["commit"], record["revision"], record["folder"]) == (None, None, str(local))
    assert sorted(record["files"]) == NEEDED
    weights = open_weights(folder)
    assert weights.folder == local
    assert weights.revision.startswith(f"{local}@sha256:")
    (tmp_path / "blob").write_bytes(TENSORS[:-1])
    with pytest.raises(UserError, match=r"remove .*weights\.json and fetch"):
        open_weights(folder)
    assert open_weights(local).revision != weights.revision
    (local / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json is missing; remove"):
        open_weights(folder)


def test_what_a_local_folder_lacks_is_told(tmp_path):
    assert len(list(folder_problems(request_(str(tmp_path))))) == 3
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "video_preprocessor_config.json").touch()
    (problem,) = folder_problems(request_(str(tmp_path)))
    assert "holds no model.safetensors" in problem
    (tmp_path / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    (problem,) = folder_problems(request_(str(tmp_path)))
    assert "pointer to content that is not here" in problem


def test_another_family_s_folder_is_told_before_anything_runs(tmp_path):
    for name in ("preprocessor_config.json", "model.safetensors"):
        (tmp_path / name).touch()
    request = backbone_request(Video(backbone="clip", weights=str(tmp_path)))
    (tmp_path / "config.json").write_text('{"model_type": "dinov2"}')
    (problem,) = folder_problems(request)
    assert "are of a dinov2 model, and this backbone needs clip or clip_vision_model" in problem
    for content, words in (("[]", "no configuration"), ("{", "not valid JSON")):
        (tmp_path / "config.json").write_text(content)
        (problem,) = folder_problems(request)
        assert words in problem
    (tmp_path / "config.json").write_text('{"model_type": "clip_vision_model"}')
    assert not list(folder_problems(request))
    # A whole processor's file holds the preprocessing, too.
    (tmp_path / "preprocessor_config.json").rename(tmp_path / "processor_config.json")
    assert not list(folder_problems(request))
    assert "processor_config.json" in {path.name for path in local_files(request)}


def test_needed_files():
    assert needed(FILES, BACKBONE_FILES) == NEEDED
    shards = ["model.safetensors.index.json", "model-00001-of-00001.safetensors"]
    assert needed(shards, BACKBONE_FILES) == sorted(shards)
    assert needed([*shards, "model.safetensors", "model.fp16.safetensors"], BACKBONE_FILES) == [
        "model.safetensors"
    ]
    assert needed(["1_Pooling/config.json", "config.json"], ("config.json",)) == ["config.json"]


def test_a_model_of_words_needs_a_vocabulary_of_any_kind():
    patterns = ("config.json", *TENSOR_FILES, *TOKENIZER_FILES)
    assert lacking([], patterns) == ["config.json", "tokenizer.json", "model.safetensors"]
    for vocabulary in ("tokenizer.json", "vocab.txt", "spiece.model"):
        names = ["config.json", "model-00001-of-00001.safetensors", vocabulary]
        assert lacking(needed(names, patterns), patterns) == []


@given(
    st.lists(st.sampled_from([*FILES, "a.pt", "b.pkl", "c/d.ckpt", "../x.json", "weights.bin"]), max_size=8)
)
def test_nothing_that_runs_code_is_ever_needed(names):
    for name in needed(names, ("*", "*/*", "*.bin", "*.py")):
        assert name.endswith((".json", ".safetensors", ".md")), name


def test_requests_follow_the_configuration():
    demo = {"dataset": {"simulate": {}}}
    assert weights_request(parse_config(demo)) == {}
    (role, request), *none = weights_request(parse_config({**demo, "video": {"backbone": "dinov2"}})).items()
    assert (role, request.weights, request.revision, none) == ("backbone", "facebook/dinov2-base", None, [])
    video = {"backbone": "clip", "weights": "lab/clip", "revision": "v1"}
    request = weights_request(parse_config({**demo, "video": video}))["backbone"]
    assert (request.weights, request.revision) == ("lab/clip", "v1")
    assert request.model_types == ("clip", "clip_vision_model")
    assert (
        Request(**{k: tuple(v) if isinstance(v, list) else v for k, v in request.plain().items()}) == request
    )


def test_the_command_fetches_what_the_configuration_needs(hub, tmp_path):
    """The whole way, in a process of its own that knows the hub by its address only."""
    values = {
        "output_dir": str(tmp_path / "out"),
        "dataset": {"simulate": {}},
        "video": {"backbone": "resnet101", "weights": "lab/resnet", "revision": "main"},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    command = [sys.executable, "-m", "neuroalign", "weights", "--config", str(tmp_path / "config.yaml")]
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home")}
    environment.pop("HF_HUB_OFFLINE", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"backbone: lab/resnet at {COMMIT}, 1.0 MB")
    assert sorted(set(hub.fetched())) == NEEDED
    assert open_weights(tmp_path / "out/weights/backbone").revision == f"lab/resnet@{COMMIT}"
    hub.repositories.clear()
    hub.status = 401
    (tmp_path / "out/weights/backbone/config.json").unlink()
    failed = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert failed.returncode == 1
    assert "neuroalign: the weights lab/resnet (video.weights) are not on the hub" in failed.stderr
    assert "Traceback" not in failed.stderr
