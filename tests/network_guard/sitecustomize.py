"""Put on PYTHONPATH, it closes the network to a Python process and to all that it starts: loopback and files stay.

An audit hook sees every socket that Python opens or resolves a name for, in whatever library, and cannot be taken out.
"""

import ipaddress
import sys

LOCAL = ("localhost", "", None)


def _is_local(host) -> bool:
    host = host.decode() if isinstance(host, bytes) else host
    if host in LOCAL:
        return True
    try:
        address = ipaddress.ip_address(str(host).partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified


def _guard(event: str, arguments: tuple) -> None:
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = arguments[1]
        if isinstance(address, tuple) and not _is_local(address[0]):  # a string is a socket in the file system
            raise ConnectionError(f"NETWORK CLOSED: {event} {address[0]}")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_local(arguments[0]):
        raise ConnectionError(f"NETWORK CLOSED: {event} {arguments[0]}")


sys.addaudithook(_guard)
