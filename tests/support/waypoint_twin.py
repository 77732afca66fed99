"""Waypoint's network as a slow, plain twin: float64, one row, one frame, every past frame kept, no rings, no batch.

Written from the equations alone and from the official names, so that nothing but the weights is shared.
"""

import torch

from worldcompass.worlds.waypoint.weights import to_official


def silu(x):
    return x / (1 + torch.exp(-x))


def rms(x):
    return x / (x.square().mean(-1, keepdim=True) + 2.0**-23).sqrt()


def softmax(scores):
    return scores.exp() / scores.exp().sum(-1, keepdim=True)


class Twin:
    def __init__(self, net):
        self.w = {name: t.double() for name, t in to_official(net, net.state_dict()).items()}
        self.config, self.angles = net.config, {}

    def linear(self, name, x):
        return x @ self.w[f"{name}.weight"].T

    def mlp(self, name, x):
        return self.linear(f"{name}.fc2", silu(self.linear(f"{name}.fc1", x)))

    def level(self, sigma):
        phases = [1000 * sigma * 10_000 ** (-j / 255) for j in range(256)]
        phase = torch.tensor(phases, dtype=torch.float64)
        return self.mlp("denoise_step_emb.mlp", 2**0.5 * torch.cat([phase.sin(), phase.cos()]))

    def parts(self, layer, level):
        name = f"transformer.blocks.{layer}.cond_head"
        x = silu(level + self.w.get(f"{name}.bias_in", 0))
        return [self.linear(f"{name}.cond_proj.{j}", x) for j in range(6)]

    def tokens(self, latent_CHW):
        """Patch by patch, along the rows."""
        (rows, columns), (high, wide) = self.config.grid, self.config.patch
        kernel = self.w["patchify.weight"].flatten(1)
        patches = [
            latent_CHW[:, y * high : (y + 1) * high, x * wide : (x + 1) * wide].reshape(-1)
            for y in range(rows)
            for x in range(columns)
        ]
        return torch.stack(patches).double() @ kernel.T

    def latent(self, x_NE):
        columns, (high, wide) = self.config.grid[1], self.config.patch
        out = torch.zeros(self.config.latent_shape, dtype=torch.float64)
        for n, token in enumerate(x_NE):
            y, x = divmod(n, columns)
            out[:, y * high : (y + 1) * high, x * wide : (x + 1) * wide] = token.view(-1, high, wide)
        return out

    def turns(self, t):
        """The angle of each token's pairs: by its place in x, y and time."""
        (rows, columns), head = self.config.grid, self.config.head
        steps = torch.linspace(0, 1, head // 16, dtype=torch.float64)
        space = torch.pi * (1 + steps * (0.4 * min(rows, columns) - 1))
        times = [t * 10_000 ** (-2 * j / (head // 4)) for j in range(head // 8) for _ in range(2)]
        angles = []
        for y in range(rows):
            for x in range(columns):
                places = (2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1
                angles.append([rate * place for place in places for rate in space for _ in range(2)] + times)
        return torch.tensor(angles, dtype=torch.float64)

    def turned(self, x_Nd, t):
        """One head: each pair of neighbours is a complex number."""
        if t not in self.angles:
            self.angles[t] = self.turns(t)
        angles = self.angles[t]
        pairs = torch.complex(x_Nd[:, 0::2], x_Nd[:, 1::2]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([pairs.real, pairs.imag], 1)

    def visible(self, layer, t):
        """The past frames that a layer sees, as the fact sheet words it."""
        c = self.config
        if (layer - c.global_offset) % c.global_period:
            return [f for f in range(t) if t - f < c.local_window]
        pinned = [f for f in range(t) if f % c.dilation == 0]
        slots = c.global_window // c.dilation
        count = slots - 1 if t % c.dilation == 0 else slots
        return pinned[-count:] if count else []

    def attention(self, layer, x, t, first, history):
        """The output, values before mixing, and (rotated keys, mixed values) per head of keys."""
        c, name = self.config, f"transformer.blocks.{layer}.attn"
        q, k, v = (self.linear(f"{name}.{part}_proj", x).unflatten(1, (-1, c.head)) for part in "qkv")
        own, first = v, v if first is None else first
        if f"{name}.v_lamb" in self.w:
            v = own + self.w[f"{name}.v_lamb"] * (first - own)
        kept = [(self.turned(rms(k[:, h]), t), v[:, h]) for h in range(c.num_kv_heads)]
        seen = [history[f][layer] for f in self.visible(layer, t)] + [kept]
        heads = []
        for h in range(c.num_heads):
            group = h // (c.num_heads // c.num_kv_heads)
            keys = torch.cat([frame[group][0] for frame in seen])
            values = torch.cat([frame[group][1] for frame in seen])
            heads.append(softmax(self.turned(rms(q[:, h]), t) @ keys.T / c.head**0.5) @ values)
        if f"{name}.gate_proj.weight" in self.w:
            gates = 1 / (1 + torch.exp(-self.linear(f"{name}.gate_proj", x[:, : c.num_heads])))
            heads = [head * gates[:, h, None] for h, head in enumerate(heads)]
        return self.linear(f"{name}.out_proj", torch.cat(heads, 1)), own, kept

    def caption(self, layer, x, states_LE):
        name, head = f"transformer.blocks.{layer}.prompt_cross_attn", self.config.head
        states = rms(states_LE.double())
        q = self.linear(f"{name}.q_proj", rms(x)).unflatten(1, (-1, head))
        k, v = (self.linear(f"{name}.{part}_proj", states).unflatten(1, (-1, head)) for part in "kv")
        heads = [softmax(rms(q[:, h]) @ rms(k[:, h]).T / head**0.5) @ v[:, h] for h in range(q.shape[1])]
        return self.linear(f"{name}.out_proj", torch.cat(heads, 1))

    def frame(self, latent_CHW, sigma, controls_A, t, states_LE=None, history=()):
        """Velocity (C, H, W), and what the frame would leave in the history."""
        x, level = self.tokens(latent_CHW), self.level(float(sigma))
        control, first, kept = self.mlp("ctrl_emb.mlp", controls_A.double()), None, []
        for layer in range(self.config.num_layers):
            name = f"transformer.blocks.{layer}"
            scale_1, shift_1, gate_1, scale_2, shift_2, gate_2 = self.parts(layer, level)
            mixed, own, left = self.attention(layer, rms(x) * (1 + scale_1) + shift_1, t, first, history)
            first = own if layer == 0 else first
            kept.append(left)
            x = x + gate_1 * mixed
            if f"{name}.prompt_cross_attn.q_proj.weight" in self.w:
                x = x + self.caption(layer, x, states_LE)
            if f"{name}.ctrl_mlpfusion.mlp.fc1.weight" in self.w:
                both = torch.cat([rms(x), rms(control).expand(len(x), -1)], 1)
                x = x + self.mlp(f"{name}.ctrl_mlpfusion.mlp", both)
            x = x + gate_2 * self.mlp(f"{name}.mlp", rms(x) * (1 + scale_2) + shift_2)
        scale, shift = self.linear("out_norm.fc", silu(level)).chunk(2)
        out = self.linear("unpatchify", silu(rms(x) * (1 + scale) + shift)) + self.w["unpatchify.bias"]
        return self.latent(out), kept
