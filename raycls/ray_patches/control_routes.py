r"""HAProxy sends the routes of the control plane to its own backend, which repeats nothing.

    install()          # in Serve's controller: raycls/ray_patches/in_controller.py

    frontend http_frontend
        http-request set-path /control%[path] if { path,field(2,/) -m str uploads … }       # ours
    backend http-raycls-control                                                             # and http-raycls-console
        retries 0                                                                           # ours
        timeout server 600s

Ray routes by the prefix of a path, so that the application of the control plane must have one: /control. Its routes
have names without it, like /uploads. Ray also has one rule for all applications of how often a request is repeated and
how long an answer may take. A prediction may be repeated and takes milliseconds. An upload may not, and takes minutes.
The patch adds these lines to the template from which Ray writes HAProxy's configuration, in the process that does it.
Settings for a route's application and for an application's retries would make the patch unnecessary.
"""

from __future__ import annotations

from typing import Any

from raycls.ray_patches.guard import Patch, usable

PATCH = Patch(
    name="control_routes",
    library="ray",
    version="2.60.0",
    buys="/uploads and its like behind HAProxy, and no request that starts work is sent twice",
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
ANSWER_S = 600  # an upload is checked before it is answered

_FRONTEND = "    # Per-backend path ACLs"
_BACKEND = "    # Enable HTTP connection reuse for better performance\n"


def routed(template: str) -> str:
    """Return Ray's template with our lines."""
    to_control = (
        f"    http-request set-path {PREFIX}%[path] if {{ path,field(2,/) -m str {' '.join(ROUTES)} }}\n"
    )
    of_control = (
        f"{{%- if backend.app_name in ('{APPLICATION}', '{CONSOLE}') %}}\n"
        f"    retries 0\n    timeout server {ANSWER_S}s\n"
        "{%- endif %}\n"
    )
    first, found, rest = template.partition(_FRONTEND)
    assert found and template.count(_BACKEND) == 1
    return (first + to_control + found + rest).replace(_BACKEND, of_control + _BACKEND)


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

            haproxy.HAPROXY_CONFIG_TEMPLATE = routed(haproxy.HAPROXY_CONFIG_TEMPLATE)
            super().__init__(*arguments, **named)

    controller.HAProxyManager = ray.remote(num_cpus=0)(HAProxyManager)  # type: ignore[misc,assignment]
