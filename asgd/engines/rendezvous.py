"""How nodes find the server: addresses, ports and interfaces. Beyond loopback only for who says so."""

import ipaddress
import logging
import socket
import time

import psutil

log = logging.getLogger(__name__)

DEFAULT_PORT = 29500


def check_address(host: str, port: int | None, trusted: bool) -> None:
    """ValueError for a port that is none, a host without address, and one beyond loopback that is not trusted."""
    check_port(port)
    loopback = ipaddress.ip_address(resolve(host)).is_loopback
    if loopback and trusted:
        log.warning("engine.host=%s is loopback on this machine, so no other machine can come here", host)
    if not loopback and not trusted:
        raise ValueError(
            f"engine.host={host} is beyond loopback: whoever reaches the port of torch.distributed.rpc can run code on "
            "this machine. Where the network is trusted, say engine.trusted_network=true; otherwise use a tunnel"
        )


def check_port(port: int | None) -> None:
    if port is not None and not (isinstance(port, int) and 0 < port < 65536):
        raise ValueError(f"engine.port={port}: 1 to 65535, or null")


def resolve(host: str) -> str:
    """The IP address of a host."""
    try:
        return socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0]
    except socket.gaierror as error:
        raise ValueError(f"engine.host={host}: no such host ({error}); give the server's name or address") from error


def bound(host: str, port: int) -> socket.socket:
    """A socket on exactly this address; port 0 takes a free one, which is kept for whoever is to listen there."""
    address = resolve(host)
    made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((address, port))
    except OSError:
        made.close()
        raise
    return made


def listen(host: str, port: int) -> socket.socket:
    """A listening socket on exactly this address; port 0 takes a free one."""
    listener = None
    try:
        listener = bound(host, port)
        listener.listen(1024)
    except OSError as error:
        if listener:
            listener.close()
        raise ValueError(
            f"engine.host={host} engine.port={port}: cannot listen there ({error.strerror}); the server's host must be "
            "an address of this machine, and the port must be free: another run may hold it"
        ) from error
    return listener


def wait_for_server(host: str, port: int, timeout: float, every: float = 0.2) -> None:
    """Until something listens there. TimeoutError after ``timeout`` seconds."""
    address, deadline = (resolve(host), port), time.monotonic() + timeout
    while True:
        try:
            return socket.create_connection(address, timeout=5).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"no server at {host}:{port} within {timeout:g} s ({error}); "
                    "start it with role=ps, or raise engine.join_timeout"
                ) from error
        time.sleep(every)


def interface_to(host: str) -> str:
    """The name of the network interface that leads to ``host``, or that carries its address."""
    address = resolve(host)
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((address, 9))  # sends nothing: it only asks the routing table
        own = probe.getsockname()[0]
    for name, addresses in psutil.net_if_addrs().items():
        if any(each.address.partition("%")[0] == own for each in addresses):
            return name
    raise ValueError(f"engine.host={host}: no interface here leads to it; name one with engine.interface=")


def address_of(interface: str) -> str:
    """The address by which others reach this machine through ``interface``. ValueError if it has none."""
    for each in psutil.net_if_addrs().get(interface, []):
        if each.family == socket.AF_INET or (each.family == socket.AF_INET6 and "%" not in each.address):
            return each.address
    raise ValueError(f"engine.interface={interface}: no such interface here, or one without an address")
