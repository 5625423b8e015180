"""Which element types convert into which without changing what a value means."""

from typing import Final

# Not F8_E8M0, which holds powers of two only, neither 0 nor a sign.
_FLOATS: Final = frozenset({"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"})
_INTEGERS: Final = frozenset({"I8", "U8", "I16", "U16", "I32", "U32", "I64", "U64"})
#: Types of the safetensors format that torch has no tensors of.
_UNREADABLE: Final = frozenset({"F4", "F6_E2M3", "F6_E3M2"})


def why_not_convertible(source: str, target: str) -> str:
    """Say why values of one dtype cannot go into another; empty where they can.

    Parameters
    ----------
    source, target : str
        Names of the safetensors format.
    """
    if source in _UNREADABLE:
        return f"{source} values cannot be read with torch"
    if source == target or any({source, target} <= family for family in (_FLOATS, _INTEGERS)):
        return ""
    return f"{source} values do not convert to {target}"
