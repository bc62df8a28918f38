"""Hosts that requests may name in their header ``Host``."""

import ipaddress
import re
import socket
from collections.abc import Collection

from unet.errors import InputError

LOCAL = ("localhost", "127.0.0.1", "[::1]")
"""Names of this machine that no other machine can have."""


def allowed_hosts(listener: socket.socket, names: Collection[str] = ()) -> frozenset[str]:
    """Hosts that requests may name: those of the address listened on, and further ones.

    Args:
        listener: The socket that :func:`unet.page.listen` returned.
        names: Host names or addresses; one is required if the socket listens on all addresses.

    Raises:
        InputError: A name is not one, or is required.
    """
    address = ipaddress.ip_address(listener.getsockname()[0].partition("%")[0])
    hosts = {_host(name) for name in names} - {"0.0.0.0", "[::]"}
    if address.is_unspecified:
        if not hosts:
            raise InputError(
                f"{address} means every address of this machine; name the host that visitors enter in the browser, as "
                "in segmentation.example.org (requests for other hosts are refused)",
                "allow_host",
            )
    else:
        hosts.add(_host(str(address)))
    return frozenset(hosts.union(LOCAL if address.is_loopback or address.is_unspecified else ()))


def _host(name: str) -> str:
    """A host name or an address as in the header ``Host``, without port."""
    try:
        address = ipaddress.ip_address(name.strip("[]"))
    except ValueError:
        if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*", name, re.IGNORECASE):
            message = f"{name!r} is not a host name or address, without port, as in segmentation.example.org"
            raise InputError(message, "allow_host") from None
        try:
            return socket.inet_ntoa(socket.inet_aton(name))  # 0 is 0.0.0.0 and 127.1 is 127.0.0.1, also in a browser
        except OSError:
            return name.lower()
    return f"[{address}]" if address.version == 6 else str(address)
