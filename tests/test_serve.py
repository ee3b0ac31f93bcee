"""The served page: to this machine alone, no file but the page, and alive while the run goes on."""

import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading

import pytest
from browser import Watched, artifact, open_browser
from made_run import write_run

from hfseg.errors import CheckpointError, ConfigError
from hfseg.recipes import serve
from hfseg.viz import live

pytestmark = pytest.mark.slow


@pytest.fixture
def run_dir(tmp_path):
    """A run under way: it has a log and no scores."""
    run_dir = write_run(tmp_path / "street scenes")
    (run_dir / "metrics.json").rename(run_dir / "metrics.later")
    (run_dir / "secret.txt").write_text("secret")
    return run_dir


@pytest.fixture
def server(run_dir):
    with serve.open_server(run_dir, 0) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def get(server, path, **headers):
    connection = http.client.HTTPConnection(serve.HOST, server.server_port, timeout=30)
    connection.request("GET", path, headers=headers)
    answer = connection.getresponse()
    body = answer.read().decode()
    connection.close()
    return answer.status, answer.headers, body


def log_a_step(run_dir, step):
    record = {"event": "train", "step": step, "epoch": 6, "lr": 6e-5, "loss": 0.01}
    log = run_dir / "log.jsonl"
    log.write_text(log.read_text().rpartition("\n")[0] + "\n" + json.dumps(record) + "\n")


def test_the_server_is_bound_to_this_machine_alone(server):
    assert server.server_address[0] == "127.0.0.1"
    assert server.url == f"http://127.0.0.1:{server.server_port}/"


def test_the_page_may_ask_its_own_server_and_nobody_else(server, run_dir):
    status, headers, html = get(server, "/")
    assert status == 200
    assert "connect-src 'self'" in html
    assert headers["Content-Security-Policy"] == "frame-ancestors 'none'"
    assert headers["Cache-Control"] == "no-store"
    assert "street scenes" in html
    assert not (run_dir / "report.html").exists()


@pytest.mark.parametrize(
    "path",
    [
        "/secret.txt",
        "/log.jsonl",
        "/../secret.txt",
        "/..%2fsecret.txt",
        "//secret.txt",
        "/plots/",
        "/pieces.json/..",
        "/.",
    ],
)
def test_no_file_of_the_run_is_served(server, path):
    status, _, body = get(server, path)
    assert (status, "secret" in body) == (404, False)


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1", "localhost:1", ""])
def test_another_name_for_this_machine_is_refused(server, host):
    assert [get(server, path, Host=host)[0] for path in ("/", "/pieces.json")] == [403, 403]


def test_localhost_is_a_name_of_this_machine(server):
    assert get(server, "/", Host=f"localhost:{server.server_port}")[0] == 200


def test_what_has_not_changed_is_not_sent_and_what_was_logged_is(server, run_dir):
    stamp = re.search(r'data-stamp="([^"]+)"', get(server, "/")[2])[1]
    assert get(server, f"/pieces.json?since={stamp}")[::2] == (204, "")
    log_a_step(run_dir, 61)
    status, headers, body = get(server, f"/pieces.json?since={stamp}")
    fresh = json.loads(body)
    assert (status, headers["Content-Type"]) == (200, "application/json; charset=utf-8")
    assert set(fresh["pieces"]) == {"summary-piece", "curves-piece"}
    assert "Training loss" in fresh["pieces"]["curves-piece"]
    assert "at step 61" in fresh["pieces"]["curves-piece"]
    assert get(server, f"/pieces.json?since={fresh['stamp']}")[0] == 204


def test_scores_ask_for_the_whole_page_again(server, run_dir):
    stamp = re.search(r'data-stamp="([^"]+)"', get(server, "/")[2])[1]
    (run_dir / "metrics.later").rename(run_dir / "metrics.json")
    assert json.loads(get(server, f"/pieces.json?since={stamp}")[2]) == {"reload": True}


def test_a_damaged_file_is_named_and_the_server_goes_on(server, run_dir):
    whole = (run_dir / "log.jsonl").read_text()
    (run_dir / "log.jsonl").write_text("{\n{}\n")
    status, _, body = get(server, "/")
    assert (status, "is damaged in line 1" in body) == (503, True)
    (run_dir / "log.jsonl").write_text(whole)
    assert get(server, "/")[0] == 200


def test_a_port_in_use_and_a_folder_that_is_no_run_are_errors(server, run_dir, tmp_path):
    with pytest.raises(ConfigError, match=f"port {server.server_port} of 127.0.0.1 is in use"):
        serve.open_server(run_dir, server.server_port)
    with pytest.raises(CheckpointError, match="does not exist"):
        serve.open_server(tmp_path / "nowhere", 0)


def test_a_browser_that_goes_away_leaves_no_traceback(server, capfd):
    with socket.create_connection(server.server_address) as connection:
        connection.sendall(f"GET / HTTP/1.0\r\nHost: 127.0.0.1:{server.server_port}\r\n\r\n".encode())
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close by reset
    assert get(server, "/pieces.json?since=x")[0] == 200
    assert "Traceback" not in capfd.readouterr().err


def test_curves_in_a_browser_follow_the_run_and_its_end_brings_the_scores(server, run_dir, monkeypatch):
    monkeypatch.setattr(live, "PAUSE_MS", 100)
    with open_browser() as browser:
        watched = Watched(browser.new_context())
        page = watched.page
        page.goto(server.url)
        assert page.get_by_text("mIoU", exact=True).is_visible()
        log_a_step(run_dir, 61)
        page.locator("#curves-piece").get_by_text("at step 61").first.wait_for()
        page.screenshot(path=artifact("served_while_a_run_is_under_way.png"))
        (run_dir / "metrics.later").rename(run_dir / "metrics.json")
        page.get_by_role("application").wait_for()
        assert page.locator("#live").inner_text().startswith("live")
        server.shutdown()
        server.server_close()
        page.locator("#live.lost").wait_for()
        strangers = [url for url in watched.requests if not url.startswith((server.url, "data:"))]
    assert strangers == []
    assert [text for text in watched.complaints if "net::ERR_" not in text] == []


def test_control_c_ends_the_command_in_peace(run_dir):
    command = [sys.executable, "-m", "hfseg", "report", str(run_dir), "--serve", "--port", "0", "--no-browser"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as served:
        assert re.match(r"http://127\.0\.0\.1:\d+/ shows `.*street scenes` to this machine", served.stderr.readline())
        served.send_signal(signal.SIGINT)
        assert served.stderr.read() == "the page is no longer served\n"
    assert served.returncode == 0


def test_flags_of_the_server_do_nothing_without_it(run_dir):
    command = [sys.executable, "-m", "hfseg", "report", str(run_dir), "--port", "0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (2, "error: --port has no effect without --serve")
