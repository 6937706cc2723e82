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
    """Return a session for requests to the URL's host: without a proxy where that is this machine."""
    made = requests.Session()
    if _is_here(url):
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


def url_here(host: str, port: int) -> str:
    """Return the URL at which this machine reaches a server that listens on a host; "0.0.0.0" and "::" are all."""
    reached = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{reached}]' if ':' in reached else reached}:{port}"


def may_carry_secret(url: str) -> bool:
    """Return whether a secret sent to the URL stays unread on the way: by https, or within this machine.

    A name is not looked up, because whoever answers for it decides where it leads.
    """
    return urlsplit(url).scheme == "https" or _is_here(url)


def _is_here(url: str) -> bool:
    """Return whether the URL's host is this machine: its loopback, or an address of one of its interfaces."""
    if reaches_loopback(url):
        return True
    import psutil

    try:
        host = ipaddress.ip_address(urlsplit(url).hostname or "")
    except ValueError:  # a name
        return False
    addresses = (each.address for interface in psutil.net_if_addrs().values() for each in interface)
    return str(host) in {address.partition("%")[0] for address in addresses}


def reaches_loopback(url: str) -> bool:
    """Return whether the URL's host is this machine's loopback."""
    return is_loopback(urlsplit(url).hostname or "")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches a server that listens on this host."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
