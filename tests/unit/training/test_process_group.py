"""The interface at which workers on other nodes are found. tests/stories/test_two_hosts.py trains on two hosts."""

from __future__ import annotations

import os

import pytest

from raycls.training.process_group import INTERFACE, interface_of, on_several_nodes, use_own_interface


def test_an_address_has_an_interface_or_none() -> None:
    assert interface_of("127.0.0.1") == "lo"
    assert interface_of("192.0.2.1") == ""  # of RFC 5737: no machine has it


def test_a_worker_takes_the_interface_of_its_node_unless_one_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.delenv(INTERFACE, raising=False)
    use_own_interface()
    assert os.environ[INTERFACE] == "lo"
    monkeypatch.setenv(INTERFACE, "mine")
    use_own_interface()
    assert os.environ[INTERFACE] == "mine"


def test_every_worker_is_told_before_the_process_group_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    config = on_several_nodes()
    done: list[str] = []

    class Group:
        def execute(self, function: object) -> None:
            assert function is use_own_interface
            done.append("told")

    backend = config.backend_cls
    monkeypatch.setattr(backend.__mro__[1], "on_start", lambda self, group, config: done.append("begun"))
    backend().on_start(Group(), config)
    assert done == ["told", "begun"]
