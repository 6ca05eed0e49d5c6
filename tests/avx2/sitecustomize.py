"""A processor with AVX2 and no bfloat16, simulated in every Python process that has this folder on its path.

    PYTHONPATH=$PWD/tests/avx2 python -m pytest

Python imports a module of this name when it starts; so it reaches all that the tests start, too.
"""

import os
import sys
from importlib.abc import MetaPathFinder
from importlib.util import find_spec

os.environ |= {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}  # read when PyTorch is loaded


class _WithoutBfloat16(MetaPathFinder):
    """Patches ``torch.cpu`` when it is imported, which most processes never do."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "torch.cpu":
            return None
        sys.meta_path.remove(self)
        spec = find_spec(fullname)
        load = spec.loader.exec_module

        def load_and_patch(module):
            load(module)
            found = module.get_capabilities
            nothing = dict.fromkeys(("amx_bf16", "avx512_bf16", "bf16"), False)
            module.get_capabilities = lambda: found() | nothing

        spec.loader.exec_module = load_and_patch
        return spec


sys.meta_path.insert(0, _WithoutBfloat16())
