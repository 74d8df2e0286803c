"""Which source files a stage depends on, so that editing a module reruns the stages that use it."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent
# Configuration reaches a job through its params, which Snakemake compares by value; errors are only words.
UNTRACKED = ("neuroalign.config", "neuroalign.errors", "neuroalign.jobs")


def source_files(*modules: str) -> list[str]:
    """Files of the package that `modules` import, directly or not, themselves included.

    Parameters
    ----------
    *modules : str
        Dotted names such as ``neuroalign.fmri.extract``; ``neuroalign.video.backbones.*`` is every module of a
        package, for registries that import by name.

    Returns
    -------
    list of str
        Sorted paths, relative to the working directory where they lie inside it, so that moving a checkout changes
        nothing. Imports are read from the source, inside functions too, without running anything.
    """
    found: set[Path] = set()
    queue = [name for module in modules for name in _expanded(module)]
    while queue:
        path = _file(queue.pop())
        if path is not None and path not in found:
            found.add(path)
            queue.extend(_imports(path))
    here = Path.cwd().resolve()
    return sorted(str(path.relative_to(here) if path.is_relative_to(here) else path) for path in found)


def _expanded(module: str) -> list[str]:
    if not module.endswith(".*"):
        return [module]
    folder = PACKAGE.joinpath(*module.removesuffix(".*").split(".")[1:])
    return [f"{module[:-2]}.{path.stem}" for path in sorted(folder.glob("*.py")) if path.stem != "__init__"]


def _file(module: str) -> Path | None:
    if module == "neuroalign" or module.startswith(UNTRACKED):
        return None
    base = PACKAGE.joinpath(*module.split(".")[1:])
    for candidate in (base.with_suffix(".py"), base / "__init__.py"):
        if candidate.is_file():
            return candidate
    return None


@cache
def _imports(path: Path) -> tuple[str, ...]:
    names: list[str] = []
    package = "neuroalign." + ".".join(path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            # `from package import name`: the name may be a module of its own.
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.ImportFrom):
            base = package.rstrip(".").rsplit(".", node.level - 1)[0]
            names += [f"{base}.{node.module}"] if node.module else [f"{base}.{a.name}" for a in node.names]
    # Importing a module runs the packages above it first.
    parents = [".".join(name.split(".")[:depth]) for name in names for depth in range(2, name.count(".") + 1)]
    return tuple(name for name in dict.fromkeys(names + parents) if name.startswith("neuroalign."))
