"""WorldPlay's networks: official names and sizes, shared pasts without copies, rows apart, gradients."""

import dataclasses

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from worldplay_tiny import random_latents, random_network, row_of, text_states

from worldcompass.worlds.open import attention
from worldcompass.worlds.open.attention import attend_after, plain_attention, plain_attention_backward
from worldcompass.worlds.worldplay.transformer_5b import Transformer5B
from worldcompass.worlds.worldplay.transformer_8b import Transformer8B

KINDS = ["8b", "5b"]


def linear(name, outputs, inputs):
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def affine(name, width):
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def embedder(name, width):
    return linear(f"{name}.mlp.0", width, 256) | linear(f"{name}.mlp.2", width, width)


def official_8b():
    """Names and shapes of the official 8B checkpoint, as section 1.2 of the specification lists them."""
    width = 2048
    names = {"img_in.proj.weight": (width, 65, 1, 1, 1), "img_in.proj.bias": (width,)}
    for name in ("time_in", "action_in", "txt_in.t_embedder"):
        names |= embedder(name, width)
    names |= linear("txt_in.input_embedder", width, 3584)
    names |= linear("txt_in.c_embedder.linear_1", width, 3584)
    names |= linear("txt_in.c_embedder.linear_2", width, width)
    for i in range(2):
        block = f"txt_in.individual_token_refiner.blocks.{i}"
        names |= affine(f"{block}.norm1", width) | affine(f"{block}.norm2", width)
        names |= linear(f"{block}.self_attn_qkv", 3 * width, width)
        names |= linear(f"{block}.self_attn_proj", width, width)
        names |= linear(f"{block}.mlp.fc1", 4 * width, width) | linear(f"{block}.mlp.fc2", width, 4 * width)
        names |= linear(f"{block}.adaLN_modulation.1", 2 * width, width)
    names |= affine("byt5_in.layernorm", 1472) | linear("byt5_in.fc1", 2048, 1472)
    names |= linear("byt5_in.fc2", 2048, 2048) | linear("byt5_in.fc3", width, 2048)
    names |= affine("vision_in.proj.0", 1152) | linear("vision_in.proj.1", 1152, 1152)
    names |= linear("vision_in.proj.3", width, 1152) | affine("vision_in.proj.4", width)
    names["cond_type_embedding.weight"] = (3, width)
    for i in range(54):
        for stream in ("img", "txt"):
            part = f"double_blocks.{i}.{stream}"
            names |= linear(f"{part}_mod.linear", 6 * width, width)
            for name in ("q", "k", "v", "proj"):
                names |= linear(f"{part}_attn_{name}", width, width)
            names |= {f"{part}_attn_q_norm.weight": (128,), f"{part}_attn_k_norm.weight": (128,)}
            names |= linear(f"{part}_mlp.fc1", 4 * width, width) | linear(f"{part}_mlp.fc2", width, 4 * width)
        names |= linear(f"double_blocks.{i}.img_attn_prope_proj", width, width)
    return (
        names
        | linear("final_layer.linear", 32, width)
        | linear("final_layer.adaLN_modulation.1", 2 * width, width)
    )


def official_5b():
    """Names and shapes of the official 5B checkpoint, as section 2 of the specification lists them."""
    width, hidden = 3072, 14336
    names = {"patch_embedding.weight": (width, 48, 1, 2, 2), "patch_embedding.bias": (width,)}
    for name, inputs in (("time_embedder", 256), ("action_embedder", 256), ("text_embedder", 4096)):
        names |= linear(f"condition_embedder.{name}.linear_1", width, inputs)
        names |= linear(f"condition_embedder.{name}.linear_2", width, width)
    names |= linear("condition_embedder.time_proj", 6 * width, width)
    for i in range(30):
        block = f"blocks.{i}"
        names[f"{block}.scale_shift_table"] = (1, 6, width)
        for attn, outputs in (("attn1", ["to_out.0", "to_out_prope.0"]), ("attn2", ["to_out.0"])):
            for name in ("to_q", "to_k", "to_v", *outputs):
                names |= linear(f"{block}.{attn}.{name}", width, width)
            for name in ("norm_q", "norm_k"):
                names[f"{block}.{attn}.{name}.weight"] = (width,)
        names |= affine(f"{block}.norm2", width)
        names |= linear(f"{block}.ffn.net.0.proj", hidden, width) | linear(
            f"{block}.ffn.net.2", width, hidden
        )
    names["scale_shift_table"] = (1, 2, width)
    return names | linear("proj_out", 192, width)


@pytest.mark.parametrize(
    ("network", "official", "tensors", "billions"),
    [(Transformer8B, official_8b, 1905, 8.558), (Transformer5B, official_5b, 889, 5.293)],
)
def test_the_real_networks_have_the_official_names_and_shapes(
    network, official, tensors, billions, monkeypatch
):
    """Nothing is drawn on the way, which on the meta device would load PyTorch's compiler."""
    monkeypatch.setattr(torch.Tensor, "normal_", None)
    with torch.device("meta"):
        net = network()
    found = {name: tuple(value.shape) for name, value in net.state_dict().items()}
    assert found == official()
    assert len(found) == tensors
    assert round(sum(p.numel() for p in net.parameters()) / 1e9, 3) == billions


def naive(q_RBhNd, k_RBhNd, v_RBhNd, pasts):
    """Every row with its own copy of its past, in one softmax."""
    rows = q_RBhNd.shape[1] // len(pasts)
    seen = []
    for b in range(q_RBhNd.shape[1]):
        past_k, past_v = pasts[b // rows]
        k, v = torch.cat([past_k, k_RBhNd[:, b]], 2), torch.cat([past_v, v_RBhNd[:, b]], 2)
        scores = q_RBhNd[:, b] @ k.mT / q_RBhNd.shape[-1] ** 0.5
        seen.append(scores.softmax(-1) @ v)
    return torch.stack(seen, 1)


def attention_inputs(dtype, head=8):
    generator = torch.Generator().manual_seed(0)

    def random(*shape):
        return torch.randn(shape, generator=generator).to(dtype).requires_grad_()

    own = [random(2, 6, 3, 5, head) for _ in range(3)]
    pasts = [(random(2, 3, length, head), random(2, 3, length, head)) for length in (7, 1)]
    return own, pasts


@pytest.mark.golden
@pytest.mark.parametrize("head", [8, 12])
def test_attention_after_shared_pasts_equals_a_naive_version(head):
    own, pasts = attention_inputs(torch.float32, head)
    leaves = [*own, *(t for past in pasts for t in past)]
    results = []
    for attend in (attend_after, naive):
        seen = attend(*own, pasts)
        weights = torch.linspace(-1, 1, seen.numel()).view_as(seen)
        results.append((seen, torch.autograd.grad((seen * weights).sum(), leaves)))
    (ours, our_grads), (theirs, their_grads) = results
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    for a, b in zip(our_grads, their_grads, strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_on_every_device_is_near_the_exact_one(device, dtype):
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA GPU")
    (q, k, v), pasts = attention_inputs(dtype)
    inputs = [q, k, v, *(t for past in pasts for t in past)]
    moved = [t.detach().to(device).requires_grad_() for t in inputs]
    exact = [t.detach().float().requires_grad_() for t in inputs]
    found = attend_after(*moved[:3], [(moved[3], moved[4]), (moved[5], moved[6])])
    expected = naive(*exact[:3], [(exact[3], exact[4]), (exact[5], exact[6])])
    assert found.dtype == dtype
    limit = 1e-5 if dtype == torch.float32 else 3e-2
    weights = torch.linspace(-1, 1, expected.numel()).view_as(expected)
    grads = torch.autograd.grad((found * weights.to(found)).sum(), moved)
    for ours, theirs in zip(
        [found, *grads], [expected, *torch.autograd.grad((expected * weights).sum(), exact)], strict=True
    ):
        torch.testing.assert_close(ours.float().cpu(), theirs, atol=limit, rtol=limit)


def test_the_plain_kernel_and_its_gradient_equal_autograd():
    (q, k, v), _ = attention_inputs(torch.float32)
    q, k, v = (t[0] for t in (q, k, v))
    out, lse = plain_attention(q, k, v)
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v)
    torch.testing.assert_close(out, expected, atol=1e-6, rtol=1e-5)
    grad = torch.linspace(-1, 1, out.numel()).view_as(out)
    ours = plain_attention_backward(grad, q, k, v, out, lse)
    for a, b in zip(ours, torch.autograd.grad((expected * grad).sum(), [q, k, v]), strict=True):
        torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


def test_rows_that_pasts_do_not_divide_are_refused():
    own, pasts = attention_inputs(torch.float32)
    with pytest.raises(ValueError, match="5 rows cannot be divided among 2 pasts"):
        attend_after(*(t[:, :5] for t in own), pasts)


def two_pasts(kind, net):
    """Two scenarios, each with text of its own length and two remembered latents."""
    with torch.no_grad():
        texts = [net(text_states(kind, seed, num_tokens)) for seed, num_tokens in ((0, 5), (1, 3))]
        return net(random_latents(kind, 2, count=2, seed=5), texts, keep_keys=True)


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_of_candidates_of_two_pasts_equals_single_calls(kind):
    net = random_network(kind)
    pasts = two_pasts(kind, net)
    latents = random_latents(kind, 6, first_position=2)
    with torch.no_grad():
        together = net(latents, pasts)
        alone = torch.cat([net(row_of(latents, b), [pasts[b // 3]]) for b in range(6)])
    assert together.shape == (6, 3, *latents.latents_BCKHW.shape[2:])
    assert float(together.std()) > 0.05
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_pasts_remembered_together_equal_those_remembered_alone(kind):
    net = random_network(kind)
    memory, chunk = random_latents(kind, 2, count=2, seed=5), random_latents(kind, 2, first_position=2)
    with torch.no_grad():
        texts = [net(text_states(kind, seed)) for seed in (0, 1)]
        together = net(chunk, net(memory, texts, keep_keys=True))
        for row, text in enumerate(texts):
            alone = net(row_of(memory, row), [text], keep_keys=True)
            torch.testing.assert_close(
                net(row_of(chunk, row), alone), together[row : row + 1], atol=1e-5, rtol=0
            )


@pytest.mark.parametrize("kind", KINDS)
def test_the_past_is_attended_where_it_lies(kind, monkeypatch):
    """For any number of candidates, the kernel reads the past without a copy."""
    net = random_network(kind)
    pasts = two_pasts(kind, net)
    memories = pasts if kind == "8b" else [past.memory for past in pasts]
    stored = {k.data_ptr() for memory in memories for k, _ in memory}
    kernel, read = attention._kernel, []
    monkeypatch.setattr(attention, "_kernel", lambda q, k, v: read.append(k.data_ptr()) or kernel(q, k, v))
    with torch.no_grad():
        net(random_latents(kind, 6, first_position=2), pasts)
    assert stored <= set(read)
    assert len(read) == 2 * len(stored)  # each past once, and its candidates' own keys once


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_reach_all_that_serves_video_and_nothing_else(kind, recompute):
    net = random_network(kind)
    net.recompute = recompute
    net(random_latents(kind, 4, first_position=2), two_pasts(kind, net)).square().mean().backward()
    reached = {name for name, p in net.named_parameters() if p.grad is not None}
    assert reached == {name for name, _ in net.named_parameters() if not net.is_text_only(name)}
    assert all(bool(p.grad.any()) for p in net.parameters() if p.grad is not None)


@pytest.mark.parametrize("kind", KINDS)
def test_recomputed_activations_give_the_same_gradients(kind):
    net = random_network(kind)
    pasts, latents = two_pasts(kind, net), random_latents(kind, 4, first_position=2)
    grads = []
    for net.recompute in (False, True):
        net.zero_grad(set_to_none=True)
        net(latents, pasts).square().mean().backward()
        grads.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    for name, grad in grads[0].items():
        assert torch.equal(grad, grads[1][name]), name


def text_unit(net, unit):
    """Whether a unit's parameters are only for text; no unit may mix."""
    names = {id(p): name for name, p in net.named_parameters()}
    served = [net.is_text_only(names[id(p)]) for module in unit for p in module.parameters()]
    return all(served)


@pytest.mark.parametrize("kind", KINDS)
def test_text_and_video_call_units_of_their_own(kind):
    """Sharded weights are gathered when a unit is called: neither pass calls the other's, none twice."""
    net = random_network(kind)
    units, calls = list(net.units()), []
    for i, unit in enumerate(units):
        for module in unit:
            module.register_forward_pre_hook(lambda module, _, i=i: calls.append((i, module)))
    of_text = {i for i, unit in enumerate(units) if text_unit(net, unit)}
    with torch.no_grad():
        past = net(text_states(kind))
        assert {i for i, _ in calls} == of_text
        assert len(calls) == len(set(calls)) == sum(len(units[i]) for i in of_text)
        calls.clear()
        net(random_latents(kind, 2), [past])
    assert {i for i, _ in calls} == set(range(len(units))) - of_text
    assert len(calls) == len(set(calls))


@pytest.mark.parametrize("kind", KINDS)
def test_units_hold_all_that_serves_text_and_every_block(kind):
    net = random_network(kind)
    held, whole = set(), dict(net.named_parameters())
    for unit in net.units():
        own = {id(p) for module in unit for p in module.parameters()} - held
        names = [name for name, p in whole.items() if id(p) in own]
        assert names and len({net.is_text_only(name) for name in names}) == 1
        held |= own
    rest = [name for name, p in whole.items() if id(p) not in held]
    assert rest and not any("blocks." in name or net.is_text_only(name) for name in rest)


@pytest.mark.parametrize("kind", KINDS)
def test_a_pass_over_latents_reads_no_parameter_of_text(kind):
    net = random_network(kind)
    latents = random_latents(kind, 2)
    with torch.no_grad():
        past = net(text_states(kind))
        expected = net(latents, [past])
        for name, p in list(net.named_parameters()):
            if net.is_text_only(name):
                owner, _, own = name.rpartition(".")
                setattr(net.get_submodule(owner), own, torch.nn.Parameter(p.to("meta")))
        assert torch.equal(net(latents, [past]), expected)


@pytest.fixture
def one_rank():
    """A mesh of this process alone."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


@pytest.mark.filterwarnings("error:FSDP2-wrapped module .* returned a view")
@pytest.mark.parametrize("kind", KINDS)
def test_a_sharded_network_is_the_same_network(kind, one_rank):
    """Parameters are used only inside the call of their unit, as sharded ones fail outside it."""
    plain, net = random_network(kind), random_network(kind)
    for each in (plain, net):
        each.recompute = True
        for name, p in each.named_parameters():
            p.requires_grad_(not each.is_text_only(name))
    for unit in net.units():
        fully_shard(list(unit), mesh=one_rank)
    fully_shard(net, mesh=one_rank)
    latents, found = random_latents(kind, 4, first_position=2), []
    for each in (plain, net):
        pasts = two_pasts(kind, each)
        assert each is plain or all(
            isinstance(p, DTensor) for u in net.units() for m in u for p in m.parameters()
        )
        velocity = each(latents, pasts)
        velocity.square().mean().backward()
        grads = {n: p.grad for n, p in each.named_parameters() if p.grad is not None}
        found.append(
            (velocity, {n: g.full_tensor() if isinstance(g, DTensor) else g for n, g in grads.items()})
        )
    (expected, expected_grads), (velocity, grads) = found
    assert torch.equal(velocity, expected)
    assert grads.keys() == expected_grads.keys()
    for name, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[name], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_new_network_ignores_actions_and_cameras(kind):
    """WorldPlay's additions start at zero, so a new network equals the video model."""
    torch.manual_seed(0)
    net = type(random_network(kind))(random_network(kind).config)
    latents = random_latents(kind, 1)
    other = dataclasses.replace(
        latents,
        labels_BK=(latents.labels_BK + 1) % 81,
        world_from_camera_BK44=latents.world_from_camera_BK44.flip(1),
    )
    with torch.no_grad():
        past = [net(text_states(kind))]
        assert torch.equal(net(latents, past), net(other, past))


def test_padding_of_text_is_never_read():
    net = random_network("8b")
    states = text_states("8b")
    other = torch.where(states.text_mask_L.bool()[:, None], states.text_LE, 7.0)
    with torch.no_grad():
        for (k, v), (k2, v2) in zip(
            net(states), net(dataclasses.replace(states, text_LE=other)), strict=True
        ):
            assert torch.equal(k, k2)
            assert torch.equal(v, v2)


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_follows_float32(kind):
    """Cameras and positions stay in float32 for every dtype of the weights."""
    exact, net = random_network(kind), random_network(kind).bfloat16()
    latents = random_latents(kind, 2, first_position=2)
    with torch.no_grad():
        expected = exact(latents, two_pasts(kind, exact))
        found = net(latents, two_pasts(kind, net)).float()
    assert float((found - expected).abs().max()) < 0.05 * float(expected.abs().max())


@pytest.mark.parametrize("kind", KINDS)
def test_latents_without_a_past_are_refused(kind):
    net = random_network(kind)
    with pytest.raises(ValueError, match=r"latents need (a past|pasts) with"):
        net(random_latents(kind, 1))
    with pytest.raises(ValueError, match="3 rows cannot extend 1 pasts"):
        net(random_latents(kind, 3), [net(text_states(kind))], keep_keys=True)
