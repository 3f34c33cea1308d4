"""Train the built-in model on stories that the grammar makes, and export it. Run by hand; see README.md.

python tools/train_builtin.py --out rocforge/assets/builtin.gguf --seed 0
"""

import argparse
import hashlib
import json
import math
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

# Read when CUDA starts: without it, matrix products may sum in another order on the next run.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import numpy as np
import torch
import torch.nn.functional as F
from gguf_export import write_gguf
from stories import story
from story_model import Config, StoryModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

BOS, EOS = "<|startoftext|>", "<|endoftext|>"
TOKENIZER_STORIES = 40_000
HELD_OUT_STORIES = 2_000
LENGTH_STEP = 64  # batches are padded to a multiple of this, so that few shapes are compiled
NORMAL, CONTROL = 1, 3  # tokenizer.ggml.token_type

# The matrices that suffer most from few bits get more of them; the embedding is also the output.
FORMATS = {"token_embd": "Q8_0", "attn_v": "Q6_K", "ffn_down": "Q6_K"}
OTHER_MATRICES = "Q4_K"
MOSTLY_Q4_K_M = 15  # general.file_type


# ---- text


def train_seeds(seed: int, count: int) -> list[str]:
    return [f"{seed}:train:{i}" for i in range(count)]


def held_out_seeds(count: int = HELD_OUT_STORIES) -> list[str]:
    """The same whatever the training seed, so that perplexities can be compared."""
    return [f"held-out:{i}" for i in range(count)]


def train_tokenizer(texts: list[str], vocab_size: int) -> Tokenizer:
    """Byte-level BPE with GPT-2's pre-tokenizer; ids 0 and 1 are BOS and EOS."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    options = dict(special_tokens=[BOS, EOS], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=vocab_size, **options))
    assert tokenizer.token_to_id(BOS) == 0 and tokenizer.token_to_id(EOS) == 1
    return tokenizer


def encode(tokenizer: Tokenizer, text: str) -> np.ndarray:
    """uint16 [n]: BOS, the text, EOS."""
    return np.array([0, *tokenizer.encode(text, add_special_tokens=False).ids, 1], np.uint16)


def digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=12).digest()


def make_part(seeds: list[str], tokenizer_json: str, banned: frozenset[bytes]) -> tuple[list[np.ndarray], int]:
    """The stories of these seeds as ids, less those that are banned, and how many those were."""
    tokenizer = Tokenizer.from_str(tokenizer_json)
    texts = [story(s) for s in seeds]
    kept = [t for t in texts if digest(t) not in banned]
    return [encode(tokenizer, t) for t in kept], len(texts) - len(kept)


def make_corpus(pool, seeds: list[str], tokenizer: Tokenizer, banned: frozenset[bytes]) -> tuple[list[np.ndarray], int]:
    parts = [seeds[i : i + 1000] for i in range(0, len(seeds), 1000)]
    made = pool.map(partial(make_part, tokenizer_json=tokenizer.to_str(), banned=banned), parts, chunksize=4)
    return [ids for part, _ in made for ids in part], sum(n for _, n in made)


# ---- training


class Corpus:
    """Stories on the device; `batch` pads some of them to one length."""

    def __init__(self, stories: list[np.ndarray], device: str):
        self.lengths = np.array([len(s) for s in stories])
        self.flat = torch.from_numpy(np.concatenate(stories).astype(np.int32)).to(device)
        self.starts = np.concatenate([[0], np.cumsum(self.lengths)[:-1]])

    def batches(self, size: int, rng: np.random.Generator | None) -> list[np.ndarray]:
        """Indices of stories of like length, each story once.

        With an rng they come in random order, full batches only (a ragged one would be one more shape).
        """
        order = np.arange(len(self.lengths)) if rng is None else rng.permutation(len(self.lengths))
        order = order if rng is None else order[: len(order) // size * size]
        batches = []
        for i in range(0, len(order), size * 64):
            part = order[i : i + size * 64]
            part = part[np.argsort(self.lengths[part], kind="stable")]
            batches += [part[j : j + size] for j in range(0, len(part), size)]
        return batches if rng is None else [batches[i] for i in rng.permutation(len(batches))]

    def batch(self, indices: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """(ids, targets) [B, T]; targets are -100 where there is nothing to learn."""
        device = self.flat.device
        longest = int(self.lengths[indices].max()) - 1
        steps = torch.arange(-(-longest // LENGTH_STEP) * LENGTH_STEP, device=device)
        starts, lengths = (torch.from_numpy(a[indices]).to(device)[:, None] for a in (self.starts, self.lengths))
        is_target = steps < lengths - 1
        where = (starts + steps).clamp(max=len(self.flat) - 2)
        ids, targets = self.flat[where].long(), self.flat[where + 1].long()
        return ids.masked_fill(~is_target, 1), targets.masked_fill(~is_target, -100)


def loss_of(model, ids: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy in nats a token."""
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=ids.is_cuda):
        logits = model(ids)
    return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), ignore_index=-100)


@torch.no_grad()
def held_out_loss(model, corpus: Corpus, size: int) -> float:
    total = count = 0.0
    for indices in corpus.batches(size, None):
        ids, targets = corpus.batch(indices)
        n = int((targets >= 0).sum())
        total += float(loss_of(model, ids, targets)) * n
        count += n
    return total / count


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """Linear warm-up, then a half cosine down to a hundredth."""
    if step < warmup:
        return peak * (step + 1) / warmup
    done = (step - warmup) / max(steps - warmup, 1)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(model: StoryModel, corpus: Corpus, args) -> float:
    """Train in place; the mean loss of the last 200 steps."""
    decayed = [p for p in model.parameters() if p.ndim == 2]
    others = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    is_cuda = args.device == "cuda"
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95), fused=is_cuda)
    runner = torch.compile(model, dynamic=False) if args.compile else model
    rng = np.random.default_rng(args.seed)
    plan = [batch for _ in range(args.epochs) for batch in corpus.batches(args.batch, rng)]
    losses, began = [], time.perf_counter()
    for step, indices in enumerate(plan):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, len(plan), args.lr, args.warmup)
        loss = loss_of(runner, *corpus.batch(indices))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.detach())
        if step % 500 == 0 or step == len(plan) - 1:
            print(
                f"step {step + 1}/{len(plan)}  loss {float(losses[-1]):.4f}  {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return float(torch.stack(losses[-200:]).mean())


# ---- export


def tokenizer_metadata(tokenizer: Tokenizer) -> dict[str, object]:
    model = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [CONTROL if t in (BOS, EOS) else NORMAL for t in tokens],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 1,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
    }


def format_of(name: str, ndim: int) -> str:
    """The block format of a tensor of this name."""
    return "F32" if ndim == 1 else FORMATS.get(name.split(".")[-2], OTHER_MATRICES)


def export(model: StoryModel, tokenizer: Tokenizer, path: "str | Path", quantized: bool = True) -> None:
    """Write the model as GGUF: in its block formats, or all of it in F32."""
    tensors = {name: p.detach().float().cpu().numpy() for name, p in model.named_parameters()}
    metadata = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.name": "RocForge Stories",
        "general.description": "Writes small stories in English; trained on text that a grammar made.",
        "general.license": "apache-2.0",
        "general.languages": ["en"],
        "general.quantization_version": 2,
        "general.file_type": MOSTLY_Q4_K_M if quantized else 0,
        **model.c.metadata(),
        **tokenizer_metadata(tokenizer),
    }
    formats = {n: format_of(n, x.ndim) if quantized else "F32" for n, x in tensors.items()}
    write_gguf(path, metadata, tensors, formats)


# ---- all of it


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="the GGUF file to write")
    parser.add_argument("--checkpoint", type=Path, help="also write the float32 weights (.npz)")
    parser.add_argument("--report", type=Path, help="also write what was measured (.json)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--stories", type=int, default=450_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--batch", type=int, default=128, help="stories a step")
    parser.add_argument("--lr", type=float, default=3e-3)
    parser.add_argument("--warmup", type=int, default=300, help="steps")
    parser.add_argument("--vocab", type=int, default=3072)
    parser.add_argument("--layers", type=int, default=Config.n_layers)
    parser.add_argument("--compile", action="store_true", help="torch.compile: faster, on a GPU")
    parser.add_argument("--samples", type=int, default=5, help="stories to print at the end")
    args = parser.parse_args()
    args.device = "cuda" if torch.cuda.is_available() else "cpu"
    return args


def main() -> None:
    args = parse_args()
    began = time.perf_counter()
    torch.manual_seed(args.seed)
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # a guard against bugs, and slow
    torch._dynamo.config.cache_size_limit = 32

    held_out_texts = [story(s) for s in held_out_seeds()]
    seeds = train_seeds(args.seed, args.stories)
    # Spawned, not forked: this process has threads by now.
    with multiprocessing.get_context("spawn").Pool() as pool:
        texts = pool.map(story, seeds[:TOKENIZER_STORIES], chunksize=1000)
        tokenizer = train_tokenizer(texts, args.vocab)
        stories, n_banned = make_corpus(pool, seeds, tokenizer, frozenset(map(digest, held_out_texts)))
    n_distinct = len({s.tobytes() for s in stories})
    corpus = Corpus(stories, args.device)
    held_out = Corpus([encode(tokenizer, t) for t in held_out_texts], args.device)
    print(
        f"{len(stories)} stories ({n_distinct} distinct, {n_banned} left out because they are held out), "
        f"{len(corpus.flat)} tokens, {corpus.lengths.mean():.0f} a story, longest {corpus.lengths.max()}; "
        f"{tokenizer.get_vocab_size()} token types; {time.perf_counter() - began:.0f} s",
        flush=True,
    )
    longest = max(corpus.lengths.max(), held_out.lengths.max())
    if longest > Config.context:
        sys.exit(f"the longest story has {longest} tokens, the context {Config.context}; raise --vocab")

    model = StoryModel(Config(tokenizer.get_vocab_size(), n_layers=args.layers)).to(args.device)
    train_loss = train(model, corpus, args)
    model.eval()
    loss = held_out_loss(model, held_out, args.batch)
    export(model, tokenizer, args.out)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "seed": args.seed,
        "device": torch.cuda.get_device_name() if args.device == "cuda" else "CPU",
        "torch": torch.__version__,
        "parameters": sum(p.numel() for p in model.parameters()),
        "training_tokens": int(corpus.lengths.sum()) * args.epochs,
        "distinct_stories": n_distinct,
        "final_train_loss": train_loss,
        "held_out_loss": loss,
        "held_out_perplexity": math.exp(loss),
        "wall_s": round(time.perf_counter() - began, 1),
        "gguf_bytes": args.out.stat().st_size,
        "gguf_sha256": hashlib.sha256(args.out.read_bytes()).hexdigest(),
    }
    print(json.dumps(report, indent=2))
    if args.report:
        args.report.write_text(json.dumps(report, indent=2) + "\n")
    if args.checkpoint:
        np.savez(args.checkpoint, **{n: p.detach().float().cpu().numpy() for n, p in model.named_parameters()})
    for i in range(args.samples):
        print("----\n" + tokenizer.decode(model.sample([0], end=1, temperature=0.8, seed=i)))


if __name__ == "__main__":
    main()
