from __future__ import annotations

import pytest

from service.settings import Settings, load_settings


def test_flag_goes_before_environment_before_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SORL_PORT", "7000")
    monkeypatch.setenv("SORL_MAX_BATCH", "3")
    settings = load_settings(["--port", "7001"])
    assert (settings.port, settings.max_batch, settings.host) == (7001, 3, "127.0.0.1")


@pytest.mark.parametrize(
    ("name", "nearest"), [("SORL_PROT", "SORL_PORT"), ("SORL_MODELS", "SORL_MODEL"), ("SORL_APIKEY", "SORL_API_KEY")]
)
def test_unknown_environment_variable_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, name: str, nearest: str
) -> None:
    monkeypatch.setenv(name, "1")
    with pytest.raises(ValueError, match=f"{name} sets nothing; did you mean {nearest}"):
        load_settings([])
    with pytest.raises(ValueError, match=nearest):
        Settings()


def test_unknown_flag_exits_with_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        load_settings(["--prot", "1"])
    assert "--prot" in capsys.readouterr().err


def test_unknown_keyword_is_refused() -> None:
    with pytest.raises(ValueError, match="prot"):
        Settings(prot=1)


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("--port", "70000"),
        ("--port", "http"),
        ("--max-batch", "0"),
        ("--backend", "jax"),
        ("--device", "tpu"),
        ("--drain-seconds", "nan"),
        ("--slice-ms", "0"),
        ("--max-queue-seconds", "inf"),
        ("--aging-seconds", "-1"),
        ("--stuck-seconds", "0"),
        ("--api-key", ""),
        ("--admin-key", "schlüssel"),
        ("--keys", " "),
        ("--drain-grace-seconds", "-1"),
        ("--version-grace-seconds", "inf"),
    ],
)
def test_value_out_of_range_is_one_line_with_the_name(flag: str, value: str) -> None:
    with pytest.raises(ValueError, match=flag[2:].replace("-", "_")) as caught:
        load_settings([flag, value])
    assert "\n" not in str(caught.value)


def test_help_describes_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        load_settings(["--help"])
    text = capsys.readouterr().out
    for name, field in Settings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in text
        assert field.description is not None


@pytest.mark.parametrize("name", ["api_key", "admin_key"])
def test_a_key_that_is_refused_is_not_quoted(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name}: expected ASCII") as caught:
        load_settings([f"--{name.replace('_', '-')}", "schlüssel"])
    assert "schlüssel" not in str(caught.value)


@pytest.mark.parametrize("name", ["api_key", "admin_key", "keys"])
def test_key_is_not_printed(name: str) -> None:
    assert "hunter2" not in repr(Settings(**{name: "hunter2"}))
