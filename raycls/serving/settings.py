"""The arguments of the two applications in serve_config.yaml.

validated(ServingConfig, {"max_batch_size": 32})        # raises ConfigError
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from raycls.config import Engine, Section
from raycls.registry.model_version import ModelVersion

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # the image formats that a prediction takes


class ServingConfig(Section):
    """The arguments of the application in serve_config.yaml: see raycls/serving/app.py."""

    model: str | None = Field(
        None, description="NAME, NAME@ALIAS or NAME/VERSION; none: the champion that was promoted last"
    )
    version: ModelVersion | None = Field(
        None,
        description="what the registry said of `model`: `raycls up` and `promote` add it, so that Serve need not open "
        "MLflow while it starts replicas; leave it out of a file",
    )
    max_batch_size: int = Field(64, ge=1, le=4096, description="most images in one forward pass")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of one replica's forward pass")
    engine: Engine | Literal["auto"] = Field(
        "auto",
        description="what computes the forward pass; auto: the fastest one that is as accurate, measured when the "
        "version was promoted",
    )
    max_body_bytes: int = Field(10 * 2**20, ge=1024, description="largest request body, bytes")
    body_timeout_s: float = Field(20, gt=0, description="limit for the arrival of a request's body, seconds")
    max_pixels: int = Field(
        50_000_000,
        ge=1,
        description="most pixels (width × height) of an image, and of all images of a request together",
    )
    max_images: int = Field(64, ge=1, description="most images in one request")
    max_pending: int = Field(
        100, ge=1, description="most requests in one replica; it answers others 429 with Retry-After"
    )
    token_sha256: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="SHA-256 of the bearer token that /predict and /metrics require; none: no token is needed",
    )
    no_auth: bool = Field(
        False, description="ask nobody for a token, even where other machines reach the server"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names by which clients reach the server, beside localhost and addresses; *: every name",
    )
    access_log: float = Field(
        0, ge=0, le=1, description="share of the requests that the replica logs, each as one line of JSON"
    )
    drift: bool = Field(
        True, description="watch whether images look like those of the split `val` of the model's dataset"
    )
    simulate_forward_ms: float = Field(
        0, ge=0, description="sleep for each image of a forward pass, milliseconds: for scaling tests only"
    )

    @model_validator(mode="after")
    def _version_is_of_model(self) -> ServingConfig:
        if self.version and self.version.reference != self.model:
            raise ValueError(f"version is {self.version.reference}, and model is not: leave version out")
        return self


class ControlPlaneConfig(Section):
    """The arguments of the control plane's application in serve_config.yaml: see raycls/control_plane/app.py."""

    max_upload_bytes: int = Field(
        200 * 2**20, ge=1024, description="largest body of an upload: files, or one zip, bytes"
    )
    watch_s: float = Field(
        1800,
        ge=0,
        description="how long guards watch a promotion and may roll it back, seconds; 0: not at all",
    )
    drift_images: int = Field(
        2000, ge=100, description="images after which a window of drift is examined; an hour ends it too"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names by which clients reach the server, beside localhost and addresses; *: every name",
    )


class ConsoleConfig(Section):
    """The arguments of the console's application in serve_config.yaml: see raycls/console/app.py."""

    server: str | None = Field(
        None, description="URL of the server that the page shows; none: the one that it runs beside"
    )
    max_upload_bytes: int = Field(
        200 * 2**20, ge=1024, description="largest body of an upload: files, or one zip, bytes"
    )
    allowed_hosts: tuple[str, ...] = Field(
        (),
        description="names by which clients reach the console, beside localhost and addresses; *: every name",
    )
