r"""What HAProxy does for an application besides what Ray has it do: it refuses what is too much for the replicas.

    backend raycls
        …
        default-server fastinter 250ms … inter 5s     # Ray's line, from RAY_SERVE_HAPROXY_HEALTH_CHECK_INTER
        http-request return status 429 … if full      # ours, which goes with it: Ray has no setting for rules

A refusal takes 0.03 ms of a core here, and a third of a prediction's time in a replica. How much is too much a replica
says, with the first request that it refuses itself; and with the next request that it is given, it is told how many
were refused, so that its counts are right. Both headers are between HAProxy and replicas alone.

Requests whose body is not here as a whole do not count: whoever sends slowly must keep nobody out.
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
    # Entry 1 counts the requests that are here, while they are; entry 2 those refused, until a replica is told.
    "stick-table type integer size 2 store conn_cur,gpc0",
    f"http-request del-header {REFUSED}",
    "http-request set-var(txn.here) req.body_len",
    "http-request track-sc0 int(1) if METH_POST { req.body_size,sub(txn.here) eq 0 }",
    "http-request track-sc1 int(2) if METH_POST",
    "http-request set-var(txn.room) nbsrv,mul(proc.max_pending)",
    "acl full sc0_conn_cur,sub(txn.room) gt 0",
    "http-request sc-inc-gpc0(1) if full",
    f"http-request return status 429 content-type application/problem+json string {_FULL} "
    f"hdr Retry-After {RETRY_AFTER_S} if full",
    f"http-request set-header {REFUSED} %[sc1_clr_gpc0] if {{ sc1_get_gpc0 gt 0 }}",
    f"http-response set-var(proc.max_pending) res.hdr({MAX_PENDING}),add(0) if {{ status 429 }}",
    f"http-response del-header {MAX_PENDING}",
    "#",  # Ray's line goes on after its setting
)


def after(setting: str) -> str:
    """The value of Ray's last setting in the section of an application, with the rules behind it."""
    return "\n    ".join((setting, *RULES))
