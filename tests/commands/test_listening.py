"""Servers listen on IPv4 and IPv6, print an address that opens, and admit a proxy that is named."""

import socket

import pytest

pytest.importorskip("fastapi", reason="the servers need worldcompass[web]")

from starlette.datastructures import Headers

from worldcompass.commands._listening import address_of, listen, origins_of
from worldcompass.errors import UserError
from worldcompass.serving.guard import refusal


@pytest.mark.parametrize(
    ("host", "name"),
    [("127.0.0.1", "localhost"), ("0.0.0.0", "localhost"), ("::1", "[::1]"), ("::", "localhost")],
)
def test_the_printed_address_reaches_the_server(host, name):
    if ":" in host and not socket.has_ipv6:
        pytest.skip("needs IPv6")
    try:
        listener = listen(host, 0)
    except UserError as error:
        pytest.skip(f"needs IPv6: {error}")
    with listener:
        port = listener.getsockname()[1]
        assert address_of(host, listener) == f"http://{name}:{port}"
        with socket.create_connection((name.strip("[]"), port), timeout=5):
            pass
        with pytest.raises(UserError, match=rf"port {port}: .*choose another with --port"):
            listen(host, port)


@pytest.mark.parametrize("host", ["203.0.113.1", "no-such-host.invalid", "a..b", "x" * 64])
def test_a_host_that_is_not_this_machine_is_said_to_be_the_mistake(host):
    with pytest.raises(UserError, match="name an address of this machine with --host"):
        listen(host, 0)


def test_a_proxys_pages_are_admitted_when_it_is_named():
    origins = origins_of(["https://play.example.org", "http://10.0.0.7:8080"])
    for host in ("localhost:8765", "play.example.org"):
        asked = Headers({"host": host, "origin": "https://play.example.org"})
        assert refusal(asked, True, origins) is None
        assert "--origin" in (refusal(asked, True) or "")
    assert refusal(Headers({"host": "localhost", "origin": "https://other.org"}), True, origins)
    assert refusal(Headers({"host": "[::1]:8765", "origin": "http://[::1]:8765"}), True) is None


def test_an_origin_is_compared_as_browsers_send_it():
    written = [
        "HTTPS://Play.Example.org:443/page",
        "http://[FE80::1]:8080",
        "http://a.b:80",
        "http://a.b:443",
    ]
    assert origins_of(written) == {"play.example.org", "[fe80::1]:8080", "a.b", "a.b:443"}


@pytest.mark.parametrize(
    "wrong", ["play.example.org", "http://[::1", "http://a.b:port", "ftp://a", "https://", ""]
)
def test_what_is_no_address_of_a_page_is_refused(wrong):
    with pytest.raises(UserError, match="expected an address such as https://"):
        origins_of([wrong])
