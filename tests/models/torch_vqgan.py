"""The encoder of a Gumbel VQ-GAN in plain torch, with the names of taming-transformers' checkpoints."""

import torch
from torch import nn
from torch.nn import functional as F


class TorchVqgan(nn.Module):
    def __init__(self, channels, multipliers, attention, blocks, latent, width, codes):
        super().__init__()
        self.encoder = Encoder(channels, multipliers, attention, blocks, latent)
        self.quant_conv = nn.Conv2d(latent, width, 1)
        self.quantize = nn.Module()
        self.quantize.proj = nn.Conv2d(width, codes, 1)
        self.quantize.embed = nn.Embedding(codes, width)
        self.post_quant_conv = nn.Conv2d(width, latent, 1)
        self.decoder = nn.Module()
        self.decoder.conv_in = nn.Conv2d(latent, channels, 3, padding=1)

    def forward(self, pixels):
        """[b 3 h w] from -1 to 1 -> logits [b n h w]."""
        return self.quantize.proj(self.quant_conv(self.encoder(pixels)))


class Encoder(nn.Module):
    def __init__(self, channels, multipliers, attention, blocks, latent):
        super().__init__()
        self.conv_in = nn.Conv2d(3, channels, 3, padding=1)
        self.down = nn.ModuleList()
        before = channels
        for level, (times, attends) in enumerate(zip(multipliers, attention, strict=True)):
            down, after = nn.Module(), channels * times
            down.block = nn.ModuleList(Block(before if n == 0 else after, after) for n in range(blocks))
            down.attn = nn.ModuleList(Attention(after) for _ in range(blocks if attends else 0))
            if level < len(multipliers) - 1:
                down.downsample = nn.Module()
                down.downsample.conv = nn.Conv2d(after, after, 3, stride=2)
            self.down.append(down)
            before = after
        self.mid = nn.Module()
        self.mid.block_1, self.mid.attn_1, self.mid.block_2 = (
            Block(before, before),
            Attention(before),
            Block(before, before),
        )
        self.norm_out = nn.GroupNorm(32, before, eps=1e-6)
        self.conv_out = nn.Conv2d(before, latent, 3, padding=1)

    def forward(self, x):
        x = self.conv_in(x)
        for down in self.down:
            for number, block in enumerate(down.block):
                x = block(x)
                if len(down.attn):
                    x = down.attn[number](x)
            if hasattr(down, "downsample"):
                x = down.downsample.conv(F.pad(x, (0, 1, 0, 1)))
        x = self.mid.block_2(self.mid.attn_1(self.mid.block_1(x)))
        return self.conv_out(F.silu(self.norm_out(x)))


class Block(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(32, channels, eps=1e-6), nn.Conv2d(channels, width, 3, padding=1)
        self.norm2, self.conv2 = nn.GroupNorm(32, width, eps=1e-6), nn.Conv2d(width, width, 3, padding=1)
        if channels != width:
            self.nin_shortcut = nn.Conv2d(channels, width, 1)

    def forward(self, x):
        y = self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))
        return y + (self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class Attention(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.norm = nn.GroupNorm(32, width, eps=1e-6)
        self.q, self.k, self.v, self.proj_out = (nn.Conv2d(width, width, 1) for _ in range(4))

    def forward(self, x):
        normed = self.norm(x)
        q, k, v = (each(normed).flatten(2).transpose(1, 2) for each in (self.q, self.k, self.v))  # b places c
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.proj_out(mixed.transpose(1, 2).reshape(x.shape))


def random_vqgan(seed: int, **sizes) -> TorchVqgan:
    """Norms that are not 1, biases that are not 0."""
    torch.manual_seed(seed)
    model = TorchVqgan(**sizes).eval()
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim == 1:
                tensor.normal_(1.0 if "norm" in name and name.endswith("weight") else 0.0, 0.2)
            else:
                tensor.normal_(0, tensor[0].numel() ** -0.5)
    return model
