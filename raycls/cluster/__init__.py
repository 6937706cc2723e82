"""Ray's lifecycle, its environment and its processes.

from raycls import cluster

running = cluster.start()
"""

from raycls.cluster.dashboard import is_private, own_dashboard, serves_here
from raycls.cluster.lifecycle import Cluster, connect, start, status, stop

__all__ = ["Cluster", "connect", "is_private", "own_dashboard", "serves_here", "start", "status", "stop"]
