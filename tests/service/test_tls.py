"""HTTPS: `sorl-serve` as a process with a certificate of a private authority, and clients that verify it."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from sorl_client import Client

from service.cli import main
from service.settings import load_settings
from tests.service.process import WAIT, served

Rows = Callable[[int], list[list[float]]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def files(authority: trustme.CA, tmp_path: Path) -> tuple[Path, Path]:
    """(certificate, private key) of 127.0.0.1."""
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "tls.crt"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "tls.key"))
    return tmp_path / "tls.crt", tmp_path / "tls.key"


def tls(files: tuple[Path, Path]) -> list[str]:
    return ["--ssl-certfile", str(files[0]), "--ssl-keyfile", str(files[1])]


def test_requests_over_https(
    checkpoint: Path,
    files: tuple[Path, Path],
    authority: trustme.CA,
    observations: Rows,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    body = {"observation": observations(1)[0], "seed": 1}
    with served("--model", str(checkpoint), *tls(files)) as server:
        server.wait_for("ready: small")
        url = f"https://127.0.0.1:{server.port}"
        with httpx.Client(base_url=url, verify=trusting, timeout=WAIT) as client:
            answers = [client.post("/act", json=body) for _ in range(3)]
            assert [answer.status_code for answer in answers] == [200, 200, 200]
            assert len({str(answer.json()["action"]) for answer in answers}) == 1
            assert client.get("/readyz").status_code == 200
        authority.cert_pem.write_to_path(str(tmp_path / "authority.pem"))
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
        with Client(url) as robot:
            assert robot.act(body["observation"], seed=1).action.tolist() == answers[0].json()["action"]
        monkeypatch.delenv("SSL_CERT_FILE")
        with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
            httpx.post(f"{url}/act", json=body, verify=ssl.create_default_context(), timeout=WAIT)
        with pytest.raises(httpx.HTTPError):
            httpx.post(f"http://127.0.0.1:{server.port}/act", json=body, timeout=WAIT)


@pytest.mark.slow
def test_a_handshake_that_does_not_come_is_not_waited_for(checkpoint: Path, files: tuple[Path, Path]) -> None:
    """uvicorn waits for a minute, and neither counts such a connection nor has a setting for it."""
    with (
        served("--model", str(checkpoint), *tls(files), "--request-seconds", "0.2") as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=WAIT / 2) as client,
    ):
        client.sendall(b"\x16\x03\x01")
        assert client.recv(1) == b""


@pytest.mark.parametrize("flag", ["--ssl-certfile", "--ssl-keyfile"])
def test_one_of_both_is_refused(flag: str) -> None:
    with pytest.raises(ValueError, match="ssl_certfile, ssl_keyfile: expected both or neither"):
        load_settings([flag, "tls.pem"])


@pytest.mark.parametrize("fault", ["missing", "text", "swapped", "strange", "passphrase"])
def test_a_bad_file_is_one_line(
    checkpoint: Path,
    files: tuple[Path, Path],
    authority: trustme.CA,
    tmp_path: Path,
    fault: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    certificate, key = files
    expected = "ssl_certfile, ssl_keyfile: expected a certificate and its own private key without a passphrase"
    match fault:
        case "missing":
            certificate = tmp_path / "none.crt"
            expected = f"ssl_certfile: {certificate} can't be read: No such file"
        case "text":
            certificate.write_text("no certificate")
        case "swapped":
            certificate, key = key, certificate
        case "strange":
            authority.issue_cert("127.0.0.1").private_key_pem.write_to_path(str(key))
        case "passphrase":
            private = serialization.load_pem_private_key(key.read_bytes(), None)
            key.write_bytes(
                private.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.BestAvailableEncryption(b"secret"),
                )
            )
    assert main(["--model", str(checkpoint), "--threads", "1", "--port", "0", *tls((certificate, key))]) == 1
    errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("sorl-serve: error")]
    assert len(errors) == 1
    assert errors[0].startswith(f"sorl-serve: error: {expected}")
