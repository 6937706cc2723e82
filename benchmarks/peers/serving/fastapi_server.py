"""FastAPI under uvicorn with one image per forward pass: the usual first version of a service.

    python fastapi_server.py CHECKPOINT PORT WORKERS

The endpoint is async and computes in the event loop. A plain function would run in FastAPI's pool of forty threads,
which would all compute on the same few cores.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from model import Model, threads

app = FastAPI()
if "CHECKPOINT" in os.environ:  # this process is a worker
    model = Model(Path(os.environ["CHECKPOINT"]), threads=int(os.environ["THREADS"]))


@app.post("/predict")
async def predict(request: Request) -> dict[str, Any]:
    return model.answers(model.pixels(await request.body())[None])[0]


if __name__ == "__main__":
    directory, port, workers = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    os.environ |= {"CHECKPOINT": directory, "THREADS": str(threads(workers))}
    uvicorn.run("fastapi_server:app", port=port, workers=workers, access_log=False, log_level="warning")
