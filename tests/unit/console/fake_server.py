"""A server of raycls that answers from a table, with texts that would run in a browser if they were not escaped."""

from __future__ import annotations

import asyncio
import io
import re
import threading
from typing import Any

import requests
from PIL import Image
from starlette.testclient import TestClient

from raycls.console.server import ServerError
from raycls.console.session import Session

EVIL = '"><img src=x onerror=alert(1)><script>alert(2)</script>\u202e'
ROLES = {"a" * 64: ("ada", ["admin"]), "c" * 64: ("carl", ["contribute"]), "p" * 64: ("pia", ["predict"])}
VERSION = {"name": EVIL, "version": "7", "aliases": ["champion", EVIL], "metrics": {"val_accuracy": 0.9}}
EVENT = {
    "at": 0.0,
    "kind": "promotion",
    "former": "6",
    "version": "7",
    "by": EVIL,
    "reason": EVIL,
    "done": True,
}
RECORD = {"sha256": "0" * 64, "label": EVIL, "sender": EVIL, "state": "waiting"}
RETRAINING = {
    "id": "1f" * 6,
    "wanted": {"model": EVIL},
    "state": "running",
    "step": "train",
    "error": EVIL,
    "done": {
        "data": {"dataset": EVIL, "added": 1, "waiting": {EVIL: 2}},
        "compare": {"verdict": "better", "reason": EVIL},
    },
}
CLAIMS = {
    "request_id": "1f",
    "model": EVIL,
    "version": "7",
    "predicted": EVIL,
    "confidence": 0.4,
    "time": 0.0,
}
CORRECTION = {"claims": CLAIMS, "label": EVIL, "sender": EVIL, "state": "waiting"}
ARM = {"requests": 5, "failures": {"late": 1}, "p50_ms": None, "p95_ms": 2.5, "confidence": 0.5}
EXPERIMENT = {
    **{
        "id": "e1",
        "challenger": EVIL,
        "champion": "pets/6",
        "mode": "shadow",
        "share": 0.2,
        "started": "now",
    },
    **{"by": EVIL, "state": "running", "ended": "", "reason": "", "ended_by": ""},
    **{"arms": {"champion": ARM, "challenger": ARM}, "compared": 4, "agreement": 0.75, "kept": 0},
    "accuracy": {"reviewed": {"champion": 0, "challenger": 0}, "verdict": {"decision": "not_yet"}},
}
FINDING = {"feature": EVIL, "effect": 0.5, "p": 0.001, "alarm": True}
RUN = {
    **{"id": "r1", "name": EVIL, "kind": "study", "status": "RUNNING", "started": 0.0, "ended": None},
    **{"study": "", "trial": "", "retraining": "", "dataset_version": "1", "metrics": {"val_accuracy": 0.5}},
    **{
        "params": {"training.epochs": EVIL},
        "history": [{"epoch": 1, "train_loss": 2.0, "val_loss": float("nan")}],
        "findings": [{"verdict": EVIL, "reason": EVIL}],
        "mlflow": f"mlflow ui --backend-store-uri {EVIL}",
    },
}
TRIAL = {"number": 0, "state": "done", "score": 0.5, "epochs": 2, "latency_ms": 1.5, "told": EVIL}
STUDY = {"run_id": "r1", "name": EVIL, "trials": [TRIAL], "winner": 0, "front": [0], "told": [EVIL]}
STEP = {"name": EVIL, "value": EVIL, "state": "broken", "told": EVIL}
RAN = {**STEP, "name": "run", "value": "r1"}
LEARNED_FROM = {**STEP, "name": "dataset", "value": "pets@2, fingerprint 00", "state": "verified"}
TIMING = {"engine": EVIL, "one_ms": 1.0, "many_ms": 9.0, "accuracy": 0.9, "allowed": True}
REJECTION = {
    **{"precision": 0.98, "threshold": 0.8125, "by_class": {EVIL: None}, "engine": EVIL, "dataset": EVIL},
    **{"images": 1200, "answered": 900, "right": 890},
}
ORIGIN = {
    **{**VERSION, "name": "pets"},
    **{"lineage": [STEP, RAN, LEARNED_FROM], "engine": EVIL, "engine_timings": [TIMING]},
    "rejection": REJECTION,
}
FIGURES = dict.fromkeys(
    ("accuracy", "macro_f1", "macro_recall", "log_loss", "calibration_error", "latency_ms"), 0.5
)
GAIN = {"estimate": 0.1, "low": -0.1, "high": 0.3, "p_value": 0.04}
COMPARISON = {
    **{"challenger": EVIL, "champion": EVIL, "verdict": "better", "reason": EVIL, "remarks": [EVIL]},
    **{"dataset": "pets@2", "split": "gate", "pictures": 90, "uploads": 3, "apart": 1},
    **{"champion_figures": FIGURES, "challenger_figures": FIGURES},
    "gains": dict.fromkeys(("accuracy", "macro_f1", "macro_recall", "log_loss"), GAIN),
    "confusions_apart": [{"label": EVIL, "taken_for": EVIL, "champion": 4, "challenger": 1}],
    "pictures_apart": [
        {
            **{"row": 7, "label": EVIL, "champion": EVIL, "challenger": EVIL},
            **{"champion_confidence": 0.4, "challenger_confidence": 0.9},
        }
    ],
}
CHANGED = {"count": 120, "first": [EVIL]}
DATASET = {
    "name": "pets",
    "version": 1,
    "counts": {"train": 9},
    "image_size": 32,
    "left_out": 1,
    "source": EVIL,
}
INFO = {
    **DATASET,
    **{"version": 2, "classes": [EVIL, "dog"], "class_counts": {"train": [4, 5]}, "resize": "crop"},
    **{"fingerprint": "0" * 64, "left_out_files": [{"source": EVIL, "kind": "unreadable", "reason": EVIL}]},
}
SUSPECT = {"split": "train", "row": 3, "source": EVIL, "label": EVIL, "note": EVIL}
CHECKED = {
    **{"state": "failed", "since": None, "error": EVIL},
    "last": {
        "made": 0.0,
        "predictions": EVIL,
        "findings": [{"title": EVIL, "advice": EVIL, "sentences": [EVIL], "count": 1, "images": [SUSPECT]}],
    },
}
FILE = {"kind": "onnx", "file": EVIL, "bytes": 9, "made": 0.0, "state": "ready", "since": None, "error": ""}
ABSENT = {**FILE, "kind": "report", "bytes": None, "made": None}
FILES = [FILE, {**ABSENT, "state": "absent", "error": EVIL}, {**ABSENT, "state": "making", "since": 0.0}]
PARCEL = {
    **{"id": "1f" * 16, "name": EVIL, "size": 9, "received": 4, "state": "arriving"},
    **{"answer": None, "error": "", "checked": 0, "of": 0},
}
MINUTE = {
    **{"began": 0.0, "ended": 60.0, "requests": 9, "requests_per_s": 0.15, "failed": 1, "refused": 0},
    **{"p50_ms": 2.0, "p99_ms": None, "confidence": 0.9, "images_per_batch": None},
}
HOUR = {
    **{"since": 0.0, "replicas": 2, "pending": 0, "now": None, "hour": MINUTE, "alarms": [EVIL]},
    **{
        "minutes": [MINUTE, {**MINUTE, "ended": 120.0}, {**MINUTE, "ended": 180.0}],
        "classes": {EVIL: 7, "dog": 1},
    },
}
ANSWERS: dict[str, Any] = {
    "GET /runs?page=1": {"dataset": EVIL, "runs": [RUN], "total": 120},
    "GET /runs/r1": RUN,
    "GET /datasets": {"datasets": [{**DATASET, "classes": 2, "counts": {"test": 9}}]},
    "GET /datasets/served": {"name": "pets"},
    "GET /datasets/pets/2": INFO,
    "GET /datasets/pets/2/differences": {
        "since": 1,
        **dict.fromkeys(("added", "removed", "relabelled", "moved"), CHANGED),
    },
    "GET /datasets/pets/2/check": CHECKED,
    "GET /models/pets/versions/7": ORIGIN,
    "GET /models/pets/versions/7/files": {"files": FILES},
    "GET /models/pets/comparison?challenger=7&champion=6": COMPARISON,
    "GET /health": {"model": {"name": EVIL, "version": "7"}, "rejection": REJECTION},
    "GET /models": {"models": [VERSION, {**VERSION, "version": "6", "aliases": []}]},
    "GET /uploads?state=waiting": {"dataset": EVIL, "uploads": [RECORD], "total": 1, "classes": [EVIL]},
    "GET /retrain": {"retrainings": [RETRAINING]},
    "GET /feedback": {"feedback": [CORRECTION, CORRECTION], "total": 2, "accuracy": {}},
    "GET /experiments": {"experiments": [EXPERIMENT, {**EXPERIMENT, "state": "ended", "id": "e0"}]},
    "GET /experiments/e1": EXPERIMENT,
    "GET /live": HOUR,
    "GET /drift": {
        "windows": [{"images": 9, "began": EVIL, "ended": "", "version": EVIL, "findings": [FINDING]}]
    },
}


_file = io.BytesIO()
Image.new("RGB", (4, 4)).save(_file, "PNG")
PICTURE = _file.getvalue()


# Answers to all paths that begin so.
BEGINNINGS = {
    "/studies/": STUDY,
    "/parcels": PARCEL,
    "/models?name=": {"models": [VERSION, {**VERSION, "version": "6", "aliases": []}], "more": True},
}


URL = "http://127.0.0.1:8080"  # of the console


def signed_in(client: TestClient, letter: str) -> str:
    """Sign in, and return the session's secret."""
    answer = client.post("/sign-in", data={"token": letter * 64, "next": "/models"})
    assert (answer.status_code, answer.headers["location"]) == (303, "/models")
    found = re.search(r'data-csrf="([^"]+)"', client.get("/").text)
    assert found
    return found[1]


class Server:
    """Answers as a server of raycls would, and remembers what it was asked."""

    url = "http://127.0.0.1:8000"

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Any]] = []
        self.revoked, self.raycls_token = False, ""
        # A promotion waits for it, and is refused; a comparison waits for it.
        self.holds: threading.Event | None = None
        self.busy = 0  # so many comparisons are refused, because another one is under way

    async def answer(
        self, session: Session | None, method: str, path: str, **options: Any
    ) -> requests.Response:
        """Answer a picture, or a prediction. /metrics is closed where there is a RAYCLS_TOKEN."""
        self.asked.append(("GET" if path.startswith("/predict") else method, path, None))
        given = options.get("headers", {}).get("Authorization")
        if path == "/metrics" and self.raycls_token and given != f"Bearer {self.raycls_token}":
            raise ServerError(401, "send a token of the server")
        found = requests.Response()
        found.status_code = 200
        found._content = PICTURE if "/predict" not in path else b"{}"
        found._content_consumed = True  # type: ignore[attr-defined]  # not from a connection
        found.headers["Content-Disposition"] = "attachment"
        return found

    async def call(self, session: Session | None, method: str, path: str, **options: Any) -> Any:
        self.asked.append((method, path, options.get("json")))
        if self.revoked and session:
            raise ServerError(401, "send a token of the server")
        if path == "/whoami":
            name, roles = ROLES.get(options["headers"]["Authorization"].removeprefix("Bearer "), ("", []))
            if not name:
                raise ServerError(401, "send a token of the server")
            return {"name": name, "roles": roles}
        for beginning, answer in BEGINNINGS.items():
            if path.startswith(beginning):
                return answer
        if "/history" in path:
            return {"history": [EVENT], "former": EVIL}
        if self.holds and path.endswith("/promote"):
            await asyncio.to_thread(self.holds.wait)
            raise ServerError(409, "it is not <b>better</b>: `raycls promote` says more")
        if self.busy and "/comparison" in path:
            self.busy -= 1
            raise ServerError(429, "another comparison is under way")
        if self.holds and "/comparison" in path:
            await asyncio.to_thread(self.holds.wait)
        if method != "GET":
            return {"state": "waiting", "uploads": [RECORD], "feedback": [CORRECTION]}
        if f"{method} {path}" not in ANSWERS:
            raise ServerError(404, "there is no such thing")
        return ANSWERS[f"{method} {path}"]
