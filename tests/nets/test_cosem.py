"""The COSEM U-Net. Names and shapes were read off the network that cellmap-models 0.2.4 builds."""

import copy
import json
import pickle
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from cosemzoo.nets import CosemUNet

SETUP04 = Path(__file__).parent.parent / "data" / "setup04_tensors.json"
#: The published form with few feature maps, and a network of two levels that is quick.
SMALL: dict[str, Any] = {"widths_down": [1, 2, 3, 4], "widths_up": [2, 2, 3]}
QUICK: dict[str, Any] = {"widths_down": [4, 6, 8], "widths_up": [6, 6], "factors": [2, 3]}
VARIANTS: dict[str, dict[str, Any]] = {
    "quick": QUICK,
    "plain": {**QUICK, "final_upsample": None},
    "equal voxels": {**QUICK, "final_upsample": 1},
    "transposed": {**QUICK, "upsampling": "transposed"},
    "transposed without activation": {
        **QUICK,
        "upsampling": "transposed",
        "activation_on_upsample": False,
    },
    "padded": {**QUICK, "padding": "same", "final_upsample": None},
    "anisotropic": {
        **QUICK,
        "factors": [[1, 2, 2], [3, 2, 1]],
        "final_upsample": [1, 2, 3],
        "kernel_sizes_down": [[[1, 3, 3], 3], [3], [[3, 1, 1], 3, 5]],
        "final_width": 5,
        "kernel_sizes_final": [[[1, 2, 3]]],
    },
    "two inputs, one level": {"input_channels": 2, "widths_down": [4, 6], "widths_up": [4], "factors": [4]},
}
#: One that is compiled soon: a convolution in each pass.
TRACED: dict[str, Any] = {
    "widths_down": [4, 6],
    "widths_up": [4],
    "factors": [[2, 1, 3]],
    "final_upsample": [1, 2, 2],
    "kernel_sizes_down": [[3], [3]],
    "kernel_sizes_up": [[[3, 4, 5]]],
    "kernel_sizes_final": [[3]],
}
every_variant = pytest.mark.parametrize("arguments", VARIANTS.values(), ids=VARIANTS)


def lively(channels: int = 2, **arguments: Any) -> CosemUNet:
    """Make a network whose output follows its input: as it is made, hardly anything comes through."""
    torch.manual_seed(4)
    network = CosemUNet(channels, **arguments).eval().requires_grad_(False)
    for tensor in network.parameters():
        if tensor.dim() == 5:
            nn.init.kaiming_normal_(tensor, nonlinearity="relu")
        else:
            tensor.fill_(0.1)
    return network


def smallest(network: CosemUNet, *, steps: int = 0) -> Tensor:
    """Make the smallest input, or one that is longer by so many steps along z."""
    torch.manual_seed(5)
    convolution = network.get_parameter(next(iter(network.state_dict())))
    (z, y, x), step = network.valid_input_shape(), network.shapes.axes[0].step
    return torch.randn(1, convolution.shape[1], z + steps * step, y, x)


def is_varied(output: Tensor) -> bool:
    return bool(output[0, 0].std() > 0.1 * output[0, 0].mean().abs())


def shapes(network: nn.Module) -> list[tuple[str, list[int]]]:
    return [(name, list(tensor.shape)) for name, tensor in network.state_dict().items()]


# --- names --------------------------------------------------------------------------------------------------


def test_the_names_and_shapes_are_those_of_the_published_networks() -> None:
    tensors = json.loads(SETUP04.read_text())["layouts"]["cellmap-models"]
    network = CosemUNet(14, device="meta")
    assert shapes(network) == [(tensor["names"][0], tensor["shape"]) for tensor in tensors]
    assert sum(tensor.numel() for tensor in network.parameters()) == 234_967_826


def test_the_plain_form_has_the_names_without_the_leading_0() -> None:
    plain, whole = (CosemUNet(2, final_upsample=factor, device="meta") for factor in (None, 1))
    nested = [(name.replace("backbone.0.", "backbone."), shape) for name, shape in shapes(whole)]
    after = ("backbone.1.", "backbone.2.")
    assert shapes(plain) == [(name, shape) for name, shape in nested if not name.startswith(after)]
    backbone = [tensor for name, tensor in plain.named_parameters() if name.startswith("backbone.")]
    assert (len(backbone), sum(tensor.numel() for tensor in backbone)) == (34, 234_681_468)


@pytest.mark.parametrize(
    ("upsampling", "activation", "name"),
    [
        ("constant", True, "up.1"),
        ("constant", False, "up.1"),
        ("transposed", True, "up.0"),
        ("transposed", False, "up"),
    ],
)
def test_an_upsampling_has_the_name_that_its_place_gives_it(
    upsampling: str, activation: bool, name: str
) -> None:
    network = CosemUNet(
        1, upsampling=upsampling, activation_on_upsample=activation, final_upsample=4, device="meta"
    )
    found = dict(shapes(network))
    here = f"{name}.weight"
    transposed = upsampling == "transposed"
    assert found[f"backbone.0.r_up.0.0.{here}"] == [72, 72, *[2 if transposed else 1] * 3]
    assert found[f"backbone.0.r_up.0.2.{here}"] == (
        [2592, 432, 3, 3, 3] if transposed else [432, 2592, 1, 1, 1]
    )
    assert found[f"backbone.1.{here}"] == [72, 72, *[4 if transposed else 1] * 3]
    assert len(found) == 42


# --- numbers ------------------------------------------------------------------------------------------------


@every_variant
def test_the_output_has_the_shape_that_the_arithmetic_gives(arguments: dict[str, Any]) -> None:
    network = lively(3, **arguments)
    raw = smallest(network, steps=1)
    output = network(raw)
    assert output.shape == (1, 3, *network.output_shape(raw.shape[2:]))
    assert is_varied(output)


@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        *(QUICK | {"factors": factors} for factors in ([2, 2], [3, 2], [2, 5], [[1, 2, 2], [2, 1, 3]])),
        {"widths_down": [6, 8], "widths_up": [6], "factors": [3], "final_upsample": None},
        {**QUICK, "upsampling": "transposed", "kernel_sizes_up": [[3], [2, 2, 5]]},
    ],
    ids=str,
)
def test_an_input_moved_by_a_step_gives_the_same_output_moved(arguments: dict[str, Any]) -> None:
    network = lively(**arguments)
    step, factor = network.shapes.axes[0].step, network.shapes.axes[0].factor
    raw = smallest(network, steps=1)
    whole = network(raw)
    assert is_varied(whole)
    torch.testing.assert_close(whole[:, :, factor * step :], network(raw[:, :, step:]))
    torch.testing.assert_close(whole[:, :, : -factor * step], network(raw[:, :, :-step]))


def test_the_output_is_centred_in_the_input() -> None:
    # A mirrored input gives the mirrored output where every kernel is its own mirror image. So it is for the
    # finest level alone: the crops below it are odd, and take one voxel more at the end of an axis.
    network = lively(**QUICK)
    network.get_parameter("backbone.0.r_up.0.0.up.1.weight").zero_()
    for tensor in network.parameters():
        if tensor.dim() == 5:
            tensor.copy_((tensor + tensor.flip(-3)) / 2)
    raw = smallest(network, steps=1)
    output = network(raw)
    assert is_varied(output)
    torch.testing.assert_close(network(raw.flip(-3)), output.flip(-3))


def test_the_activation_follows_every_upsampling() -> None:
    def upsampled(network: CosemUNet) -> list[float]:
        values = []
        for name, convolution in network.named_modules():
            if name.endswith(".up.1"):
                for tensor in convolution.parameters():
                    tensor.fill_(-1.0)
                width = network.get_parameter(f"{name}.weight").shape[1]
                features = torch.ones(1, width, 1, 1, 1)
                values.append(float(network.get_submodule(name.removesuffix(".up.1"))(features).max()))
        return values

    assert upsampled(lively(**SMALL)) == [0.0] * 4
    assert upsampled(lively(**SMALL, activation_on_upsample=False)) == [-3.0, -4.0, -5.0, -3.0]


def test_constant_upsampling_repeats_voxels_by_every_factor_that_is_allowed() -> None:
    for factor in range(1, 33):
        upsample = nn.Upsample(scale_factor=(factor, 1.0, 1.0))
        features = torch.rand(1, 1, 40, 1, 1)
        assert torch.equal(upsample(features), features.repeat_interleave(factor, 2))


# --- what is refused ----------------------------------------------------------------------------------------


def test_an_input_that_does_not_fit_is_refused_with_what_does() -> None:
    with pytest.raises(ValueError, match=r"200 x 198 x 180 voxels .* z has 200, .* 198 and 216; x has 180, "):
        lively(**SMALL)(torch.zeros(1, 1, 200, 198, 180))


@pytest.mark.parametrize("shape", [(1, 1, 198, 198), (1, 2, 198, 198, 198), (198,)])
def test_an_input_of_other_axes_or_channels_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"takes \(batch, 1, z, y, x\), not a tensor of shape \("):
        lively(**SMALL)(torch.zeros(shape))


def test_arguments_at_odds_are_refused() -> None:
    with pytest.raises(ValueError, match="factors has 3 entries; widths_up has 2 levels"):
        CosemUNet(1, widths_down=[1, 2, 3], widths_up=[1, 2])


# --- making, keeping and moving it --------------------------------------------------------------------------


def test_it_is_made_without_a_forward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("a forward pass")

    monkeypatch.setattr(nn.Conv3d, "forward", refuse)
    assert all(tensor.is_meta for tensor in CosemUNet(14, device="meta").parameters())


def test_a_device_may_be_set_around_it() -> None:
    with torch.device("meta"):
        network = CosemUNet(14)
    assert all(tensor.is_meta for tensor in network.parameters())


def test_it_starts_with_the_weights_that_torch_gives_such_layers() -> None:
    torch.manual_seed(1)
    network = CosemUNet(2, **QUICK)
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            weight, bias = module.weight.clone(), module.bias
            assert bias is not None
            bias = bias.clone()
            module.reset_parameters()
            assert torch.equal(weight, module.weight)
            assert torch.equal(bias, module.bias)  # type: ignore[arg-type]


@every_variant
def test_its_state_dict_its_copies_and_its_pickle_give_the_same(arguments: dict[str, Any]) -> None:
    network = lively(**arguments)
    raw = smallest(network)
    expected = network(raw)
    other = CosemUNet(2, **arguments)
    other.load_state_dict(network.state_dict())
    for same in (other, copy.deepcopy(network), pickle.loads(pickle.dumps(network))):
        assert torch.equal(same(raw), expected)
        assert same.context == network.context


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_it_works_in_other_precisions(dtype: torch.dtype) -> None:
    network = lively(**QUICK)
    raw = smallest(network)
    expected = network(raw)
    made = CosemUNet(2, **QUICK, dtype=dtype)
    assert {tensor.dtype for tensor in made.parameters()} == {dtype}
    made.load_state_dict(network.state_dict())
    for same in (made, network.to(dtype)):
        output = same(raw.to(dtype))
        assert output.dtype == dtype
        assert (output.float() - expected).norm() < 0.02 * expected.norm()


def test_it_learns() -> None:
    network = lively(**QUICK).train().requires_grad_(True)
    raw = smallest(network)
    before = network(raw)
    before.square().mean().backward()
    assert all(tensor.grad is not None and tensor.grad.isfinite().all() for tensor in network.parameters())
    torch.optim.SGD(network.parameters(), lr=1e-3).step()
    assert network(raw).square().mean() < before.square().mean()


# --- torch's compilers --------------------------------------------------------------------------------------


def test_a_compiled_network_gives_the_same_for_every_shape() -> None:
    network = lively(**TRACED)
    torch._dynamo.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    for steps in (0, 1, 2):
        raw = smallest(network, steps=steps)
        assert torch.equal(compiled(raw), network(raw))


def test_an_exported_network_gives_the_same_for_shapes_that_it_was_not_traced_with() -> None:
    network = lively(**TRACED)
    # A size that fits is so many steps and a rest.
    shape = {}
    for i, axis in enumerate(network.shapes.axes):
        steps, rest = divmod(axis.smallest, axis.step)
        shape[2 + i] = axis.step * torch.export.Dim(f"steps_{i}", min=steps, max=99) + rest
    traced = smallest(network, steps=1)
    exported = torch.export.export(network, (traced,), dynamic_shapes={"raw": shape}).module()
    for steps in (0, 1, 3):
        raw = smallest(network, steps=steps)
        assert torch.equal(exported(raw), network(raw))


# --- memory -------------------------------------------------------------------------------------------------


def test_the_features_of_a_level_are_let_go_before_the_next() -> None:
    network = lively(**QUICK)
    kept: list[weakref.ref[torch.UntypedStorage]] = []
    alive: list[int] = []
    levels = list(network.get_submodule("backbone.0.l_conv").children())
    for level in levels:
        level.register_forward_pre_hook(lambda *_: alive.append(sum(each() is not None for each in kept)))
        level.register_forward_hook(lambda *found: kept.append(weakref.ref(found[-1].untyped_storage())))
    network(smallest(network))
    assert alive == [0, 0, 0]
    assert len(kept) == 3
