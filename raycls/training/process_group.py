"""Workers on several nodes find each other at the addresses by which Ray knows their nodes.

    TorchTrainer(work, torch_config=on_several_nodes(), …)

Gloo, which joins workers on CPUs, takes the address that a host's own name leads to. On many systems (Debian writes
127.0.1.1 into /etc/hosts) that is a loopback address, and no other node reaches it. GLOO_SOCKET_IFNAME names an
interface in place of it; it may be another one on each node, and it is read when the process group begins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from ray.train.torch import TorchConfig

INTERFACE = "GLOO_SOCKET_IFNAME"


@dataclass
class _OnSeveralNodes(TorchConfig):
    @property
    def backend_cls(self) -> Any:
        stock = super().backend_cls

        class Backend(stock):  # type: ignore[misc,valid-type]
            def on_start(self, worker_group: Any, backend_config: Any) -> None:
                worker_group.execute(use_own_interface)
                super().on_start(worker_group, backend_config)

        return Backend


def on_several_nodes() -> TorchConfig:
    """Return the configuration of a trainer whose workers may be on other nodes than its driver."""
    return _OnSeveralNodes()


def use_own_interface() -> None:
    """Have this worker's process group use the interface with Ray's address of the node, where nothing else is set."""
    from ray.util import get_node_ip_address

    if found := interface_of(get_node_ip_address()):
        os.environ.setdefault(INTERFACE, found)


def interface_of(address: str) -> str:
    """Return the name of this machine's interface that has an address; "" where none has, as behind a translation."""
    import psutil

    for name, addresses in psutil.net_if_addrs().items():
        if address in {each.address.partition("%")[0] for each in addresses}:
            return str(name)
    return ""
