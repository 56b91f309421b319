"""Checks which modules import which: a module may import those before it in the list, and those on its own line."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ORDER = """
errors files wav
schema
config
arrays entropy samples truncation
resampling
audio codes container graphs plotting pretrained
batching codebook network web weights
model
engine
sessions
groups
vocabulary
tokenizer
live bulk hf serve client
export
evaluation
training
bench
cli __init__ __main__
""".strip().splitlines()
ROW = {name: row for row, line in enumerate(ORDER) for name in line.split()}
PACKAGE = Path(__file__).parent.parent / "spectok"
FILES = sorted(PACKAGE.rglob("*.py"))
TORCH_AT_THE_TOP = {"weights", "model", "export", "training", "evaluation", "bench"}
TORCH_IN_FUNCTIONS = {"engine", "tokenizer"}


def part_of(path: Path) -> str:
    """The name in the list: that of the module, or of the subpackage that contains the file."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(path: Path) -> list[tuple[str, bool]]:
    """(module, whether it is inside a function) for every import in a file, except those for type checkers only."""

    def walk(node: ast.AST, inside: bool) -> Iterator[tuple[str, bool]]:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            return
        if isinstance(node, ast.Import):
            yield from ((alias.name, inside) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            if node.module == "spectok":
                yield from ((f"spectok.{alias.name}", inside) for alias in node.names)
            else:
                yield str(node.module), inside
        for child in ast.iter_child_nodes(node):
            yield from walk(child, inside or isinstance(node, ast.FunctionDef))

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False))


def test_importing_spectok_does_not_import_engines() -> None:
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, spectok; print(*sys.modules)"], capture_output=True, text=True, check=True
    ).stdout.split()
    assert "spectok" in loaded
    heavy = {
        "torch",
        "torchaudio",
        "vector_quantize_pytorch",
        "pyarrow",
        "ray",
        "transformers",
        "datasets",
        "websockets",
    }
    assert heavy.isdisjoint(loaded)


def test_every_module_is_in_the_list() -> None:
    assert {part_of(path) for path in FILES} <= set(ROW)


def test_imports_go_down_the_list_only() -> None:
    wrong = []
    for path in FILES:
        for module, _ in imports(path):
            if module.startswith("spectok.") and (target := module.split(".")[1]) in ROW:
                mine = part_of(path)
                if ROW[target] > ROW[mine] or (target, mine) == ("training", "cli"):
                    wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_each_library_is_imported_only_where_it_belongs() -> None:
    wrong = []
    for path in FILES:
        part = part_of(path)
        for module, inside in imports(path):
            library = module.split(".")[0]
            allowed = {
                "torch": part in TORCH_AT_THE_TOP or (inside and part in TORCH_IN_FUNCTIONS),
                "onnxruntime": inside and part in {"engine", "export"},
                "onnx": inside and part == "export",
                "torchaudio": part in {"training", "evaluation"},
                "vector_quantize_pytorch": path.name == "quantizer.py",
                "transformers": part in {"hf", "bench"},
                "datasets": False,
                "soundfile": path.name == "audio.py",
                "soxr": path.name == "resampling.py",
                "sounddevice": inside and part == "cli",
                "websockets": part in {"serve", "client"},
                "pyarrow": part == "bulk",
                "ray": inside and path.name == "cluster.py",
                "pickle": False,
            }
            if not allowed.get(library, True):
                wrong.append(f"{path.relative_to(PACKAGE)} imports {module}")
    assert wrong == []


def test_the_checks_find_every_kind_of_import(tmp_path: Path) -> None:
    file = tmp_path / "example.py"
    file.write_text(
        "import torch.nn as nn\nfrom spectok import audio, config\nif TYPE_CHECKING:\n    import pickle\n"
        "class A:\n    def f(self):\n        from spectok.model.codec import Codec\n"
    )
    assert imports(file) == [
        ("torch.nn", False),
        ("spectok.audio", False),
        ("spectok.config", False),
        ("spectok.model.codec", True),
    ]
