"""The names of a checkpoint's tensors in the layout of another code base, without a model."""

from cosemzoo.checkpoints.shards import WeightsTable
from cosemzoo.errors import InvalidOption
from cosemzoo.loading.layouts import AS_IS, LAYOUTS, find_layout
from cosemzoo.loading.pairing import check_same_type, names_by_key, pair_by_name, stored_names


def names_in(layout: str, weights: WeightsTable, reference: str) -> dict[str, tuple[str, ...]]:
    """Translate the names of a checkpoint.

    Parameters
    ----------
    layout : str
        The name of one of `cosemzoo.loading.layouts.LAYOUTS`.
    weights : WeightsTable
    reference : str
        What the checkpoint is called in an error.

    Returns
    -------
    dict of str to tuple of str
        By every name that the layout has: the names that this tensor is stored under, which are several
        where the file holds it more than once.

    Raises
    ------
    InvalidOption
        If there is no such layout, or the checkpoint's names are of none.
    AliasConflict
        If names of one tensor have different shapes in the file.
    """
    wanted = find_layout(layout)
    if wanted is None:
        raise InvalidOption("layout", layout, f"one of {', '.join(repr(one.name) for one in LAYOUTS)}")
    names = [*weights.tensors, *weights.aliases]
    # Names tell more than a manifest, which can be wrong.
    origin = pair_by_name((), names, declared=None).origin
    if origin.layout is AS_IS:
        shown = ", ".join(names[:2])
        raise InvalidOption(
            "layout", layout, f"None for {reference}, whose names ({shown}, …) are of no known layout"
        )
    stored = {key: stored_names(found, weights) for key, found in names_by_key(names, origin).items()}
    check_same_type(stored.values(), weights)
    return {own: found for key, found in stored.items() for own in wanted.names(key)}
