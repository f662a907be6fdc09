"""Settings of the server, by flag (`--max-batch 16`) or environment (`SORL_MAX_BATCH=16`). They make `--help` too."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict, SettingsError

ENV_PREFIX = "SORL_"
SECRET = ("api_key", "admin_key", "keys")


def shipped_policy() -> Path:
    """The policy that is installed with the server. Raises ValueError if this installation has none."""
    path = Path(str(files("deploy"))) / "policies" / "cube-single.safetensors"
    if not path.is_file():
        raise ValueError("model: this installation has no policy of its own; say which to serve with --model FILE")
    return path


class Settings(BaseSettings):
    """Serve a policy over HTTP. Every flag is also an environment variable: --max-batch is SORL_MAX_BATCH."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX,
        extra="forbid",
        frozen=True,
        cli_prog_name="sorl-serve",
        cli_kebab_case=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        protected_namespaces=(),
    )

    model: Path = Field(
        default_factory=shipped_policy,
        description="checkpoint to serve, or a folder: every *.safetensors in it, each under its policy's own name; "
        "left out, the cube-single policy that is installed with the server",
    )
    default_model: str | None = Field(
        None,
        description="name of the policy for requests that name none; left out, the first in alphabetical order",
    )
    version_grace_seconds: float = Field(
        60.0,
        ge=0,
        allow_inf_nan=False,
        description="after a reload the version before stays in memory this long, for requests with its model_version",
    )
    host: str = Field("127.0.0.1", description="address to bind; 0.0.0.0 is every interface")
    port: int = Field(8000, ge=0, le=65535, description="port to bind; 0 takes a free one and logs it")
    openpi_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port at which every path is openpi's websocket protocol, for its client, which takes no path; 0 "
        "takes a free one and logs it; left out, there is /openpi on the HTTP port",
    )
    zmq_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for GR00T's clients over ZeroMQ (extra 'zmq'); 0 takes a free one and logs it; left out, off",
    )
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port for the Open Inference Protocol over gRPC (extra 'grpc'); 0 takes a free one and logs it; "
        "left out, off",
    )
    backend: Literal["auto", "triton", "cpu", "reference"] = Field(
        "auto", description="what computes; one asked for by name that can't run is an error"
    )
    triton_replay: Literal["exact", "fastest"] = Field(
        "exact",
        description="backend triton: exact gives a request the same bits in any company; fastest picks the kernel by "
        "the batch's size, and actions differ by up to 1e-3 with it",
    )
    triton_split: bool = Field(
        False,
        description="backend triton: spread small batches over the whole card; for networks of 512 and wider, which "
        "take 113 in place of 269 us with it (H100)",
    )
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of hidden products; auto is the backend's own default for this machine"
    )
    threads: int = Field(
        0,
        ge=0,
        description="compute threads; 0 is all cores for the native engine, and all but the event loop's for torch",
    )
    max_candidates: int = Field(4096, ge=1, description="largest num_candidates of a request")
    max_steps: int = Field(1024, ge=1, description="largest num_steps of a request; the policy's own limit holds too")
    max_batch: int = Field(64, ge=1, description="most observations in one request")
    max_batch_rows: int = Field(1024, ge=1, description="most network rows (observations x candidates) of a batch")
    slice_ms: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="predicted milliseconds of a batch; larger requests are computed in parts",
    )
    max_queue_seconds: float = Field(
        5.0,
        gt=0,
        allow_inf_nan=False,
        description="most predicted compute ahead of a new request; above it there is a 503",
    )
    aging_seconds: float = Field(
        1.0, gt=0, allow_inf_nan=False, description="a waiting request gains a level of priority this often"
    )
    stuck_seconds: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="an engine call, or a step of warm-up or reload, of this length ends the process, with status 3",
    )
    max_returned_candidates: int = Field(4096, ge=1, description="most candidates written into one reply")
    max_body_bytes: int = Field(1 << 20, ge=1, description="longest request body")
    max_connections: int = Field(
        2048, ge=1, description="most connections at a time, websockets among them; one more is answered 503 and closed"
    )
    request_seconds: float = Field(
        10.0,
        gt=0,
        allow_inf_nan=False,
        description="longest time from a request's first byte to its last, from a connection to its first byte, and "
        "for a client to read its reply",
    )
    record_dir: Path | None = Field(None, description="folder of the flight recorder; off when left out")
    record_max_bytes: int = Field(64 << 20, ge=4096, description="size at which a recording goes on in a new file")
    record_max_files: int = Field(16, ge=1, description="recordings kept; the oldest is deleted")
    drain_grace_seconds: float = Field(
        5.0,
        ge=0,
        allow_inf_nan=False,
        description="after SIGTERM new requests are still served this long, while /readyz sends clients elsewhere",
    )
    drain_seconds: float = Field(
        30.0, ge=0, allow_inf_nan=False, description="then, the longest wait for requests that were accepted"
    )
    api_key: SecretStr | None = Field(
        None, description="when set, POST /act wants 'Authorization: Bearer KEY'; better set by environment"
    )
    keys_file: Path | None = Field(
        None,
        description="further keys, by their hashes, with roles and limits, as `sorl-keys new` prints them; the server "
        "follows the file",
    )
    keys: SecretStr | None = Field(
        None, description="the same as the text of the file; for the environment, where there is no file"
    )
    admin_key: SecretStr | None = Field(
        None,
        description="key of POST /models/NAME/reload, which nobody may call while it is unset; not the robots' api_key",
    )
    ssl_certfile: Path | None = Field(
        None, description="certificate and its chain, PEM; with ssl_keyfile the server speaks HTTPS"
    )
    ssl_keyfile: Path | None = Field(None, description="private key of ssl_certfile, PEM, without a passphrase")
    cors_origins: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="sites whose pages may call this server from a browser, as https://a.example,https://b.example; "
        "left out, only its own page may",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged, on stderr")
    log_format: Literal["text", "json"] = Field("text", description="lines for people, or a JSON object a line")
    tracing: bool = Field(
        False,
        description="send spans of requests by OTLP over HTTP, where the OTEL_* variables say; needs the extra 'otel'",
    )

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_environment(cls, values: Any) -> Any:
        refuse_unknown_environment(os.environ, cls.model_fields)
        return values

    @field_validator("grpc_port")
    @classmethod
    def _check_grpc(cls, port: int | None) -> int | None:
        if port is not None and (find_spec("grpc") is None or find_spec("google.protobuf") is None):
            raise ValueError("expected grpcio to be installed: pip install 'sorl-serve[grpc]'")
        return port

    @field_validator("zmq_port")
    @classmethod
    def _check_zmq(cls, port: int | None) -> int | None:
        if port is not None and find_spec("zmq") is None:
            raise ValueError("expected pyzmq to be installed: pip install 'sorl-serve[zmq]'")
        return port

    @field_validator("api_key", "admin_key")
    @classmethod
    def _check_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value().isascii():
            raise ValueError("expected ASCII, as it travels in a header")
        if key is not None and not key.get_secret_value():
            raise ValueError("expected at least one character; leave it out to have no key")
        return key

    @field_validator("keys")
    @classmethod
    def _check_keys(cls, keys: SecretStr | None) -> SecretStr | None:
        if keys is not None and not keys.get_secret_value().strip():
            raise ValueError("expected at least one key; leave it out to have none")
        return keys

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _split_origins(cls, origins: Any) -> Any:
        return [origin.strip() for origin in origins.split(",")] if isinstance(origins, str) else origins

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, origins: tuple[str, ...]) -> tuple[str, ...]:
        for origin in origins:
            if not _is_origin(origin):
                raise ValueError("expected origins as browsers send them, https://HOST or https://HOST:PORT, no path")
        return origins

    @model_validator(mode="after")
    def _check_tls(self) -> Self:
        if (self.ssl_certfile is None) != (self.ssl_keyfile is None):
            raise ValueError("ssl_certfile, ssl_keyfile: expected both or neither")
        return self


def _is_origin(text: str) -> bool:
    try:
        parts = urlsplit(text)
        named = bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
    own = f"{parts.scheme}://{parts.netloc}".lower()
    return named and parts.scheme in ("http", "https") and own == text and not set(text) & set("*@")


def refuse_unknown_environment(environment: Mapping[str, str], fields: Iterable[str]) -> None:
    """Raises ValueError for a SORL_ variable that sets nothing, so that no typing mistake goes unnoticed."""
    known = [ENV_PREFIX + name.upper() for name in fields]
    for name in environment:
        if name.upper().startswith(ENV_PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0.0)[0]
            raise ValueError(f"environment variable {name} sets nothing; did you mean {nearest}?")


def load_settings(arguments: list[str] | None = None) -> Settings:
    """Settings from flags (`sys.argv` by default), environment and defaults, in this order.

    Raises:
        ValueError: with a message of one line.
        SystemExit: `--help`, or a flag that is unknown.
    """
    try:
        return CliApp.run(Settings, cli_args=arguments)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        name = ".".join(map(str, fault["loc"]))
        message = fault["msg"].removeprefix("Value error, ")
        # Of a key that is refused, nothing is shown.
        shown = "" if name in SECRET else f"; found {fault['input']!r}"
        raise ValueError(f"{name}: {message}{shown}" if name else message) from None
    except SettingsError as error:
        raise ValueError(" ".join(str(error).split())) from None
