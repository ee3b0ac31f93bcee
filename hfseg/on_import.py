"""Importing a module of ours after one of another package, whenever that happens, and not before."""

import importlib
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def after_import(trigger: str, follower: str) -> None:
    """Import `follower` once `trigger` has been imported: now, if it is there already.

    The follower waits until no module of the trigger's package is half imported, so it may use any of them.
    """
    if trigger in sys.modules:
        importlib.import_module(follower)
    else:
        sys.meta_path.insert(0, _Watch(trigger, follower))


class _Watch(MetaPathFinder):
    """Finds the modules of the trigger's package as the other finders do, and counts how deep their imports nest."""

    def __init__(self, trigger: str, follower: str) -> None:
        self.trigger, self.follower = trigger, follower
        self.package = trigger.partition(".")[0]
        self.depth = 0

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname != self.package and not fullname.startswith(f"{self.package}."):
            return None
        others = [finder for finder in sys.meta_path if finder is not self]
        specs = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((spec for spec in specs if spec is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _Watched(spec.loader, self)
        return spec

    def end(self) -> None:
        """Let the follower come after the outermost import, once the trigger is there."""
        if self.depth or self.trigger not in sys.modules:
            return
        if self in sys.meta_path:
            sys.meta_path.remove(self)
            importlib.import_module(self.follower)


class _Watched(Loader):
    """Executes a module with its own loader and tells the watch when it is done."""

    def __init__(self, inner: Loader, watch: _Watch) -> None:
        self.inner, self.watch = inner, watch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self.inner.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__.loader = module.__loader__ = self.inner  # what readers of data files and sources look at
        self.watch.depth += 1
        try:
            self.inner.exec_module(module)
        finally:
            self.watch.depth -= 1
        self.watch.end()
