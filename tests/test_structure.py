"""The walls between the modules, as docs/design.md draws them: who may import whom, and what the core never touches."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "asgd"
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in PACKAGE.rglob("*.py")}
MODULES = {name.removesuffix(".__init__"): path for name, path in MODULES.items()}

ALLOWED = {  # module: what it may import of ours; a package stands for all that is in it
    "messages": (),
    "seeds": (),
    "timing": ("results", "seeds", "timing"),
    "weights": (),
    "budget": (),
    "schedules": (),
    "buffers": (),
    "records": (),
    "results": ("records", "results"),
    "environment": (),
    "objectives": ("records",),
    "tuning": (),
    "sweeps": ("objectives", "records"),
    "ledger": ("messages",),
    "rules": ("messages",),
    "momentum": ("messages", "rules"),
    "robust": ("rules",),
    "policies": ("ledger", "messages"),
    "parameters": ("kernels", "messages", "on_device", "staging"),
    "on_device": ("staging",),
    "gate": ("ledger", "messages"),
    "corrections": ("messages",),
    "reads": ("ledger", "messages"),
    "mixing": ("messages",),
    "delayed_nesterov": ("rules",),
    "server": ("budget", "gate", "ledger", "messages", "parameters", "precision"),
    "elementwise": ("server",),
    "task": ("compute", "data.batch", "flat", "parameters", "seeds", "staging"),
    "staging": (),
    "compute": (),
    "flat": (),
    "workers": ("codecs", "data.batch", "messages", "precision", "seeds", "task"),
    "local_steps": ("data.batch", "messages", "workers"),
    "elastic": ("data.batch", "messages", "mixing", "seeds", "task", "workers"),
    "codecs": ("codecs", "seeds"),
    "data": ("data", "models._torchvision", "seeds", "words"),
    "words": (),
    "compare": ("compare", "records", "results", "words"),
    "kernels": ("one_pass",),
    "one_pass": (),
    "models": ("models", "seeds"),
    "observers": ("messages", "records", "watch.progress"),
    "watch": ("budget", "results", "watch", "words"),
    "trace": ("results", "timing", "trace", "watch.tails", "words"),
    "trackers": ("messages", "trackers", "watch.progress"),
    "evaluations": ("messages", "records"),
    "checkpoints": ("records",),
    "summary": ("records", "results", "server"),
    "audit": ("results", "server"),
    "describe": ("task",),
    "display": ("watch",),
    "system_stats": ("records",),
    "machine": ("parameters",),
    "job": (
        "buffers",
        "budget",
        "codecs",
        "compute",
        "data.batch",
        "data.prefetch",
        "gate",
        "machine",
        "objectives",
        "overlap",
        "parameters",
        "precision",
        "records",
        "server",
        "task",
        "trackers",
        "workers",
    ),
    "engines.hub": ("ledger", "messages", "server"),
    "engines.rpc": ("codecs", "engines.lanes", "engines.rendezvous", "engines.shared", "messages", "task"),
    "engines.lanes": ("codecs", "parameters"),
    "engines.overlapping": ("messages", "parameters", "task"),
    "overlap": ("ledger", "messages", "server", "workers"),
    "precision": ("messages", "parameters"),
    "engines.shared": (),
    "engines.star.session": (),
    "engines.star.client": ("engines.star.session",),
    "engines.star.desk": ("engines.star.session",),
    "engines.star.sockets": ("engines.star.session", "keys", "parameters"),
    "engines.star.post": ("engines.star.desk", "engines.star.session", "engines.star.sockets", "keys"),
    "engines.star.caller": (
        "engines.star.client",
        "engines.star.post",
        "engines.star.session",
        "engines.star.sockets",
        "keys",
    ),
    "engines.star.contents": ("codecs", "data.leases", "engines.shared", "engines.star.session", "messages"),
    "engines.star.ray_engine": ("engines.base", "engines.star.cluster", "engines.star.engine", "job", "keys"),
    "engines.star.cluster": (
        "engines.nodes",
        "engines.rendezvous",
        "engines.star.roles",
        "engines.star.supervisor",
        "job",
        "keys",
    ),
    "keys": ("words",),
    "engines.nodes": ("display", "engines.processes", "job"),
    "engines.parts": (),
    "engines.ordered": ("engines.hub", "ledger", "messages", "server"),
}
CORE = (
    "messages ledger gate rules momentum robust weights corrections reads policies parameters buffers budget schedules "
    "server workers task flat seeds observers mixing delayed_nesterov local_steps elastic codecs kernels one_pass "
    "elementwise precision overlap compute staging on_device"
).split()
OUTSIDE = {"time", "threading", "socket", "queue", "asyncio", "multiprocessing", "subprocess", "datetime", "random"}


def imports(name: str) -> set[str]:
    """The modules that a file imports, anywhere in it, by their full names."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {each if each in MODULES else node.module for each in whole}
    return found


def ours(name: str) -> set[str]:
    """What a file imports of the package, without the package's own name."""
    return {each.removeprefix("asgd.") for each in imports(name) if each.startswith("asgd.")}


def inside(module: str, names) -> bool:
    return any(module == each or module.startswith(f"{each}.") for each in names)


def within(name: str) -> list[str]:
    return [module for module in MODULES if inside(module, [f"asgd.{name}"])]


@pytest.mark.parametrize("name", ALLOWED)
def test_a_module_imports_only_what_its_wall_lets_through(name):
    assert within(name)
    for module in within(name):
        beyond = {each for each in ours(module) if not inside(each, ALLOWED[name])}
        assert not beyond, f"{module} imports {sorted(beyond)}"


@pytest.mark.parametrize("name", CORE)
def test_the_core_has_no_clock_thread_or_socket(name):
    roots = {each.partition(".")[0] for each in imports(f"asgd.{name}")}
    assert not roots & OUTSIDE
    assert not any(inside(each, ["engines"]) for each in ours(f"asgd.{name}"))


def test_only_the_command_line_and_engines_are_free_to_import_more():
    free = {name for name in MODULES if not inside(name, [f"asgd.{each}" for each in ALLOWED])}
    assert free - {"asgd", *within("engines"), *within("bench")} <= {
        "asgd.run",
        "asgd.resume",
        "asgd.command_line",
        "asgd.compare",
    }


def test_nothing_imports_the_command_line_but_the_command_line():
    top = ["run", "command_line", "compare"]
    for name in MODULES:
        assert inside(name, [f"asgd.{each}" for each in top]) or not [each for each in ours(name) if inside(each, top)]


def test_no_engine_is_known_outside_the_engines():
    outside = [name for name in MODULES if not inside(name, ["asgd.engines", "asgd.bench"])]
    assert not [name for name in outside if any(inside(each, ["engines"]) for each in ours(name))]


def test_engines_name_no_rule_weight_policy_or_model():
    for name in within("engines"):
        assert not [each for each in ours(name) if inside(each, ["rules", "weights", "policies", "models"])], name


def names_distributed(name: str) -> bool:
    """Whether a file imports torch.distributed or reaches it through torch."""
    nodes = ast.walk(ast.parse(MODULES[name].read_text()))
    reached = any(isinstance(node, ast.Attribute) and node.attr == "distributed" for node in nodes)
    return reached or any(inside(each, ["torch.distributed"]) for each in imports(name))


def test_only_one_file_knows_torchs_rpc():
    knowing = [name for name in MODULES if names_distributed(name)]
    assert [name for name in knowing if name not in within("bench")] == ["asgd.engines.rpc"]  # peers are measured there


def test_only_one_file_knows_ray():
    knowing = [name for name in MODULES if any(inside(each, ["ray"]) for each in imports(name))]
    assert [name for name in knowing if name not in within("bench")] == ["asgd.engines.star.cluster"]


def test_nothing_imports_tests_or_experiments():
    for name in MODULES:
        assert not [each for each in imports(name) if inside(each, ["tests", "experiments"])], name


def test_there_are_no_cycles():
    graph = {name: {f"asgd.{each}" for each in ours(name)} & set(MODULES) for name in MODULES}
    while leaves := {name for name, needs in graph.items() if not needs}:
        graph = {name: needs - leaves for name, needs in graph.items() if name not in leaves}
    assert not graph, f"a cycle among {sorted(graph)}"


def test_every_module_says_what_it_is():
    silent = [name for name, path in MODULES.items() if path.read_text() and not docstring(path)]
    assert not silent


def docstring(path: Path) -> str | None:
    return ast.get_docstring(ast.parse(path.read_text()))
