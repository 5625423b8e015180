"""Starts in a fresh process, for the Hub to count what they ask."""

from collections.abc import Callable

import torch

from benchmarks.network import LABELS, SIZES


def load(reference: str) -> Callable[[], object]:
    """Load a network that is ready to predict."""
    from cosemzoo.ready import load_model

    return lambda: load_model(reference)


def plan(reference: str, size: str) -> Callable[[], object]:
    """Plan a load into a network on ``meta``."""
    from cosemzoo import plan_load
    from cosemzoo.nets import CosemUNet

    with torch.device("meta"):
        network = CosemUNet(len(LABELS), **SIZES[size])
    return lambda: plan_load(network, reference, new_head=LABELS, strict="require")


def download(repository: str, revision: str) -> Callable[[], object]:
    """Ask the client for the file of the weights."""
    from huggingface_hub import hf_hub_download

    return lambda: hf_hub_download(repository, "model.safetensors", revision=revision, token=False)
