r"""What HAProxy does for an application besides what Ray has it do: it refuses what is too much for the replicas.

    backend raycls
        …
        default-server fastinter 250ms … inter 5s     # Ray's line, from RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER
        http-request return status 429 … if full      # ours, which goes with it: Ray has no setting for rules

A refusal takes 0.03 ms of a core here, and a third of a prediction's time in a replica. How many requests are too many
a replica says, with the first one that it refuses itself; and with the next POST that it is given, it is told how many
were refused meanwhile, for its counts. HAProxy knows neither when Ray has just renewed its configuration, which is when
replicas come and go: what was refused right before is not told. Where several nodes have an ingress, each compares its
own requests with the room of all replicas, so that more is left to those to refuse.

Requests whose length is not known, or whose body is not here as a whole, do not count and are not refused here: whoever
sends slowly must keep nobody out.
"""

from __future__ import annotations

import json

REFUSED, MAX_PENDING = "x-refused", "x-max-pending"
RETRY_AFTER_S = 1
# The document of a request that finds the replicas full, whether HAProxy or a replica answers it.
FULL = {
    "type": "about:blank",
    "title": "Too Many Requests",
    "status": 429,
    "detail": "the queue is full: try again in a moment",
}
_FULL = json.dumps(FULL).replace('"', r"\x22").replace(" ", r"\ ")

RULES = (
    # Entry 1 counts the requests that are here, while they are. Entry 2 has how many one replica holds, and how many
    # requests were refused since a replica was told.
    "stick-table type integer size 2 store conn_cur,gpc0,gpt0",
    f"http-request del-header {REFUSED}",
    "http-request set-var(txn.here) req.body_len",
    "acl whole req.body_size,sub(txn.here) eq 0",
    "http-request track-sc0 int(1) if METH_POST { req.fhdr(content-length) -m found } whole",
    "http-request track-sc1 int(2) if METH_POST",
    "http-request set-var(txn.most) sc1_get_gpt0",
    "http-request set-var(txn.room) nbsrv,mul(txn.most)",
    "http-request set-var(txn.over) sc0_conn_cur,sub(txn.room) if { var(txn.room) -m int gt 0 }",
    "acl full var(txn.over) -m int gt 0",
    "http-request sc-inc-gpc0(1) if full",
    f"http-request return status 429 content-type application/problem+json string {_FULL} "
    f"hdr Retry-After {RETRY_AFTER_S} if full",
    f"http-request set-header {REFUSED} %[sc1_clr_gpc0] if {{ sc1_get_gpc0 gt 0 }}",
    f"http-response sc-set-gpt0(1) res.hdr({MAX_PENDING}),add(0) if {{ res.hdr({MAX_PENDING}) -m found }}",
    f"http-response del-header {MAX_PENDING}",
    "#",  # Ray's line goes on after its setting
)


def after(setting: str) -> str:
    """The value of Ray's last setting in the section of an application, with the rules behind it."""
    return "\n    ".join((setting, *RULES))
