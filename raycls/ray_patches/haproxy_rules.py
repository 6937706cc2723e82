r"""HAProxy itself refuses the requests that are too many for the replicas, with 429 and Retry-After.

    environment["RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER"] = with_rules("5s", refused="x-refused-0f3a")

    backend raycls
        …
        default-server fastinter 250ms … inter 5s     # Ray's line, whose last value is this setting
        http-request return status 429 … if full      # our rules, which travel with it

Stock Ray passes every request on, and a replica refuses what it cannot hold. A refusal takes HAProxy 0.03 ms of a core,
and a replica a third of a prediction's time. Ray has no setting for rules, so the patch appends them to a setting that
Ray writes at the end of a line. A setting for rules, or an include file, would make the patch unnecessary.

A replica tells HAProxy how many requests it holds, in a header of the first answer with which it refuses one. HAProxy
tells a replica how many it has refused, in a header of the next POST, for the replica's counts. No client knows that
header's name, as one may reach a replica without HAProxy. HAProxy knows neither number right after Ray has renewed its
configuration, when replicas come and go. Where several nodes have an ingress, each compares its own requests with the
room of all replicas, so that it refuses fewer than it might.

A request whose length is unknown, or whose body is not complete yet, does not count and is not refused here: a slow
sender must keep nobody out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from raycls.ray_patches.guard import Patch, usable

PATCH = Patch(
    name="haproxy_rules",
    library="ray",
    version="2.60.0",
    buys="at three times the peak, 89 to 97% of the peak is served; 49 to 55% without the patch",
    targets={
        "ray/serve/_private/haproxy_templates.py::HAPROXY_CONFIG_TEMPLATE": "99c90f5cbbd4c467",
        "ray/serve/_private/haproxy.py::BackendConfig.build_health_check_config": "e6156443ccc722e2",
    },
)
MAX_PENDING = "x-max-pending"
REFUSED_VARIABLE = (
    "RAYCLS_REFUSED_HEADER"  # in the environment: the name of the header with which HAProxy tells
)
RETRY_AFTER_S = 1
# The problem document for a request that finds the replicas full, from HAProxy as well as from a replica.
FULL = {
    "type": "about:blank",
    "title": "Too Many Requests",
    "status": 429,
    "detail": "the queue is full: try again in a moment",
}
# Of a request: raycls/ray_patches/haproxy_template.py sets it before these rules, which are those of a backend.
REQUEST_ID = "%[var(txn.id)]"


def problem(document: Mapping[str, Any]) -> str:
    """Return HAProxy's format of a problem document, with the request's id. Its texts hold no % and no quotes."""
    return json.dumps(document)[:-1] + f', "request_id": "{REQUEST_ID}"}}'


_FULL = problem(FULL).replace('"', r"\x22").replace(" ", r"\ ")

_RULES = (
    # Entry 1 counts the requests that are here now. Entry 2 holds how many requests one replica takes, and how many
    # HAProxy has refused since it last told a replica.
    "stick-table type integer size 2 store conn_cur,gpc0,gpt0",
    "http-request del-header REFUSED",
    "http-request set-var(txn.here) req.body_len",
    "acl whole req.body_size,sub(txn.here) eq 0",
    "http-request track-sc0 int(1) if METH_POST { req.fhdr(content-length) -m found } whole",
    "http-request track-sc1 int(2) if METH_POST",
    "http-request set-var(txn.most) sc1_get_gpt0",
    "http-request set-var(txn.room) nbsrv,mul(txn.most)",
    "http-request set-var(txn.over) sc0_conn_cur,sub(txn.room) if { var(txn.room) -m int gt 0 }",
    "acl full var(txn.over) -m int gt 0",
    "http-request sc-inc-gpc0(1) if full",
    f"http-request return status 429 content-type application/problem+json lf-string {_FULL} "
    f"hdr Retry-After {RETRY_AFTER_S} hdr X-Request-Id {REQUEST_ID} if full",
    "http-request set-header REFUSED %[sc1_clr_gpc0] if { sc1_get_gpc0 gt 0 }",
    f"http-response sc-set-gpt0(1) res.hdr({MAX_PENDING}),add(0) if {{ res.hdr({MAX_PENDING}) -m found }}",
    f"http-response del-header {MAX_PENDING}",
    "#",  # comments out the rest of Ray's line
)


def with_rules(setting: str, *, refused: str) -> str:
    """Return the value of Ray's last setting in an application's section, with the rules behind it.

    refused: the header that says how many were refused.
    """
    if not usable(PATCH):
        return setting
    return "\n    ".join((setting, *_RULES)).replace("REFUSED", refused)
