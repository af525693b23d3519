"""BiomedGPT in plain torch, written from its equations, with the names of its fairseq checkpoints. It answers only.

b rows, n places, d width, h heads, k head width.
"""

import math

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from biomedgpt_jax.models.biomedgpt_config import BiomedGptConfig


def random_biomedgpt(config: BiomedGptConfig, seed: int) -> "TorchBiomedGpt":
    """Biases that are not 0, norms that are not 1, running statistics that say something."""
    torch.manual_seed(seed)
    model = TorchBiomedGpt(config).eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point() or name.endswith("output_projection.weight"):
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2.0)
            elif tensor.ndim == 1:
                ones = "norm" in name or "_ln" in name or "bn" in name or "downsample" in name or "c_attn" in name
                tensor.normal_(1.0 if ones and name.endswith(("weight", "c_attn")) else 0.0, 0.3)
            elif ("embed_" in name and tensor.ndim == 2) or "table" in name or "type_embedding" in name:
                tensor.normal_(0, 0.5)
            else:
                tensor.normal_(0, 1.2 / math.sqrt(tensor[0].numel()))
    return model


class TorchBiomedGpt(nn.Module):
    def __init__(self, config: BiomedGptConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config, self.encoder.embed_tokens)

    def forward(self, source_tokens, source_mask, tokens, images=None, image_mask=None, codes=None):
        """Logits [b s v]; `seen` then holds what each part made.

        Args:
            images: normalised, [b 3 w w].
            codes: bool [b], rows whose target are codes.
        """
        self.seen = {}
        source = self.encoder(source_tokens, source_mask, images, image_mask, self.seen)
        return self.decoder(tokens, source, codes, self.seen)


def norm(config, width=None):
    return nn.LayerNorm(width or config.width, eps=config.norm_eps)


class Bottleneck(nn.Module):
    def __init__(self, channels, inside, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, inside, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, 4 * inside, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * inside)
        if channels != 4 * inside:
            projection = nn.Conv2d(channels, 4 * inside, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(projection, nn.BatchNorm2d(4 * inside))

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        y = F.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return F.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class Stem(nn.Module):
    def __init__(self, config):
        super().__init__()
        w, (one, two, three) = config.stem_width, config.stem_blocks
        self.conv1 = nn.Conv2d(3, w, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(w)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = nn.Sequential(Bottleneck(w, w, 1), *(Bottleneck(4 * w, w, 1) for _ in range(one - 1)))
        self.layer2 = nn.Sequential(Bottleneck(4 * w, 2 * w, 2), *(Bottleneck(8 * w, 2 * w, 1) for _ in range(two - 1)))
        self.layer3 = nn.Sequential(
            Bottleneck(8 * w, 4 * w, 2), *(Bottleneck(16 * w, 4 * w, 1) for _ in range(three - 1))
        )

    def forward(self, x):
        x = self.pool(F.relu(self.bn1(self.conv1(x))))
        return self.layer3(self.layer2(self.layer1(x)))


class Attention(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.heads, self.scaling = config.heads, (config.position_scale * config.head_dim) ** -0.5
        for name in ("k_proj", "v_proj", "q_proj", "out_proj"):
            setattr(self, name, nn.Linear(config.width, config.width))
        if config.scale_heads:
            self.c_attn = nn.Parameter(torch.ones(config.heads))

    def forward(self, x, source, bias, forbidden):
        """`bias` [b h n m], `forbidden` bool [b 1 n m]."""
        q, k, v = split_heads(self.heads, self.q_proj(x), self.k_proj(source), self.v_proj(source))
        scores = torch.einsum("bnhk,bmhk->bhnm", q * self.scaling, k) + bias
        weights = scores.masked_fill(forbidden, -math.inf).softmax(-1)
        found = torch.einsum("bhnm,bmhk->bnhk", weights, v)
        if hasattr(self, "c_attn"):
            found = found * self.c_attn[:, None]
        return self.out_proj(found.flatten(2))


class Mlp(nn.Module):
    """Has no name of its own in the checkpoint: layers inherit it."""

    def add_mlp(self, config):
        self.final_layer_norm = norm(config)
        self.fc1 = nn.Linear(config.width, config.mlp_width)
        if config.scale_mlp:
            self.ffn_layernorm = norm(config, config.mlp_width)
        self.fc2 = nn.Linear(config.mlp_width, config.width)

    def mlp(self, x):
        y = F.gelu(self.fc1(self.final_layer_norm(x)))
        return self.fc2(self.ffn_layernorm(y) if hasattr(self, "ffn_layernorm") else y)


class EncoderLayer(Mlp):
    def __init__(self, config):
        super().__init__()
        self.self_attn_layer_norm = norm(config)
        self.self_attn = Attention(config)
        self.attn_ln = norm(config) if config.scale_attention else nn.Identity()
        self.add_mlp(config)

    def forward(self, x, bias, forbidden):
        y = self.self_attn_layer_norm(x)
        x = x + self.attn_ln(self.self_attn(y, y, bias, forbidden))
        return x + self.mlp(x)


class DecoderLayer(Mlp):
    def __init__(self, config):
        super().__init__()
        self.self_attn_layer_norm = norm(config)
        self.self_attn = Attention(config)
        self.self_attn_ln = norm(config) if config.scale_attention else nn.Identity()
        self.encoder_attn_layer_norm = norm(config)
        self.encoder_attn = Attention(config)
        self.cross_attn_ln = norm(config) if config.scale_attention else nn.Identity()
        self.add_mlp(config)

    def forward(self, x, source, own_bias, own_forbidden, bias, forbidden):
        y = self.self_attn_layer_norm(x)
        x = x + self.self_attn_ln(self.self_attn(y, y, own_bias, own_forbidden))
        x = x + self.cross_attn_ln(self.encoder_attn(self.encoder_attn_layer_norm(x), source, bias, forbidden))
        return x + self.mlp(x)


class Side(nn.Module):
    """What encoder and decoder both have: positions and relative tables."""

    def add_positions(self, config, layers, projections):
        c = self.config = config
        self.embed_positions = nn.Embedding(c.text_positions, c.width)
        self.embed_image_positions = nn.Embedding(c.image_positions, c.width)
        self.pos_ln, self.image_pos_ln = norm(c), norm(c)
        for name in projections:
            setattr(self, name, nn.Linear(c.width, c.width))
        for name, rows in (("token", c.text_relations), ("image", c.image_relations)):
            tables = nn.ModuleList(nn.Embedding(rows, c.heads) for _ in range(layers))
            setattr(self, f"{name}_rel_pos_table_list", tables)
        self.register_buffer("token_rp_bucket", text_bucket(c))
        self.register_buffer("image_rp_bucket", image_bucket(c))
        self.register_buffer("version", torch.tensor([3.0]))

    def absolute(self, query, key, of_queries, of_keys):
        q, k = split_heads(self.config.heads, query(of_queries), key(of_keys))
        return torch.einsum("nhk,mhk->hnm", q * (self.config.position_scale * self.config.head_dim) ** -0.5, k)

    def relative(self, kind, layer, ids):
        table = getattr(self, f"{kind}_rel_pos_table_list")[layer].weight
        return table[getattr(self, f"{kind}_rp_bucket")[ids][:, ids]].permute(2, 0, 1)


class Encoder(Side):
    def __init__(self, config):
        super().__init__()
        c = config
        self.embed_tokens = nn.Embedding(c.vocab_size, c.width, padding_idx=1)
        self.layernorm_embedding, self.patch_layernorm_embedding = norm(c), norm(c)
        self.type_embedding = nn.Embedding(2, c.width)
        self.embed_images = Stem(c)
        self.image_proj = nn.Linear(16 * c.stem_width, c.width)
        self.add_positions(c, c.encoder_layers, ("pos_q_linear", "pos_k_linear"))
        self.layers = nn.ModuleList(EncoderLayer(c) for _ in range(c.encoder_layers))
        self.layer_norm = norm(c)

    def forward(self, words, mask, images, image_mask, seen):
        x = self.layernorm_embedding(self.embed_tokens(words) + self.type_embedding.weight[0])
        text_ids = torch.arange(words.shape[1])
        positions = self.pos_ln(self.embed_positions(text_ids))
        image_ids = torch.zeros(0, dtype=torch.long)
        if images is not None:
            features = seen["stem"] = self.embed_images(images)
            rows, columns = features.shape[2:]
            patches = self.image_proj(features.flatten(2).transpose(1, 2)) + self.type_embedding.weight[1]
            x = torch.cat([self.patch_layernorm_embedding(patches), x], 1)
            of_patches = image_mask[:, None].expand(-1, rows * columns)
            mask = torch.cat([of_patches, mask], 1)
            grid = torch.arange(rows)[:, None] * self.config.image_grid + torch.arange(columns) + 1
            image_ids = grid.flatten()
            positions = torch.cat([self.image_pos_ln(self.embed_image_positions(image_ids)), positions])
        x = x * mask[..., None]
        absolute = seen["absolute"] = self.absolute(self.pos_q_linear, self.pos_k_linear, positions, positions)
        for number, layer in enumerate(self.layers):
            bias, p = absolute.clone(), len(image_ids)
            bias[:, :p, :p] += self.relative("image", number, image_ids)
            bias[:, p:, p:] += self.relative("token", number, text_ids)
            seen[f"bias{number}"] = bias
            x = layer(x, bias[None], ~mask[:, None, None])
        seen["encoder"] = self.layer_norm(x)
        return seen["encoder"], mask, positions


class Decoder(Side):
    def __init__(self, config, embed_tokens):
        super().__init__()
        c = config
        self.embed_tokens = embed_tokens
        self.output_projection = nn.Linear(c.width, c.vocab_size, bias=False)
        self.output_projection.weight = embed_tokens.weight
        self.layernorm_embedding, self.code_layernorm_embedding = norm(c), norm(c)
        names = ("self_pos_q_linear", "self_pos_k_linear", "cross_pos_q_linear", "cross_pos_k_linear")
        self.add_positions(c, c.decoder_layers, names)
        self.layers = nn.ModuleList(DecoderLayer(c) for _ in range(c.decoder_layers))
        self.layer_norm = norm(c)
        codes = (torch.arange(c.code_grid)[:, None] * c.image_grid + torch.arange(c.code_grid) + 1).flatten()
        behind = torch.full((1026 - 1 - codes.numel(),), 1024)
        self.register_buffer("image_position_idx", torch.cat([torch.zeros(1, dtype=torch.long), codes, behind]))

    def forward(self, tokens, source, codes, seen):
        encoded, source_mask, source_positions = source
        s, codes = tokens.shape[1], torch.zeros(len(tokens), dtype=torch.bool) if codes is None else codes
        ids = {False: torch.arange(s), True: self.image_position_idx[:s]}
        raw = {False: self.embed_positions(ids[False]), True: self.embed_image_positions(ids[True])}
        normed = {False: self.pos_ln(raw[False]), True: self.image_pos_ln(raw[True])}

        def by_row(of):
            return torch.stack([of(bool(code)) for code in codes])

        x = self.embed_tokens(tokens)
        if self.config.add_decoder_positions:
            x = x + by_row(raw.__getitem__)
        x = torch.where(codes[:, None, None], self.code_layernorm_embedding(x), self.layernorm_embedding(x))
        own = {kind: self.absolute(self.self_pos_q_linear, self.self_pos_k_linear, p, p) for kind, p in normed.items()}
        cross = by_row(
            lambda kind: self.absolute(self.cross_pos_q_linear, self.cross_pos_k_linear, normed[kind], source_positions)
        )
        later = torch.ones(s, s, dtype=torch.bool).triu(1)
        for number, layer in enumerate(self.layers):
            bias = by_row(
                lambda kind, number=number: own[kind] + self.relative("image" if kind else "token", number, ids[kind])
            )
            x = layer(x, encoded, bias, later, cross, ~source_mask[:, None, None])
        seen["decoder"] = self.layer_norm(x)
        return self.output_projection(seen["decoder"])


def split_heads(heads, *arrays):
    return tuple(each.unflatten(-1, (heads, -1)) for each in arrays)


def text_bucket(config):
    """For each pair of 1024 places, as checkpoints hold it."""
    near, reach = config.text_buckets // 2, config.bucket_reach
    distance = torch.arange(reach)[:, None] - torch.arange(reach)
    size = distance.abs().clamp(min=near).float()
    far = torch.ceil(torch.log(size / near) / math.log((reach - 1) / near) * (near - 1)).long() + near
    return torch.where(distance.abs() <= near, distance, far * distance.sign()) + config.text_buckets - 1


def image_bucket(config):
    """For each pair of ids, as checkpoints hold it."""
    grid = config.image_grid
    rows, columns = (torch.from_numpy(each.astype(np.int64)) for each in np.divmod(np.arange(grid**2), grid))
    span = 2 * grid - 1
    inner = (rows[:, None] - rows + grid - 1) * span + (columns[:, None] - columns + grid - 1)
    whole = torch.zeros(grid**2 + 1, grid**2 + 1, dtype=torch.long)
    whole[1:, 1:] = inner
    whole[0, :], whole[:, 0], whole[0, 0] = span**2, span**2 + 1, span**2 + 2
    return whole
