"""What the kernel knows of a connection."""

from __future__ import annotations

import socket
import struct


def data_segments(connection: socket.socket) -> int:
    """How many segments with data have come over a TCP connection."""
    information = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 160)
    (count,) = struct.unpack_from("I", information, 152)  # tcpi_data_segs_in of linux/tcp.h
    return int(count)
