"""serve_config.yaml, read and checked, with the values that a caller pins.

    document = ServeConfiguration.read(Path("serve_config.yaml")).pinned(model="cifar10/3", replicas=2)
    document.url, document.replicas, document.settings.max_batch_size
    document.arguments["engine"] = "torch"
    document = document.with_model("pets").of("raycls-model-pets").pinned(replicas=1)     # another, at /models/pets
    requests.put(address, json=document.content)

Knows Serve's schema and when a token is needed; nothing of clusters.
"""

from __future__ import annotations

import copy
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from raycls import progress
from raycls.cluster.environment import LOOPBACK
from raycls.config import validated
from raycls.errors import ConfigError, UsageError
from raycls.local_http import url_here
from raycls.registry.model_version import ModelVersion
from raycls.serving import auth, state
from raycls.serving.settings import ServingConfig

OWN = Path(__file__).parents[1] / "serve_config.yaml"  # comes with the package
IMPORT_PATH, DEPLOYMENT = "raycls.serving.app:build", "Classifier"
CHALLENGERS = "raycls-challenger-"  # with an experiment's id, the name of its challenger's application
CONTROL_PATH = "raycls.control_plane.app:build"  # the import path of the application that manages a server
CONSOLE_PATH = "raycls.console.app:build"  # and of its web page
MODEL = "raycls-model-"  # with its name, the name of the application of each model but the one at /
MODELS = "/models"  # the models beside the one at / are below it, each by its name
_IN_A_PATH = re.compile("[A-Za-z0-9._~-]+")  # RFC 3986, 2.3
# One server asks for one authentication: that of the model at /.
SHARED = ("allowed_hosts", "token_sha256", "no_auth")


class ServeConfiguration:
    """`content` is what Serve takes: https://docs.ray.io/en/latest/serve/production-guide/config.html.

    Of several models, this is the configuration of one: the one at /, and with `of` another one. `application`,
    `arguments` and `deployment` are its parts of the content: a change of them changes it. Every method returns a copy.
    """

    def __init__(self, content: dict[str, Any], name: str | None = None):
        """Name: of the application. None: the one whose route is /. Raises ConfigError for another schema."""
        try:
            self.content = content
            self._models = [a for a in content["applications"] if a["import_path"] == IMPORT_PATH]
            (self._first,) = [a for a in self._models if _route(a) == "/"]
            (self.application,) = [a for a in self._models if _name(a) == name] if name else [self._first]
            (self.deployment,) = [d for d in self.application["deployments"] if d["name"] == DEPLOYMENT]
        except (TypeError, KeyError, ValueError):
            raise ConfigError(
                f"no application is {IMPORT_PATH} with the route_prefix / and a deployment called {DEPLOYMENT}"
            ) from None
        for each in self._models:
            if each.setdefault("args", {}) is None:
                each["args"] = {}
            elif not isinstance(each["args"], dict):
                raise ConfigError(f"the args of {_name(each)} are no mapping of names to values")
        first, first_args = _name(self._first), self._first["args"]
        for args in (each["args"] for each in self._models):
            if other := [k for k in SHARED if k in args and (args[k] or None) != (first_args.get(k) or None)]:
                raise ConfigError(f"two models differ in {other[0]}: leave out all but that of {first}")
        self.arguments: dict[str, Any] = self.application["args"]
        self._options = content["http_options"] = content.get("http_options") or {}
        for key, default in (("host", LOOPBACK), ("port", 8000)):  # Serve's default host is everywhere
            if self._options.get(key) is None:
                self._options[key] = default
        self._follow()

    def _follow(self) -> None:
        """Let the other applications be reached by the same names, and the other models by the same clients."""
        shared = {name: self._first["args"][name] for name in SHARED if name in self._first["args"]}
        names = {name: value for name, value in shared.items() if name == "allowed_hosts"}
        for application in self.content["applications"]:
            if application.get("import_path") in (CONTROL_PATH, CONSOLE_PATH):
                application["args"] = names | (application.get("args") or {})
        for application in self._models:
            own = {name: value for name, value in application["args"].items() if name not in SHARED}
            application["args"].clear()
            application["args"].update(own | shared)

    @classmethod
    def read(cls, path: Path) -> ServeConfiguration:
        """Read a file; raycls's own serve_config.yaml where that name is given and there is no such file.

        Raises ConfigError, in one line, for another kind of file and for unknown or wrong arguments.
        """
        if path == Path(OWN.name) and not path.exists():
            progress.say(f"there is no {path} here: raycls's own is used ({OWN})")
            path = OWN
        try:
            document = cls(yaml.safe_load(path.read_text()))
            # With YAML's aliases, two applications may be the same object in part.
            document.content["applications"] = list(map(copy.deepcopy, document.content["applications"]))
            document = cls(document.content)
            document._check_routes()
        except FileNotFoundError:
            raise ConfigError(f"there is no file {path}: --config takes the path of one") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from None
        for each in document.models:
            validated(ServingConfig, each.arguments)
        return document

    def _check_routes(self) -> None:
        if len(self.models) > 1 and self.models[0].model is None:
            raise ConfigError(
                f"of several models, each needs a name: add model: NAME to the args of {self.name}"
            )
        for each in self.models[1:]:
            name = (each.model or "NAME").partition("@")[0].partition("/")[0]
            if each.model is None or each.route != f"{MODELS}/{name}" or not _IN_A_PATH.fullmatch(name):
                raise ConfigError(
                    f"the application {each.name} is not at /, so it needs model: NAME in its args, and route_prefix: "
                    f"{MODELS}/{name}, where NAME has only letters, digits, '.', '_', '-' and '~'"
                )

    @property
    def models(self) -> list[ServeConfiguration]:
        """The configuration of each model, the one at / first. They are parts of this content, and no copies."""
        names = [_name(self._first), *(_name(each) for each in self._models if each is not self._first)]
        return [ServeConfiguration(self.content, name) for name in names]

    def of(self, name: str) -> ServeConfiguration:
        """Return a copy that is the configuration of the application of this name. Raises ConfigError."""
        return ServeConfiguration(copy.deepcopy(self.content), name)

    def with_model(self, model: str) -> ServeConfiguration:
        """Return a copy that serves one more model, below MODELS, with the settings of the one at /.

        model: NAME, NAME@ALIAS or NAME/VERSION. Raises UsageError where its name is served there already, or where the
        model at / has no name.
        """
        if self.models[0].model is None:
            raise UsageError(
                "name the first model too, with --model: without a name it is the latest champion of all"
            )
        name = model.partition("@")[0].partition("/")[0]
        if not _IN_A_PATH.fullmatch(name):
            raise UsageError(
                f"{name!r} cannot be part of a path: only letters, digits, '.', '_', '-' and '~' can"
            )
        other = self.pinned()
        if any(each.route == f"{MODELS}/{name}" for each in other.models):
            raise UsageError(f"{name} is served at {MODELS}/{name} already: name it once")
        another = copy.deepcopy(other._first)
        another["args"].pop("version", None)
        another["args"]["model"] = model
        other.content["applications"].append(
            another | {"name": f"{MODEL}{name}", "route_prefix": f"{MODELS}/{name}"}
        )
        return ServeConfiguration(other.content, self.name)

    def pinned(
        self,
        *,
        model: str | ModelVersion | None = None,
        host: str | None = None,
        port: int | None = None,
        replicas: int | None = None,
        names: tuple[str, ...] = (),
    ) -> ServeConfiguration:
        """Return a copy with the given values.

        replicas: fixes their number; autoscaling is off. names: by which clients reach the server, beside those of the
        file.

        With a ModelVersion as model, Serve asks the registry nothing.
        """
        other = self.of(self.name)
        other._options |= {key: value for key, value in (("host", host), ("port", port)) if value is not None}
        if model is not None:
            other.arguments.pop("version", None)
            if isinstance(model, ModelVersion):
                # Only what a replica needs. The rest changes while the version is served, and Serve replaces all
                # replicas when an argument changes.
                known = {"aliases": [], "metrics": {}, "tags": model.served_tags}
                other.arguments["version"] = asdict(model) | known
                model = model.reference
            other.arguments["model"] = model
        for application in other.content["applications"]:
            if names and application.get("import_path") in (IMPORT_PATH, CONTROL_PATH, CONSOLE_PATH):
                known = application["args"].get("allowed_hosts", ())
                application["args"]["allowed_hosts"] = [*known, *names]
        if replicas is not None:
            other.deployment.pop("autoscaling_config", None)
            other.deployment["num_replicas"] = replicas
        other._follow()
        return other

    def guarded(self) -> ServeConfiguration:
        """Return a copy that asks for this process's token.

        Raises UsageError where there is no token and other machines reach the host.
        """
        own = auth.own_token()
        if own is None and self.is_exposed and not state.load().has("predict"):
            raise UsageError(
                f"other machines reach {self.host}: export {auth.TOKEN}=$(openssl rand -hex 32), which clients then "
                "send, make tokens with `raycls tokens add NAME --role predict`, or say --no-auth"
            )
        other = self.pinned()
        if own:
            other._first["args"]["token_sha256"] = auth.digest(own)
        other._follow()
        return other

    def in_place_of(self, former: ServeConfiguration) -> ServeConfiguration:
        """Return a copy with the former's host, port and authentication."""
        other = self.pinned(host=former.host, port=former.port)
        arguments = other._first["args"]
        for name in ("token_sha256", "no_auth"):
            arguments.pop(name, None)
            if name in former.arguments:
                arguments[name] = former.arguments[name]
        other._follow()
        return other

    def open_to_all(self) -> ServeConfiguration:
        """Return a copy that asks nobody for a token."""
        other = self.pinned()
        other._first["args"].pop("token_sha256", None)
        other._first["args"]["no_auth"] = True
        other._follow()
        return other

    @property
    def name(self) -> str:
        """The name of the application."""
        return _name(self.application)

    @property
    def route(self) -> str:
        """What the paths of its requests begin with."""
        return _route(self.application)

    @property
    def model(self) -> str | None:
        """NAME, NAME@ALIAS or NAME/VERSION; None: the champion that was promoted last."""
        return self.arguments.get("model")

    @property
    def settings(self) -> ServingConfig:
        """The application's arguments, checked."""
        return validated(ServingConfig, self.arguments)

    @property
    def replicas(self) -> int:
        """How many replicas start."""
        fixed = self.deployment.get("num_replicas")
        if isinstance(fixed, int):
            return fixed
        return (self.deployment.get("autoscaling_config") or {}).get("min_replicas", 1)

    @property
    def host(self) -> str:
        """The address that HAProxy listens on."""
        return self._options["host"]

    @property
    def port(self) -> int:
        return self._options["port"]

    @property
    def url(self) -> str:
        """The address at which this machine reaches the application."""
        return url_here(self.host, self.port) + self.route.rstrip("/")

    @property
    def has_console(self) -> bool:
        """Whether the file names the application of the web page."""
        return any(each.get("import_path") == CONSOLE_PATH for each in self.content["applications"])

    @property
    def asks_for_token(self) -> bool:
        return bool(self.arguments.get("token_sha256"))

    @property
    def is_exposed(self) -> bool:
        """Whether other machines reach /predict without a token, and nobody said that they may."""
        return auth.needed(self.host) and not self.asks_for_token and not self.arguments.get("no_auth")


def _name(application: dict[str, Any]) -> str:
    return str(application.get("name", "default"))


def _route(application: dict[str, Any]) -> str:
    return str(application.get("route_prefix", "/"))
