"""What SGLang 0.5.21 needs beside ``sgl_kernel`` to start on a CPU: import stand-ins, a platform that may speculate.

``install_finders`` runs at interpreter start (a ``.pth`` file imports this module): it only adds import finders. Triton
kernels are never called on a CPU, but modules that define them are imported; and torchvision's wheel registers
operators of its CUDA build. ``activate`` is a plugin of SGLang: only the ``intel_amx`` backend can speculate on a CPU.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
import types
from collections.abc import Sequence
from typing import Any

IS_ON = os.environ.get("SGLANG_USE_CPU_ENGINE") == "1"
SKIPPED = "torchvision._meta_registrations"


class _Base:
    """Base of every class that is looked up in the stand-in."""

    def __init_subclass__(cls, **given: Any) -> None:
        super().__init_subclass__()

    def __init__(self, *given: Any, **named: Any) -> None:
        pass


class _Anything(types.ModuleType):
    """A module in which every name exists: a class when capitalised, else another such module, usable as decorator."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__path__: list[str] = []
        self.__file__ = __file__
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        full = f"{self.__name__}.{name}"
        found: Any = (
            type(name, (_Base,), {"__module__": self.__name__})
            if name[:1].isupper()
            else sys.modules.get(full) or _Anything(full)
        )
        setattr(self, name, found)
        return found

    def __call__(self, *given: Any, **named: Any) -> Any:
        is_bare_decorator = len(given) == 1 and callable(given[0]) and not named
        return given[0] if is_bare_decorator else lambda decorated: decorated

    def __bool__(self) -> bool:
        return False

    def __iter__(self) -> Any:
        return iter(())

    def __or__(self, other: Any) -> Any:
        return other

    __ror__ = __or__


class _Skip(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes one module empty."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        return importlib.machinery.ModuleSpec(name, self) if name == SKIPPED else None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: types.ModuleType) -> None:
        pass


class _Triton(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Answers for ``triton`` when it is not installed."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        is_triton = name.split(".")[0] == "triton"
        return importlib.machinery.ModuleSpec(name, self, is_package=True) if is_triton else None

    def create_module(self, spec: Any) -> types.ModuleType:
        module = _Anything(spec.name)
        if spec.name == "triton":
            module.__version__ = "3.6.0"
            module.cdiv = lambda a, b: -(a // -b)
            module.next_power_of_2 = lambda n: 1 << max(0, int(n) - 1).bit_length()
        return module

    def exec_module(self, module: types.ModuleType) -> None:
        pass


def install_finders() -> None:
    """Real triton, where it is installed, wins."""
    sys.meta_path.append(_Triton())
    sys.meta_path.insert(0, _Skip())


def activate() -> None:
    """Let SGLang believe that this CPU has AMX; called by SGLang's plugin loader in each of its processes."""
    if not IS_ON:
        return
    import sgl_kernel  # noqa: F401  registers the operators
    from sglang.srt.runtime_context import override_platform

    override_platform(has_amx=True).install()


if IS_ON:
    install_finders()
