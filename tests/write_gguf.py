"""A transformers model of a family that we run, written to GGUF as F32, with a small vocabulary. For tests.

Tensor names are those of `gguf.get_tensor_name_map`; keys are those of the GGUF specification.
"""

from pathlib import Path

import gguf
import numpy as np

# model_type of transformers -> architecture of GGUF.
ARCHITECTURES = {"llama": "llama", "mistral": "llama", "qwen2": "qwen2", "qwen3": "qwen3"}
# In these RoPE turns the pairs (2i, 2i+1); transformers turns (i, i + D/2) everywhere.
INTERLEAVED = ("llama",)


def write_gguf(path: Path, model) -> None:
    """Write `model`, one of ARCHITECTURES, with its weights, its shape and its RoPE scaling."""
    config = model.config
    architecture = ARCHITECTURES[config.model_type]
    head_dim = head_dim_of(config)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(head_dim)
    if getattr(config, "sliding_window", None):  # not every family has the field
        writer.add_sliding_window(config.sliding_window)
    _add_rope(writer, config.rope_parameters)
    _add_vocabulary(writer, config.vocab_size)
    for name, data in _tensors(model, architecture).items():
        writer.add_tensor(name, np.ascontiguousarray(data, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def head_dim_of(config) -> int:
    """Qwen2 has no field for it."""
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _add_rope(writer: gguf.GGUFWriter, rope: dict) -> None:
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] not in ("linear", "yarn"):  # Llama 3's is a tensor, see _tensors
        return
    writer.add_rope_scaling_type(gguf.RopeScalingType(rope["rope_type"]))
    writer.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        writer.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(rope.get("beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(rope.get("beta_slow", 1.0))
        if "attention_factor" in rope:
            # transformers' is the whole factor; GGUF's stands beside YaRN's own (arXiv 2309.00071, section 3.4).
            writer.add_rope_scaling_attn_factors(rope["attention_factor"] / (0.1 * np.log(rope["factor"]) + 1.0))


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    """SentencePiece's kind: three control tokens, the 256 bytes, then words that text never needs."""
    words = [f"\u2581w{i}" for i in range(size - 259)]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256)), *words])
    writer.add_token_scores([-float(i) for i in range(size)])
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * 256, *[kinds.NORMAL] * len(words)])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)


def _tensors(model, architecture: str) -> dict[str, np.ndarray]:
    config = model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.upper()], config.num_hidden_layers)
    tied = config.tie_word_embeddings
    found = {}
    for name, parameter in model.state_dict().items():
        if name == "lm_head.weight" and tied:
            continue
        data = parameter.numpy()
        if architecture in INTERLEAVED:
            for projection, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                if projection in name:
                    data = interleave(data, heads)
        found[names.get_name(name, try_suffixes=(".weight", ".bias"))] = data
    if config.rope_parameters["rope_type"] == "llama3":
        rotary = model.model.rotary_emb
        found["rope_freqs.weight"] = (rotary_plain(config) / rotary.inv_freq.double().numpy()).astype(np.float32)
    return found


def rotary_plain(config) -> np.ndarray:
    """float64 [D/2]: the inverse frequencies before any scaling."""
    head_dim = head_dim_of(config)
    return config.rope_parameters["rope_theta"] ** (-np.arange(0, head_dim, 2) / head_dim)


def interleave(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows [H*D, ..] of a head (x_0 .. x_{D/2-1}, y_0 .. y_{D/2-1}) as (x_0, y_0, x_1, y_1 ..)."""
    split = rows.reshape(heads, 2, rows.shape[0] // heads // 2, *rows.shape[1:])
    return split.swapaxes(1, 2).reshape(rows.shape)
