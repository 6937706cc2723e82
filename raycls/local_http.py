"""HTTP requests of raycls's own clients. Requests to this machine take no proxy.

    response = request("GET", "http://127.0.0.1:8000/health", timeout=5)

`http_proxy` and its like are meant for other machines: a proxy cannot reach this machine's loopback.
"""

from __future__ import annotations

import ipaddress
from typing import Any
from urllib.parse import urlsplit

import requests


def session(url: str) -> requests.Session:
    """Return a session for requests to the URL's host: without a proxy where that is this machine's loopback."""
    made = requests.Session()
    made.trust_env = not is_loopback(urlsplit(url).hostname or "")
    return made


def request(method: str, url: str, **options: Any) -> requests.Response:
    """Send one request; `options` and errors are those of requests.request."""
    with session(url) as once:
        return once.request(method, url, **options)


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
