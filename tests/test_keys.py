"""Keys of a star: who has none, or another one, is told so at once and gets in nowhere; with them a run works."""

import shutil
import socket
import stat
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from asgd import keys, results
from asgd.engines.star.caller import Lost
from tests.conftest import ROOT, free_port
from tests.star import Node, a_star

QUICK = 20.0  # seconds, of the patience of a worker that would wait for its server for much longer


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A set of keys; not to be changed."""
    folder = tmp_path_factory.mktemp("keys") / "keys"
    keys.make(folder)
    return folder


@pytest.fixture
def another(tmp_path) -> Path:
    keys.make(tmp_path / "another")
    return tmp_path / "another"


def make(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "asgd.keys", *words]
    return subprocess.run(command, cwd=cwd, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60)


def test_the_command_makes_files_that_only_their_owner_reads_and_overwrites_none(tmp_path):
    first = make(cwd=tmp_path)
    assert first.returncode == 0 and "engine.keys=keys" in first.stdout
    made = {path.relative_to(tmp_path / "keys").as_posix(): path for path in (tmp_path / "keys").rglob("*.key*")}
    assert made.keys() == keys.FILES.keys()
    assert [name for name, path in made.items() if stat.S_IMODE(path.stat().st_mode) == 0o600] == [
        name for name in made if name.endswith("_secret")
    ]
    contents = {name: path.read_bytes() for name, path in made.items()}
    again = make(cwd=tmp_path)
    assert again.returncode == 2 and "is there already" in again.stderr and "Traceback" not in again.stderr
    assert contents == {name: path.read_bytes() for name, path in made.items()}


@pytest.mark.parametrize("left", keys.FILES)
def test_no_key_that_is_there_is_overwritten(tmp_path, folder, left):
    (tmp_path / left).parent.mkdir(exist_ok=True)
    shutil.copy(folder / left, tmp_path / left)
    with pytest.raises(ValueError, match="give another folder"):
        keys.make(tmp_path)
    assert (tmp_path / left).read_bytes() == (folder / left).read_bytes()


def test_a_secret_is_never_readable_by_others_not_even_for_a_moment(tmp_path, monkeypatch):
    modes = []
    written = keys.zmq.auth.create_certificates

    def watched(*arguments):
        made = written(*arguments)
        modes.extend(stat.S_IMODE(Path(path).stat().st_mode) for path in made if path.endswith("_secret"))
        return made

    monkeypatch.setattr(keys.zmq.auth, "create_certificates", watched)
    keys.make(tmp_path / "keys")
    assert modes == [0o600, 0o600]


@pytest.mark.parametrize("missing", ["server.key_secret", "clients/worker.key"])
def test_a_server_without_its_files_says_which(tmp_path, folder, missing):
    shutil.copytree(folder, tmp_path / "keys")
    (tmp_path / "keys" / missing).unlink()
    with pytest.raises(ValueError, match=str(tmp_path / "keys")):
        keys.ring(tmp_path / "keys", keys.SERVER)


@pytest.mark.parametrize("missing", ["server.key", "worker.key_secret"])
def test_a_worker_without_its_files_says_which(tmp_path, folder, missing):
    shutil.copytree(folder, tmp_path / "keys")
    (tmp_path / "keys" / missing).write_text("no key")
    with pytest.raises(ValueError, match=missing):
        keys.ring(tmp_path / "keys", keys.WORKER)


def test_a_public_key_is_no_secret_one(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "keys")
    shutil.copy(folder / "server.key", tmp_path / "keys" / "server.key_secret")
    with pytest.raises(ValueError, match="holds no secret key"):
        keys.ring(tmp_path / "keys", keys.SERVER)


# Who gets in


def refused(star, ring: keys.Ring | None) -> str:
    """What a worker with these keys is told."""
    with pytest.raises(Lost) as error:
        Node(star.address, patience=QUICK * 5, secured=ring)
    return str(error.value)


def check_alive(star, folder: Path) -> None:
    node = star.worker(secured=keys.ring(folder, keys.WORKER))
    node.join()
    assert node.push().version >= 1
    node.leave()


def test_with_the_right_keys_a_worker_works(tmp_path, folder):
    with a_star(tmp_path / "run", "workers=1", secured=keys.ring(folder, keys.SERVER)) as star:
        check_alive(star, folder)
        assert not star.post.strangers


def intruders(folder: Path, another: Path) -> dict[str, keys.Ring | None]:
    own, foreign = keys.ring(folder, keys.WORKER), keys.ring(another, keys.WORKER)
    return {
        "no key": None,
        "a key that is not let in": own._replace(public=foreign.public, secret=foreign.secret),
        "another server's key": own._replace(server=foreign.server),
        "another set": foreign,
        "the worker's for the server's": own._replace(server=own.public),
    }


@pytest.mark.timeout(240)
def test_who_has_another_key_or_none_is_told_so_at_once_and_noted(tmp_path, folder, another):
    with a_star(tmp_path / "run", "workers=1", secured=keys.ring(folder, keys.SERVER)) as star:
        for number, (name, ring) in enumerate(intruders(folder, another).items(), start=1):
            told = refused(star, ring)
            assert "engine.keys=" in told and "python -m asgd.keys" in told, name
            assert star.post.strangers.total() >= number, name
        check_alive(star, folder)


def test_a_worker_with_keys_does_not_speak_to_a_server_without(tmp_path, folder):
    with a_star(tmp_path / "run", "workers=1") as star:
        assert "engine.keys=" in refused(star, keys.ring(folder, keys.WORKER))


def test_a_tunnel_whose_other_end_is_not_there_yet_is_waited_for():
    """It lets connections in and closes them at once; a server without the right key would have greeted before."""
    with socket.create_server(("127.0.0.1", 0)) as tunnel:
        closed = []

        def close_all() -> None:
            with suppress(OSError):
                while True:
                    tunnel.accept()[0].close()
                    closed.append(True)

        threading.Thread(target=close_all, daemon=True).start()
        with pytest.raises(Lost, match="nothing was heard of the server"):
            Node(f"tcp://127.0.0.1:{tunnel.getsockname()[1]}", patience=2.5)
        assert len(closed) >= 4
        tunnel.shutdown(socket.SHUT_RDWR)


def test_a_key_that_was_removed_gets_in_no_more(tmp_path, folder):
    shutil.copytree(folder, tmp_path / "keys")
    (tmp_path / "keys" / "clients" / "worker.key").rename(tmp_path / "worker.key")
    keys.zmq.auth.create_certificates(tmp_path / "keys" / "clients", "other")
    with a_star(tmp_path / "run", "workers=1", secured=keys.ring(tmp_path / "keys", keys.SERVER)) as star:
        assert "does not know this node's key" in refused(star, keys.ring(folder, keys.WORKER))


def test_a_worker_cannot_pass_for_the_server(tmp_path, folder):
    """Its own pair as a server's: the workers know the server by another key."""
    own = keys.ring(folder, keys.WORKER)
    posing = keys.Ring(own.public, own.secret, own.public, folder / "clients")
    with a_star(tmp_path / "run", "workers=1", secured=posing) as star:
        assert "engine.keys=" in refused(star, own)
        assert not star.service.ranks


# Commands


def beyond_loopback() -> str | None:
    """An address of this machine that others may reach."""
    for addresses in psutil.net_if_addrs().values():
        for each in addresses:
            if each.family == socket.AF_INET and not each.address.startswith("127."):
                return each.address
    return None


def test_beyond_loopback_nothing_starts_without_keys(start, tmp_path):
    if (address := beyond_loopback()) is None:
        pytest.skip("this machine has no address beyond loopback")
    run = start("engine=zmq", f"engine.host={address}")
    output = run.wait()
    assert run.code == 2 and "python -m asgd.keys" in output and "Traceback" not in output
    assert not (run.folder / "stats").exists()


FAST = ["engine=zmq", "model=mlp", "model.hidden=[16]", "evaluate.every=0", "budget.epochs=null", "budget.updates=60"]


@pytest.mark.slow
def test_a_run_with_keys(start, folder):
    run = start(*FAST, f"engine.keys={folder}")
    output = run.wait()
    assert run.code == 0, output
    assert results.summary(run.folder)["applied"] == 60 and "stranger" not in output


@pytest.mark.slow
def test_a_worker_without_keys_ends_and_the_others_go_on(start, folder, tmp_path):
    port = f"engine.port={free_port()}"
    server = start(*FAST, "role=ps", "workers=2", port, f"engine.keys={folder}")
    plain = start(*FAST, "role=worker", "rank=1", "workers=2", port)
    output = plain.wait()
    assert plain.code != 0 and "engine.keys=" in output and "Traceback" not in output
    others = [start(*FAST, "role=worker", f"rank={n}", "workers=2", port, f"engine.keys={folder}") for n in (1, 2)]
    assert [(each.wait(), each.code)[1] for each in (*others, server)] == [0, 0, 0]
    assert "somebody at the server's port" in server.output
