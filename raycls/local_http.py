"""HTTP requests of raycls's own clients. Requests to this machine take no proxy.

    response = request("GET", "http://127.0.0.1:8000/health", timeout=5)

`http_proxy` and its like are meant for other machines: a proxy cannot reach this machine's loopback.
"""

from __future__ import annotations

import ipaddress
import os
from typing import Any
from urllib.parse import urlsplit

import requests


def session(url: str) -> requests.Session:
    """Return a session for requests to the URL's host: without a proxy where that is this machine's loopback."""
    made = requests.Session()
    if reaches_loopback(url):
        made.trust_env = False  # ignores the certificates that the environment names, too
        made.verify = os.environ.get("REQUESTS_CA_BUNDLE") or os.environ.get("CURL_CA_BUNDLE") or True
    return made


def request(method: str, url: str, **options: Any) -> requests.Response:
    """Send one request; `options` and errors are those of requests.request."""
    with session(url) as once:
        return once.request(method, url, **options)


def exempt(url: str) -> None:
    """Let the other HTTP clients of this process, such as MLflow's, take no proxy to the URL's host on loopback."""
    host = urlsplit(url).hostname or ""
    known = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    if is_loopback(host) and known != "*" and host not in known.split(","):
        os.environ["no_proxy"] = os.environ["NO_PROXY"] = f"{known},{host}".lstrip(",")


def reaches_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine's loopback."""
    return is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
