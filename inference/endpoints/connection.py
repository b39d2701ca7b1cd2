"""HTTP connections to endpoints: who is reached by way of a proxy, and which variable names it."""

import ipaddress
import os
import sys
import urllib.request
from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import openai

from inference.endpoints.keys import OPENAI_HOST

# httpx with openai 2, httpx2 since openai 3.
http = sys.modules[openai.DefaultAsyncHttpxClient.__mro__[1].__module__]


def async_api(base_url: str, key: str, *, timeout_s: float) -> openai.AsyncOpenAI:
    """Make a client without retries of its own.

    Args:
        base_url: Root of the API. On loopback it is not reached by way of a proxy.
        key: The user's key there.
        timeout_s: Longest wait for a piece of an answer, in seconds.

    Raises:
        ValueError: A proxy of the environment cannot be used.
    """
    http_client = openai.DefaultAsyncHttpxClient(trust_env=_uses_proxies(base_url))
    return openai.AsyncOpenAI(
        base_url=base_url,
        api_key=key,
        timeout=timeout_s,
        max_retries=0,
        default_headers=_own_headers(base_url, key),
        http_client=http_client,
    )


def sync_api(base_url: str, key: str) -> openai.OpenAI:
    """Make a client that waits for each answer and repeats what fails; see `async_api`."""
    http_client = openai.DefaultHttpxClient(trust_env=_uses_proxies(base_url))
    return openai.OpenAI(
        base_url=base_url,
        api_key=key,
        default_headers=_own_headers(base_url, key),
        http_client=http_client,
    )


def _own_headers(base_url: str, key: str) -> Mapping[str, Any]:
    """Leave out what the library says of the user's OpenAI account to whomever it talks to.

    It takes organization, project and further headers from the environment. They are for OpenAI's
    own host, and so is an `Authorization` among them, which would take the place of the key.
    """
    if urlsplit(base_url).hostname == OPENAI_HOST:
        return {}
    lines = os.environ.get("OPENAI_CUSTOM_HEADERS", "").split("\n")
    named = [line.partition(":")[0].strip() for line in lines if ":" in line]
    left_out = dict.fromkeys(["OpenAI-Organization", "OpenAI-Project", *named], openai.Omit())
    kept = {name: value for name, value in left_out.items() if name.lower() != "authorization"}
    return {**kept, "Authorization": f"Bearer {key}"}


def is_loopback(base_url: str) -> bool:
    """Whether a URL leads to this very machine."""
    host = urlsplit(base_url).hostname or ""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return address.is_loopback or address.is_unspecified


def place(base_url: str) -> str:
    """The URL for messages, with the variable that names the proxy on the way, where one is."""
    variable = None if is_loopback(base_url) else _proxy_variable(base_url)
    through = "" if variable is None else f" (through the proxy that {variable} names)"
    return f"{base_url}{through}"


def _proxy_variable(base_url: str) -> str | None:
    url = urlsplit(base_url)
    if urllib.request.proxy_bypass(url.netloc):
        return None
    names = (f"{url.scheme}_proxy", "all_proxy")
    return next((one for name in names if (one := _set_variable(name))), None)


def _set_variable(name: str) -> str | None:
    return next((one for one in (name, name.upper()) if os.environ.get(one)), None)


def _uses_proxies(base_url: str) -> bool:
    """Whether the environment's proxies are used: not on loopback.

    Raises:
        ValueError: One cannot be used. Its variable is named; the value may hold a password.
    """
    if is_loopback(base_url):
        return False
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        if (variable := _set_variable(name)) and (fault := _proxy_fault(os.environ[variable])):
            raise ValueError(f"the environment variable {variable} {fault}")
    return True


def _proxy_fault(proxy: str) -> str | None:
    fault = "holds no address of a proxy; expected http://HOST:PORT"
    try:
        url = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
        usable = bool(url.hostname) and url.port != 0
    except ValueError:
        return fault
    if url.scheme in ("socks5", "socks5h"):
        if find_spec("socksio") is not None:
            return None if usable else fault
        return (
            "names a SOCKS proxy, which needs the package socksio: install it, or unset the "
            "variable for this command"
        )
    return None if usable and url.scheme in ("http", "https") else fault
