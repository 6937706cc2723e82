"""raycls: from a folder of images to a tuned, versioned, autoscaled and benchmarked HTTP classifier on Ray.

    images ─► data ─► packed dataset ─► training ─► checkpoint ─► registry ─► serving ◄─ HTTP images

    raycls data prepare cifar10     raycls.data.sources.prepare      a packed dataset (uint8, memory-mapped)
    raycls tune cifar10             raycls.tuning.study.tune          many trials; the best trained in full
    raycls train cifar10            raycls.training.trainer.train    one run under Ray Train
    raycls promote cifar10 3        raycls.serving.control.rollout.promote   the version that is served, examined first
    raycls up                       raycls.serving.control.deploy.up         autoscaled replicas behind POST /predict

Importing this package, or any module in it, does nothing: no directory, no process, no connection.
"""

__version__ = "0.1.0"
__all__: list[str] = []
