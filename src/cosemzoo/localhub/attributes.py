"""Which files go to LFS (``.gitattributes`` and size) and which are not uploaded at all (``.gitignore``)."""

from dulwich.ignore import IgnoreFilter, Pattern

LARGE_FILE_BYTES = 10 * 1024 * 1024

_LFS_PATTERNS = (
    "*.7z",
    "*.arrow",
    "*.bin",
    "*.bz2",
    "*.ckpt",
    "*.ftz",
    "*.gz",
    "*.h5",
    "*.joblib",
    "*.lfs.*",
    "*.mlmodel",
    "*.model",
    "*.msgpack",
    "*.npy",
    "*.npz",
    "*.onnx",
    "*.ot",
    "*.parquet",
    "*.pb",
    "*.pickle",
    "*.pkl",
    "*.pt",
    "*.pth",
    "*.rar",
    "*.safetensors",
    "saved_model/**/*",
    "*.tar.*",
    "*.tar",
    "*.tflite",
    "*.tgz",
    "*.wasm",
    "*.xz",
    "*.zip",
    "*.zst",
    "*tfevents*",
)

#: The ``.gitattributes`` that the real Hub gives every new model repository, byte for byte.
DEFAULT_ATTRIBUTES = "".join(
    f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in _LFS_PATTERNS
).encode()


class LfsRules:
    """The LFS rules of one ``.gitattributes``.

    Parameters
    ----------
    attributes
        Its content.
    """

    def __init__(self, attributes: bytes) -> None:
        self._rules = [
            (Pattern(words[0]), b"filter=lfs" in words[1:])
            for words in (line.split() for line in attributes.splitlines())
            if words
            and not words[0].startswith(b"#")
            and any(word.lstrip(b"-!").startswith(b"filter") for word in words[1:])
        ]

    def is_lfs(self, path: str, size: int) -> bool:
        """Tell whether LFS keeps a file of ``size`` bytes at ``path``. The last matching rule decides."""
        by_name = False
        for pattern, lfs in self._rules:
            if pattern.match(path.encode()):
                by_name = lfs
        return by_name or size >= LARGE_FILE_BYTES


def is_ignored(path: str, gitignore: bytes) -> bool:
    """Tell whether a ``.gitignore`` excludes ``path``."""
    lines = (line.strip() for line in gitignore.splitlines())
    rules = IgnoreFilter(line for line in lines if line and not line.startswith(b"#"))
    return bool(rules.is_ignored(path.encode()))
