"""When torch and BasicSR are imported: with the first module that needs them, and then everything is registered.

``import rsr_basicsr`` promises that BasicSR's registries hold this package. Nobody can look into them before BasicSR is
imported, so the promise is kept then: a finder on ``sys.meta_path`` imports everything, always in the same order, when
BasicSR or a module of ours outside :data:`LIGHT_ROOMS` is first imported. Commands that need neither start at once.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

#: Folders of the package that import neither torch nor BasicSR, and nothing of the other folders at their top level
LIGHT_ROOMS = ('catalog', 'cli', 'leaderboard', 'utils')

_PACKAGE, _HOST = 'rsr_basicsr', 'basicsr'
_ROOMS_THAT_REGISTER = ('archs', 'attacks', 'data', 'losses', 'metrics', 'models')
_begun = False


def install() -> None:
    """Register everything as soon as BasicSR is imported; at once, if it is imported already.

    Raises:
        ModuleNotFoundError: BasicSR is not installed.
    """
    _require_basicsr()
    if _HOST in sys.modules:
        register_all()
    else:
        sys.meta_path.insert(0, _Finder())


def register_all() -> None:
    """Import BasicSR with its workarounds, and everything that registers itself in it; does nothing the second time."""
    global _begun
    if _begun:
        return
    _begun = True
    try:
        compat = importlib.import_module(f'{_PACKAGE}.compat')
        compat.before_import()
        importlib.import_module(_HOST)
        compat.after_import()
        compat.warn_of_unknown_versions(compat.versions())
        for room in _ROOMS_THAT_REGISTER:
            importlib.import_module(f'{_PACKAGE}.{room}')
    except BaseException:
        _begun = False  # the next import fails with the same error, not with one that follows from it
        raise


def _require_basicsr() -> None:
    """BasicSR may be missing: it is no dependency that pip installs (see setup.py)."""
    spec = importlib.util.find_spec(_HOST)
    if spec is None or spec.origin is None:  # no origin: a folder of that name that is no package
        raise ModuleNotFoundError(
            'rsr_basicsr is a plugin for BasicSR, which is not installed: install it, in a clone of RSR-BasicSR, with: '
            'python scripts/install_basicsr.py',
            name=_HOST,
        )


def basicsr_version() -> str:
    """The version of the installed BasicSR, read from its file: neither its name for pip nor its import is needed."""
    spec = importlib.util.find_spec(_HOST)
    assert spec is not None and spec.origin is not None, 'install() has found it'
    text = (Path(spec.origin).parent / 'version.py').read_text(encoding='utf-8')
    found = re.search(r"^__version__ = ['\"](.+?)['\"]", text, re.MULTILINE)
    return found[1] if found else 'unknown'


def _needs_all(name: str) -> bool:
    """Whether a module, by its full name, needs torch or BasicSR."""
    top, _, rest = name.partition('.')
    if top == _HOST:
        return True
    return top == _PACKAGE and bool(rest) and rest.partition('.')[0] not in LIGHT_ROOMS


class _Finder(MetaPathFinder):
    """Finds modules as usual, and lets everything be imported before the first one that needs it."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if _begun or not _needs_all(fullname):
            return None
        others = [finder for finder in sys.meta_path if finder is not self and hasattr(finder, 'find_spec')]
        found = (finder.find_spec(fullname, path, target) for finder in others)
        spec = next((one for one in found if one is not None), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _AllFirst(spec.loader)
        return spec


class _AllFirst(Loader):
    """Imports everything, the module included, before it hands the module out.

    Like :class:`importlib.util.LazyLoader`, it stands in front of the loader of a module.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader
        self._spec: ModuleSpec | None = None

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        register_all()
        module = sys.modules.get(spec.name)
        if module is None:  # nothing that registers imports it
            spec.loader = self.loader
            created: ModuleType | None = self.loader.create_module(spec)
            return created
        self._spec = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        if self._spec is None:
            self.loader.exec_module(module)
        else:
            module.__spec__ = self._spec

    def __getattr__(self, name: str) -> Any:  # what else a loader can do: runpy asks for the code
        return getattr(self.loader, name)
