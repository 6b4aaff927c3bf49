"""Keys for ``engine=zmq``: ``python -m asgd.keys [folder]`` makes them.

CurveZMQ (RFC 26) encrypts all that is sent and lets in who has a key that the server knows. The server has one pair,
the workers another. A worker knows the server by its public key, so whoever has a worker's secret can be a worker and
not the server. ``clients`` holds the public keys that are let in: remove one, and add others by name.

    keys/server.key_secret    on the server's host only
    keys/clients/worker.key   on the server's host only
    keys/server.key           everywhere
    keys/worker.key_secret    on the workers' hosts only
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from asgd import words

SERVER, WORKER, CLIENTS = "server", "worker", "clients"
FILES = {  # and where each belongs
    "server.key_secret": "the server's host only",
    "clients/worker.key": "the server's host only",
    "server.key": "every host",
    "worker.key_secret": "the workers' hosts only",
}


class Ring(NamedTuple):
    """A node's own pair of keys, the server's public one, and, at the server, the folder of those that are let in."""

    public: bytes
    secret: bytes
    server: bytes
    clients: Path | None = None


def make(folder: Path) -> list[Path]:
    """The files of a new set of keys. ValueError where there is one of them."""
    (folder / CLIENTS).mkdir(parents=True, exist_ok=True)
    made = [folder / name for name in FILES]
    if found := [path for path in made if path.exists()]:
        raise ValueError(f"{found[0]} is there already; give another folder, or remove it")
    before = os.umask(0o077)  # so that nobody else can read a secret at any time
    try:
        for name in (SERVER, WORKER):
            zmq.auth.create_certificates(folder, name)
    finally:
        os.umask(before)
    (folder / "worker.key").replace(folder / CLIENTS / "worker.key")
    for path in made:
        path.chmod(0o600 if path.suffix == ".key_secret" else 0o644)
    return made


def ring(folder: str | Path, name: str) -> Ring:
    """The keys of ``server`` or ``worker``. ValueError for a file that is missing or none."""
    folder = Path(folder)
    public, secret = load(folder / f"{name}.key_secret", secret=True)
    if name == SERVER:
        if not list((folder / CLIENTS).glob("*.key")):
            raise ValueError(f"engine.keys={folder}: no public keys in {folder / CLIENTS}, so nobody could come")
        return Ring(public, secret, public, folder / CLIENTS)
    return Ring(public, secret, load(folder / "server.key")[0])


def load(path: Path, secret: bool = False) -> tuple[bytes, bytes | None]:
    try:
        pair = zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"engine.keys: {path} cannot be read ({error}); python -m asgd.keys makes keys") from error
    if secret and pair[1] is None:
        raise ValueError(f"engine.keys: {path} holds no secret key; python -m asgd.keys makes keys")
    return pair


def secure_server(socket: zmq.Socket, ring: Ring) -> None:
    socket.curve_publickey, socket.curve_secretkey, socket.curve_server = ring.public, ring.secret, True


def secure_worker(socket: zmq.Socket, ring: Ring) -> None:
    socket.curve_publickey, socket.curve_secretkey, socket.curve_serverkey = ring.public, ring.secret, ring.server


def guard(context: zmq.Context, ring: Ring) -> ThreadAuthenticator:
    """Lets in the public keys that the server's folder holds now; runs until its ``stop``."""
    keeper = ThreadAuthenticator(context)
    keeper.start()
    keeper.configure_curve(domain="*", location=str(ring.clients))
    return keeper


@dataclass(frozen=True)
class Options:
    """What can be said on the command line."""

    folders: tuple[str, ...] = words.places("where to; keys if none is given")

    def __post_init__(self):
        if len(self.folders) > 1:
            raise ValueError(f"{len(self.folders)} folders: give one")


def main(given: Options) -> None:
    folder = Path(given.folders[0] if given.folders else "keys")
    for path, place in zip(make(folder), FILES.values(), strict=True):
        print(f"{path}    {place}")
    print(f"then add engine.keys={folder} to every command")


if __name__ == "__main__":
    words.main(Options, main, "python -m asgd.keys [FOLDER]", "there may be some keys")
