"""Build hook: a wheel carries the compiled kernel programs, so that a node needs no compiler.

Where clang is missing the wheel is built without them: everything but kernel capture works from it, and
capture says what is missing. An editable install compiles on first use instead.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class KernelPrograms(BuildHookInterface):  # type: ignore[misc]
    """Compiles `bpf/*.bpf.c` into `ringfence/capture/objects/`."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the objects to the wheel."""
        if version == "editable":
            return
        root = Path(self.root)
        sys.path.insert(0, str(root / "src"))
        from ringfence.capture.build import PROGRAMS, compile_program
        from ringfence.model.problems import Problem

        folder = Path(tempfile.mkdtemp(prefix="ringfence-bpf-"))
        for name in PROGRAMS:
            target = folder / f"{name}.bpf.o"
            try:
                compile_program(root / "bpf" / f"{name}.bpf.c", target)
            except Problem as problem:
                self.app.display_warning(f"wheel without kernel capture: {problem}")
                return
            build_data["force_include"][str(target)] = f"ringfence/capture/objects/{target.name}"
