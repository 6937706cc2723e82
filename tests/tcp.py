"""Reads the kernel's counters of a TCP connection."""

from __future__ import annotations

import socket
import struct


def data_segments(connection: socket.socket) -> int:
    """Return the number of data segments that a TCP connection has received."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    (count,) = struct.unpack_from("I", information, 152)  # tcpi_data_segs_in of linux/tcp.h
    return int(count)
