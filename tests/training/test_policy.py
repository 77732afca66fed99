"""Averages, swaps and adapters."""

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from worldcompass.training.lora import Lora, LoraLinear, export_lora, inject_lora, merge_lora
from worldcompass.training.policy import Decay, Policy


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def move(net, amount=1.0):
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.add_(amount)


def generator():
    return torch.Generator().manual_seed(3)


def test_the_behaviour_decay_rises_and_is_capped():
    decay = Decay(0.2, 0.9, 0.01)
    assert [decay.at(k) for k in (1, 30, 100)] == pytest.approx([0.21, 0.5, 0.9])


def test_averages_follow_by_their_own_decays():
    net = network()
    policy = Policy(net, Decay(0.5, 0.5, 0.0), 0.9)
    start = {n: p.detach().clone() for n, p in net.named_parameters()}
    move(net)
    policy.follow(1)
    for name, value in start.items():
        torch.testing.assert_close(policy.behaviour_weights[name], value + 0.5)
        torch.testing.assert_close(policy.checkpoint_weights[name], value + 0.1)
        assert torch.equal(policy.reference_weights[name], value)


@pytest.mark.parametrize("which", ["behaviour", "checkpoint", "reference"])
def test_a_swap_restores_the_weights_in_place_even_after_an_error(which):
    net = network()
    policy = Policy(net)
    move(net)
    before = {n: p.detach().clone() for n, p in net.named_parameters()}
    places = [p.data_ptr() for p in net.parameters()]
    with pytest.raises(KeyError), getattr(policy, which)():
        for name, p in net.named_parameters():
            torch.testing.assert_close(p.detach(), before[name] - 1)
        raise KeyError
    assert all(torch.equal(p, before[n]) for n, p in net.named_parameters())
    assert places == [p.data_ptr() for p in net.parameters()]


def test_a_swap_under_a_live_graph_is_refused_and_not_a_wrong_gradient():
    policy = Policy(net := network())
    loss = net(torch.ones(2, 4)).sum()
    with policy.behaviour():
        pass
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_swaps_do_not_nest():
    policy = Policy(network())
    with policy.behaviour(), pytest.raises(RuntimeError, match="already swapped"), policy.checkpoint():
        pass
    with policy.checkpoint():
        pass


def test_a_network_without_trainable_parameters_is_refused():
    with pytest.raises(ValueError, match="nothing can be trained"):
        Policy(network().requires_grad_(False))


def test_state_round_trip_and_refusal_of_another_network():
    first, second = Policy(network(0)), Policy(network(1))
    move(first.net)
    first.follow(1)
    second.load(first.state())
    assert all(
        torch.equal(a, b) for a, b in zip(first.state().values(), second.state().values(), strict=True)
    )
    with pytest.raises(ValueError, match="another network"):
        Policy(nn.Linear(2, 2)).load(first.state())


def test_lora_starts_as_the_network_and_trains_adapters_alone():
    net, x = network(), torch.randn(5, 4)
    before = net(x)
    assert inject_lora(net, Lora(rank=2, alpha=4, targets="0|2"), generator()) == ["0", "2"]
    assert torch.equal(net(x), before)
    assert {n.rsplit(".", 1)[1] for n, p in net.named_parameters() if p.requires_grad} == {"lora_A", "lora_B"}


def test_lora_reference_has_no_adapter_and_merging_keeps_the_function():
    net, x = network(), torch.randn(5, 4)
    before = net(x)
    inject_lora(net, Lora(rank=2, alpha=4), generator())
    policy = Policy(net)
    move(net, 0.3)
    trained = net(x)
    with policy.reference():
        assert torch.equal(net(x), before)
    assert not torch.allclose(trained, before)
    merge_lora(net)
    assert not any(isinstance(m, LoraLinear) for m in net.modules())
    torch.testing.assert_close(net(x), trained)


def test_lora_is_the_formula():
    net = network()
    inject_lora(net, Lora(rank=2, alpha=6, targets="2"), generator())
    layer, x = net[2], torch.randn(5, 6)
    move(layer, 0.1)
    plain = x @ layer.base.weight.T + layer.base.bias + 3 * x @ layer.lora_A.T @ layer.lora_B.T
    torch.testing.assert_close(layer(x), plain)
    torch.testing.assert_close(nn.functional.linear(x, layer.weight, layer.bias), plain)


def test_adapters_of_a_bfloat16_network_take_steps_below_its_resolution():
    net = network().bfloat16()
    inject_lora(net, Lora(rank=2), generator())
    policy, x = Policy(net), torch.randn(5, 4).bfloat16()
    before = {name: p.detach().clone() for name, p in policy.live.items()}
    assert {p.dtype for p in policy.parameters} == {torch.float32}
    assert net(x).dtype == torch.bfloat16
    net(x).float().square().sum().backward()
    torch.optim.SGD(policy.parameters, lr=1e-7).step()
    assert not torch.equal(policy.live["2.lora_B"], before["2.lora_B"])
    move(net, 1e-5)
    assert all(not torch.equal(p, before[name]) for name, p in policy.live.items())


def test_lora_that_matches_nothing_or_is_already_there_is_refused():
    with pytest.raises(ValueError, match="no linear layer"):
        inject_lora(network(), Lora(targets="nowhere"), generator())
    net = network()
    inject_lora(net, Lora(), generator())
    with pytest.raises(ValueError, match="already"):
        inject_lora(net, Lora(), generator())


def test_lora_is_exported_in_the_format_of_peft(tmp_path):
    net, lora = network(), Lora(rank=2, alpha=4)
    inject_lora(net, lora, generator())
    move(net, 0.2)
    export_lora(net, lora, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["target_modules"]) == ("LORA", 2, ["0", "2"])
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    assert set(tensors) == {f"base_model.model.{n}.lora_{k}.weight" for n in "02" for k in "AB"}
    assert torch.equal(tensors["base_model.model.2.lora_B.weight"], net[2].lora_B)


def test_peft_reads_the_export(tmp_path):
    peft = pytest.importorskip("peft", reason="peft is not installed")
    net, lora, x = network(), Lora(rank=2, alpha=4), torch.randn(5, 4)
    inject_lora(net, lora, generator())
    move(net, 0.2)
    export_lora(net, lora, tmp_path)
    theirs = peft.PeftModel.from_pretrained(network(), str(tmp_path))
    torch.testing.assert_close(theirs(x), net(x))
