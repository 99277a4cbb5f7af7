"""A run seen from outside: its state, the lines, the page on 127.0.0.1, and the exit code of the run."""

import http.client
import json
import os
import signal
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from command_line import call, small_file
from hypothesis import given
from hypothesis import strategies as st

import fedunlearn
from fedunlearn.console import Screen
from fedunlearn.errors import BadInput
from fedunlearn.ledger import Ledger
from fedunlearn.run_folder import RunFolder, is_locked
from fedunlearn.run_progress import RunProgress, read_progress, write_progress
from fedunlearn.watch.server import PageServer
from fedunlearn.watch.terminal import new_lines, picture
from fedunlearn.watch.view import RunView, RunWatcher


def row(number: int, phase: str = "learn", **more: Any) -> dict[str, Any]:
    return {"round": number, "phase": phase, "refused": 0, "requests": [], "test_uar": number / 10} | more


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunFolder]:
    """A run folder that this process plays."""
    run = RunFolder(tmp_path / "run")
    run.create()
    run.config.write_text("seed = 1\n")
    yield run
    run.unlock()


# ---- what is seen ----------------------------------------------------------------------------------------


def test_a_run_is_seen_from_its_first_moment_to_its_end(run: RunFolder) -> None:
    watcher = RunWatcher(run.path)
    assert watcher.look() == RunView(name="run", status="preparing")
    write_progress(run.progress, RunProgress(phase="learn", done=2, total=30))
    for number in (1, 2):
        run.append_metrics(row(number))
    with Ledger(run.ledger, b"salt" * 4) as ledger:
        for request, client, state in (("a", 1, "raised"), ("b", 2, "raised"), ("a", 1, "verified")):
            ledger.append(request, client, 2, state)
        seen = watcher.look()
    assert (seen.status, seen.phase, seen.done, seen.total) == ("running", "Learning", 2, 30)
    assert [(r.round, r.test_uar, r.unseen_uar) for r in seen.rounds] == [(1, 0.1, None), (2, 0.2, None)]
    assert seen.requests == {"raised": 1, "verified": 1}
    with run.metrics.open("a") as file:
        file.write('{"round": 3, "phase"')  # half a line: the run is writing
    assert len(watcher.look().rounds) == 2
    with run.metrics.open("a") as file:
        file.write(': "unlearn"}\n')
    assert [r.phase for r in watcher.look().rounds] == ["learn", "learn", "unlearn"]
    run.unlock()
    run.write_results({"status": "partial", "failure": "request b: waits"})
    seen = watcher.look()
    assert (seen.status, seen.failure, seen.has_ended) == ("partial", "request b: waits", True)


def test_rounds_that_a_resumed_run_repeats_are_seen_once(run: RunFolder) -> None:
    watcher = RunWatcher(run.path)
    for number in (1, 2, 3):
        run.append_metrics(row(number))
    assert len(watcher.look().rounds) == 3
    run.truncate_metrics(1)
    run.append_metrics(row(2, test_uar=0.9))
    assert [r.test_uar for r in watcher.look().rounds] == [0.1, 0.9]


def test_a_run_whose_process_is_gone_has_stopped_and_no_other(run: RunFolder) -> None:
    write_progress(run.progress, RunProgress(phase="learn", done=2, total=30))
    watcher = RunWatcher(run.path, silence=0.0)
    watcher.look()
    time.sleep(0.01)
    assert watcher.look().status == "running", "silent, but its process holds the lock"
    run.unlock()
    time.sleep(0.01)
    seen = watcher.look()
    assert seen.status == "stopped" and "--resume" in seen.failure


def test_a_run_that_is_being_resumed_has_not_ended(run: RunFolder) -> None:
    write_progress(run.progress, RunProgress(status="failed", phase="learn"))
    run.write_results({"status": "failed", "failure": "killed"})
    assert RunWatcher(run.path).look().status == "preparing"
    run.unlock()
    assert RunWatcher(run.path).look().status == "failed"


def test_a_run_of_an_older_version_has_ended(run: RunFolder) -> None:
    run.write_results({"status": "complete", "failure": None})
    run.unlock()
    assert not run.progress.exists() and RunWatcher(run.path).look().status == "complete"


def test_a_folder_without_a_run_is_one_line(tmp_path: Path) -> None:
    code, said = call("watch", tmp_path)
    assert code == 2 and " ".join(said.split()).startswith(f"error: {tmp_path}: holds no run")
    code, said = call("watch", tmp_path, "--port", "80")
    assert code == 2 and "--port: is of the page; give --serve as well" in said


@given(
    progress=st.builds(
        RunProgress, phase=st.text(max_size=9), done=st.integers(0), total=st.none() | st.integers(0)
    )
)
def test_progress_comes_back_as_it_went_in(
    progress: RunProgress, tmp_path_factory: pytest.TempPathFactory
) -> None:
    file = tmp_path_factory.getbasetemp() / "progress.json"
    write_progress(file, progress)
    assert read_progress(file) == progress


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"done": -1}', b'{"format": 2}', b"\xff"])
def test_a_damaged_progress_file_is_as_good_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "progress.json").write_bytes(content)
    assert read_progress(tmp_path / "progress.json") is None
    assert read_progress(tmp_path / "none.json") is None


# ---- the terminal ----------------------------------------------------------------------------------------


def view(rounds: int, **more: Any) -> RunView:
    rows = [row(number) for number in range(1, rounds + 1)]
    return RunView.model_validate(
        {"name": "run", "status": "running", "phase": "Learning", "rounds": rows} | more
    )


def test_lines_say_only_what_is_new() -> None:
    said = list(new_lines(None, view(2)))
    assert said == ["run: Learning", "learn 1, test UAR 0.100", "learn 2, test UAR 0.200"]
    assert list(new_lines(view(2), view(2))) == []
    assert list(new_lines(view(2), view(3, requests={"raised": 2}))) == [
        "learn 3, test UAR 0.300",
        "Deletion requests: 2 raised",
    ]
    assert list(new_lines(view(3), view(1))) == ["learn 1, test UAR 0.100"]  # resumed


def test_the_picture_has_the_latest_rounds_and_shows_names_literally() -> None:
    screen = Screen(width=100, record=True, file=StringIO())
    screen.print(picture(view(20, name="[red]run\x1b[2J", total=30, done=20)))
    text = screen.export_text()
    assert "20/30" in text and "0.900" not in text and "2.000" in text and "1.200" not in text
    assert "[red]run\\x1b[2J" in text


# ---- the page --------------------------------------------------------------------------------------------


@pytest.fixture
def page(tmp_path: Path) -> Iterator[PageServer]:
    (tmp_path / "secret.txt").write_text("secret")
    with PageServer(lambda: view(2), tmp_path / "report.html", 0) as server:
        yield server


def ask(
    page: PageServer | int, address: str, host: str | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    port = page if isinstance(page, int) else page.port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.putrequest(method, address, skip_host=True)
        connection.putheader("Host", host or f"127.0.0.1:{port}")
        connection.endheaders()
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def test_the_page_loads_nothing_from_elsewhere(page: PageServer) -> None:
    for address in ("/", "/page.js", "/page.css"):
        status, headers, content = ask(page, address)
        assert status == 200 and b"://" not in content.replace(b"http://www.w3.org/2000/svg", b"")
        assert "default-src 'none'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff" and headers["Cache-Control"] == "no-store"


def test_the_state_is_what_is_seen(page: PageServer) -> None:
    status, headers, content = ask(page, "/state?x=1")
    assert status == 200 and headers["Content-Type"] == "application/json"
    assert RunView.model_validate(json.loads(content)) == view(2)
    assert page.has_visitor and not page.gave_report
    assert ask(page, "/state", method="HEAD")[2] == b""


def test_the_report_is_there_once_the_run_has_left_it(page: PageServer, tmp_path: Path) -> None:
    assert ask(page, "/report.html")[0] == 404
    (tmp_path / "report.html").write_text("<p>the report")
    status, headers, content = ask(page, "/report.html")
    assert (status, content) == (200, b"<p>the report")
    assert "script" not in headers["Content-Security-Policy"] and page.gave_report


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost:1", "127.0.0.1.evil.example:80", ""]
)
def test_another_host_name_is_refused(page: PageServer, host: str) -> None:
    assert ask(page, "/state", host or "x")[0] == 403
    assert ask(page, "/state", f"localhost:{page.port}")[0] == 200


@pytest.mark.parametrize(
    "address",
    [
        "/secret.txt",
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "//secret.txt",
        "/page.html",
        "/report.html/../secret.txt",
    ],
)
def test_nothing_else_of_the_folder_can_be_fetched(page: PageServer, address: str) -> None:
    status, _, content = ask(page, address)
    assert status == 404 and b"secret\n" not in content and content != b"secret"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_the_page_only_reads(page: PageServer, method: str) -> None:
    assert ask(page, "/state", method=method)[0] == 501


def test_a_port_that_is_taken_is_one_line(page: PageServer, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=rf"--port {page.port}: cannot be used \(Address already in use\)"):
        PageServer(lambda: view(1), tmp_path / "report.html", page.port)


# ---- whole runs ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("undrawn")
def test_watching_ends_with_the_run_and_its_exit_code(tmp_path: Path) -> None:
    """A small run is watched from its first moment."""
    out = tmp_path / "run"
    config = fedunlearn.load_config(
        small_file(tmp_path, evaluation__retrained_seeds=1, evaluation__relearn_steps=0)
    )
    playing = threading.Thread(target=fedunlearn.run, args=(config, out))
    playing.start()
    while not (out / "config.toml").is_file():
        time.sleep(0.02)
        assert playing.is_alive()
    code, said = call("watch", out, "--every", "0.1", "--serve")
    playing.join()
    assert code == 0, said
    lines = said.splitlines()
    assert lines[0].startswith("Page: http://127.0.0.1:") and lines[-1] == f"complete: {out}"
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    told = [line.split(",")[0] for line in lines if line.split(" ")[0] in {r["phase"] for r in rows}]
    assert told == [f"{r['phase']} {r['round']}" for r in rows]
    assert any(line.startswith("run: ") for line in lines)  # which steps are seen depends on their lengths
    progress = read_progress(out / "progress.json")
    assert progress is not None and progress.status == "complete"


@pytest.mark.parametrize(("status", "expected"), [("complete", 0), ("partial", 3), ("failed", 3)])
def test_an_ended_run_has_its_exit_code(run: RunFolder, status: str, expected: int) -> None:
    write_progress(run.progress, RunProgress(phase="learn"))
    run.unlock()
    run.write_results(
        {"status": status, "failure": None if status == "complete" else "round 3: nobody answered"}
    )
    code, said = call("watch", run.path)
    assert code == expected
    assert (f"{status}: round 3: nobody answered" if expected else f"complete: {run.path}") in said


def test_an_open_page_gets_the_report_before_the_watching_ends(run: RunFolder) -> None:
    """The report is drawn after the results: a browser that has asked once is waited for."""
    write_progress(run.progress, RunProgress(phase="learn"))
    said: list[tuple[int, str]] = []
    with socketserver.TCPServer(("127.0.0.1", 0), socketserver.BaseRequestHandler) as free:
        port = free.server_address[1]
    command = ("watch", run.path, "--every", "0.1", "--serve", "--port", str(port))
    watching = threading.Thread(target=lambda: said.append(call(*command)))
    watching.start()
    for _ in range(100):
        with suppress(ConnectionRefusedError):
            ask(port, "/state")
            break
        time.sleep(0.05)
    run.unlock()
    run.write_results({"status": "complete", "failure": None})
    time.sleep(0.3)
    assert watching.is_alive() and ask(port, "/report.html")[0] == 404
    run.report.write_text("<p>the report")
    assert json.loads(ask(port, "/state")[2])["has_page"]
    assert ask(port, "/report.html")[2] == b"<p>the report"
    watching.join(5)
    assert said and said[0][0] == 0


def test_ctrl_c_ends_the_watching_alone(run: RunFolder) -> None:
    write_progress(run.progress, RunProgress(phase="learn"))
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    code, said = call("watch", run.path, "--every", "0.1")
    timer.join()
    assert code == 3 and "interrupted: no longer watching; the run goes on" in said and is_locked(run.path)
