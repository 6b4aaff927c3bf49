"""How stores are asked: with which credentials, at which address, and what is said when they refuse."""

import pytest

from asgd.data import tar
from asgd.data.storage import Storage
from tests.conftest import free_port
from tests.emulator import emulator
from tests.flaky import flaky, status
from tests.remote import tiny


@pytest.fixture(scope="module")
def server():
    with emulator() as running:
        running.put("bucket", "top.tar", tiny("top"))
        running.put("bucket", "a/train-0000.tar", tiny("0"))
        running.put("bucket", "a/train-0001.tar", tiny("1"))
        yield running


@pytest.mark.parametrize(
    ("code", "options", "remedy"),
    [
        (403, {}, "no permission, or not there: check GOOGLE_APPL.*; public data: dataset.storage.anonymous=true"),
        (401, {"token": "stale"}, "no permission, or not there: check GOOGLE_APPLICATION_CREDENTIALS"),
        (
            403,
            {"anonymous": True},
            "not public, or not there: give GOOGLE_APPL.* instead of dataset.storage.anonymous=true",
        ),
    ],
)
def test_who_may_not_read_is_told_what_to_give(server, code, options, remedy):
    with flaky(server.port) as proxy:
        proxy.always = status(code)
        with pytest.raises(ValueError, match=rf"dataset\.url: gs://bucket/top\.tar: {remedy}"):
            Storage(endpoint=proxy.url, **options).check(["gs://bucket/top.tar"], "dataset.url")
        assert len(proxy.requests) == 1  # it does not help to ask again


def test_signatures_in_addresses_are_not_shown(server, monkeypatch):
    """A shared access signature of Azure is a part of every address."""
    with flaky(server.port) as proxy:
        proxy.always = status(400)
        names = {"ACCOUNT_NAME": "me", "SAS_KEY": "sv=2024&sig=secret"}
        for name, value in names.items():
            monkeypatch.setenv(f"AZURE_STORAGE_{name}", value)
        with pytest.raises(ValueError, match=r"az://box/tokens/x\.tar: .*400 Bad Request") as error:
            Storage(endpoint=proxy.url, retry_seconds=0).size("az://box/tokens/x.tar")
        assert proxy.requests
    assert "secret" not in str(error.value)


def test_missing_credentials_are_named(server, monkeypatch, tmp_path):
    """Every request goes to a proxy here, those for the cloud's metadata too; it knows nothing."""
    with flaky(server.port) as proxy:
        proxy.always = status(404)
        for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy", "STORAGE_EMULATOR_HOST", "GOOGLE_APPLICATION_CREDENTIALS"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(ValueError) as error:
            Storage(retry_seconds=0, timeout=3).check(["gs://nobodys/x.tar"], "dataset.url")
    assert "dataset.url: gs://nobodys/x.tar: no credentials: give GOOGLE_APPLICATION_CREDENTIALS" in str(error.value)
    assert "or for public data dataset.storage.anonymous=true" in str(error.value)


@pytest.mark.parametrize("prefix", ["http://", ""])
def test_the_emulators_variable(server, monkeypatch, prefix, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))  # no credentials
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"{prefix}127.0.0.1:{server.port}")
    assert Storage().size("gs://bucket/top.tar") == len(tiny("top"))
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"{prefix}127.0.0.1:{free_port()}")
    with pytest.raises(ValueError, match="error sending request"):
        Storage(retry_seconds=0).size("gs://bucket/top.tar")


def test_a_token_is_sent_with_every_request(server):
    with flaky(server.port) as proxy:
        store = Storage(endpoint=proxy.url, token="abc")
        for url in ("gs://bucket/top.tar", f"{proxy.url}/bucket/top.tar"):
            assert [sample.key for sample in tar.samples(store, url)] == ["top"]
        assert proxy.tokens == ["Bearer abc"] * len(proxy.requests)
        assert "abc" not in repr(store._access)


def test_s3_through_the_environment(server, monkeypatch):
    """The emulator does not check signatures, and its listing and objects are those of S3's protocol."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
    store = Storage(anonymous=True, retry_seconds=0.2)
    assert store.expand("s3://bucket/a/train-*.tar", "u") == [
        "s3://bucket/a/train-0000.tar",
        "s3://bucket/a/train-0001.tar",
    ]
    assert [sample.key for sample in tar.samples(store, "s3://bucket/top.tar")] == ["top"]
    with pytest.raises(ValueError, match=r"s3://bucket: dataset\.storage\.token is not for s3://"):
        Storage(token="abc").size("s3://bucket/top.tar")
    with pytest.raises(ValueError, match=r"u: az://box/x\.tar: .*AZURE_STORAGE_ACCOUNT_NAME"):
        store.check(["az://box/x.tar"], "u")
