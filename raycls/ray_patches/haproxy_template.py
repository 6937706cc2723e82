r"""What HAProxy does that Ray has no setting for: routes of the control plane, its own errors, limits, private sockets.

    install()          # in Serve's controller: raycls/ray_patches/in_controller.py

    global
        stats socket … mode 600                                          # Ray: 666, an admin socket for every user
        tune.buffers.limit 4096                                          # ours
    defaults
        timeout http-request 20s                                         # ours: slow headers keep nobody out
        http-error status 503 content-type application/problem+json …    # Ray: a plain 500
    frontend http_frontend
        option forwardfor                                                # ours: replicas log who asked
        http-request set-header x-request-id %[uuid] unless …            # ours: every request has an id
        http-request del-header upgrade                                  # ours: replicas know no WebSocket
        http-request set-path /models/%[path,field(4,/)]%[path] if { path_beg /v2/models/ }  # ours
        http-request set-path /control%[path] if … -m str uploads … } !{ path -m reg … }    # ours
    backend http-raycls
        option http-buffer-request                                       # ours
    backend http-raycls-control                                          # and http-raycls-console
        retries 0                                                        # ours
        timeout server 600s

Ray routes by the prefix of a path, so that the application of the control plane must have one: /control. Its routes
have names without it, like /uploads. Of several models, each but one has the prefix /models/NAME. Other routes of the
control plane begin so too, and paths of the Open Inference Protocol begin otherwise.
Ray also has one rule for all applications of how often a request is repeated and how long an answer may take. A
prediction may be repeated and takes milliseconds. An upload may not, and takes minutes.
HAProxy repeats a request only if all of it was there when the first byte went to a replica. Most clients send head and
body in two pieces, so HAProxy is told to wait for the body, up to the size of its buffer.
The patch changes the template from which Ray writes HAProxy's configuration, in the process that does it. Settings for
these lines would make the patch unnecessary.
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from raycls.ray_patches.guard import Patch, usable
from raycls.ray_patches.haproxy_rules import REQUEST_ID, problem

PATCH = Patch(
    name="haproxy_template",
    library="ray",
    version="2.60.0",
    buys="/uploads and its like behind HAProxy, no request that starts work is sent twice, and no open admin socket",
    needed=True,
    targets={
        "ray/serve/_private/haproxy_templates.py::HAPROXY_CONFIG_TEMPLATE": "99c90f5cbbd4c467",
        "ray/serve/_private/haproxy.py::HAProxyManager.__init__": "fe633aa6ffddac9d",
        "ray/serve/_private/haproxy.py::HAProxyManager._create_backend_config": "c06f02533bb788bd",
        "ray/serve/_private/haproxy.py::HAProxyApi._generate_config_file_internal": "deaa79e10903af1c",
        "ray/serve/_private/controller.py::ServeController.__init__": "81b935d3d510896f",
    },
)
APPLICATION, PREFIX = "raycls-control", "/control"
CONSOLE = "raycls-console"  # passes requests on to the control plane, so that it waits as long
# The first part of a path that the control plane answers.
ROUTES = (
    "upload_training_data",
    "uploads",
    "parcels",
    "feedback",
    "retrain",
    "experiments",
    "models",
    "drift",
    "live",
    "runs",
    "studies",
    "datasets",
    "whoami",
)
# Below /models/NAME, what the model itself answers.
OF_MODEL = "(versions/[^/]+/)?(predict|livez|readyz|health|metrics|openapi[.]json|v2(/.*)?)"
ANSWER_S = 600  # an upload is checked before it is answered
# For a request's headers and, of a prediction, as much of its body as fits into a buffer; and between two requests.
REQUEST_S, IDLE_S = 20, 60
# Each has the size that raycls/cluster/environment.py sets, 128 KiB. A connection holds one or two while bytes wait in
# it, and none while it is idle. Where all are in use, others wait for one.
MOST_BUFFERS = 4096
# What HAProxy answers by itself. Its 400 and 408 before it has read the headers cannot be changed.
DETAILS = {
    408: f"the body did not arrive within {REQUEST_S} s",
    500: "HAProxy failed on this request",
    502: "the process that worked on this request ended: try again",
    503: "no process takes requests at this moment: try again",
    504: "no answer was ready in time: try again",
}


def edited(template: str) -> str:
    """Return Ray's template with our lines."""
    of_requests = (
        "    option forwardfor\n"
        # Not a client's that is empty, comes twice, is long, or would have to be escaped in JSON and in logs.
        "    http-request set-header x-request-id %[uuid] unless { req.fhdr_cnt(x-request-id) eq 1 } "
        "{ req.fhdr(x-request-id) -m reg '^[]!#-[^-~]{1,200}$' }\n"
        "    http-request set-var(txn.id) req.fhdr(x-request-id)\n"
        "    http-request del-header upgrade\n"
    )
    to_control = (
        "    http-request set-path /models/%[path,field(4,/)]%[path] if { path_beg /v2/models/ }\n"
        f"    http-request set-path {PREFIX}%[path] if {{ path,field(2,/) -m str {' '.join(ROUTES)} }} "
        f"!{{ path -m reg ^/models/[^/]+/{OF_MODEL}$ }}\n"
    )
    of_backend = (
        f"{{%- if backend.app_name in ('{APPLICATION}', '{CONSOLE}') %}}\n"
        f"    retries 0\n    timeout server {ANSWER_S}s\n"
        "{%- else %}\n    option http-buffer-request\n{%- endif %}\n"
    )
    plain = "".join(
        f"    errorfile {status} {{{{ config.error_file_path }}}}\n" for status in (502, 503, 504)
    )
    waits = f"    timeout http-request {REQUEST_S}s\n    timeout http-keep-alive {IDLE_S}s\n"
    for line, ours in (
        ("mode 666 level admin", "mode 600 level admin"),
        ("    nbthread ", f"    tune.buffers.limit {MOST_BUFFERS}\n    nbthread "),
        ("    bind :{{ config.metrics_port }}", "    bind 127.0.0.1:{{ config.metrics_port }}"),
        ("  bind *:{{ config.stats_port }}", "  bind 127.0.0.1:{{ config.stats_port }}"),
        (plain, "".join(map(_error, DETAILS))),
        ("    log global\n    option httplog\n", f"{waits}    log global\n    option httplog\n"),
        ("    # Per-backend path ACLs", f"{of_requests}{to_control}    # Per-backend path ACLs"),
        (
            "    # Enable HTTP connection reuse for better performance\n",
            f"{of_backend}    # Enable HTTP connection reuse for better performance\n",
        ),
    ):
        assert template.count(line) == 1, line
        template = template.replace(line, ours)
    return template


def _error(status: int) -> str:
    """Return the line for an error of HAProxy's own, as the replicas answer theirs: RFC 9457."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": DETAILS[status],
    }
    again = " hdr Retry-After 1" if status > 500 else ""
    line = f"http-error status {status} content-type application/problem+json lf-string '{problem(document)}'{again}"
    line += f" hdr X-Request-Id {REQUEST_ID}"
    return f"    {line}\n"


def install() -> None:
    """Have this process, which is Serve's controller, start HAProxy with our lines."""
    if not usable(PATCH):
        return
    import ray
    from ray.serve._private import controller, haproxy

    rays_own: Any = haproxy.HAProxyManager
    original = rays_own.__ray_metadata__.modified_class.__ray_actor_class__

    class HAProxyManager(original):  # type: ignore[misc,valid-type]
        """Ray's own actor, which writes HAProxy's configuration, from the template with our lines.

        It has the same name, by which people and raycls/benchmark/usage.py know its process.
        """

        def __init__(self, *arguments: Any, **named: Any):
            from ray.serve._private import haproxy

            haproxy.HAPROXY_CONFIG_TEMPLATE = edited(haproxy.HAPROXY_CONFIG_TEMPLATE)
            super().__init__(*arguments, **named)

    controller.HAProxyManager = ray.remote(num_cpus=0)(HAProxyManager)  # type: ignore[misc,assignment]
