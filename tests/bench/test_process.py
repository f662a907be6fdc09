"""`ServerProcess`, with small scripts as servers."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path

import pytest

from bench.process import ServerProcess, addresses, cpu_seconds, memory_mib, serving, sorl_serve_ready
from bench.protocols import ServerAddress

READY = "print('listening on http://127.0.0.1:4567', flush=True); print('ready: it', flush=True)"


def script(*lines: str) -> list[str]:
    return [sys.executable, "-c", "\n".join(["import os, signal, subprocess, sys", *lines])]


def test_wait_until_ready_returns_the_url() -> None:
    assert sorl_serve_ready("") is None
    assert sorl_serve_ready("INFO x: listening on http://127.0.0.1:4567\n") is None
    assert (
        sorl_serve_ready("listening on http://127.0.0.1:4567\nINFO x: ready: cube on cpu\n") == "http://127.0.0.1:4567"
    )


def test_a_server_runs_until_the_block_ends() -> None:
    with serving(script(READY, "signal.pause()")) as server:
        assert server.url == "http://127.0.0.1:4567"
        os.kill(server.pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(server.pid, 0)


def test_addresses_are_those_of_every_protocol() -> None:
    groot = "print('listening on tcp://127.0.0.1:5555 (GR00T)', flush=True)"
    grpc = "print('listening on grpc://127.0.0.1:8001', flush=True)"
    at = "http://127.0.0.1:4567", "ws://127.0.0.1:4567/openpi"
    with serving(script(groot, grpc, READY, "signal.pause()")) as server:
        assert addresses(server) == ServerAddress(*at, "tcp://127.0.0.1:5555", "grpc://127.0.0.1:8001")
    with serving(script(READY, "signal.pause()")) as server:
        assert addresses(server) == ServerAddress(*at, None, None)


def test_cpu_seconds_are_those_of_all_threads() -> None:
    before = cpu_seconds(os.getpid())
    begin, ended = time.thread_time(), threading.Event()

    def work() -> None:
        while time.thread_time() < 0.05:
            pass
        worked.set()
        ended.wait()  # a thread that has ended no longer counts

    worked = threading.Event()
    thread = threading.Thread(target=work)
    thread.start()
    worked.wait()
    spent = cpu_seconds(os.getpid()) - before
    ended.set()
    thread.join()
    assert 0.05 <= spent <= 0.05 + time.thread_time() - begin + 0.1


def test_stop_returns_exit_status_and_log() -> None:
    lines = ["signal.signal(signal.SIGTERM, lambda *_: (print('draining', flush=True), sys.exit(3)))", READY]
    server = ServerProcess(script(*lines, "while True: signal.pause()"))
    server.wait_until_ready(sorl_serve_ready)
    status, log = server.stop()
    assert status == 3
    assert log.splitlines()[-1] == "draining"


@pytest.mark.parametrize(
    "lines",
    [["sys.exit('no such file: x')"], ["print('no such file: x; stays not ready', flush=True)", "signal.pause()"]],
)
def test_the_error_of_a_server_that_can_not_start_has_its_log(lines: list[str]) -> None:
    with pytest.raises(RuntimeError, match="did not become ready:\nno such file: x"), serving(script(*lines)):
        pass


def test_workers_end_with_their_server(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker = f"import signal; file = open({str(fifo)!r}, 'w'); print('up', file=file, flush=True); signal.pause()"
    with serving(script(f"worker = subprocess.Popen([sys.executable, '-c', {worker!r}])", READY, "signal.pause()")) as (
        server
    ):
        file = fifo.open()  # waits for the worker
        assert file.readline() == "up\n"
        assert memory_mib(server.pid) > 1.2 * memory_mib_alone(server.pid)
    with file:
        assert file.read() == ""  # ends when the worker does


def memory_mib_alone(pid: int) -> float:
    pss = next(line for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines() if line.startswith("Pss:"))
    return int(pss.split()[1]) / 1024


def test_memory_is_at_most_the_resident_size() -> None:
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    assert 0 < memory_mib(os.getpid()) <= 1.05 * resident
    assert memory_mib(2**22 + 1) == 0.0
