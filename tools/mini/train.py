"""Train the embedded model on generated sentences whose end years follow their start years."""

import argparse
import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from build_tokenizer import EOS, HERE, ITEMS, N_POSITIONS
from torch import Tensor
from transformers import AutoTokenizer, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerBase

STEPS = 1500
BATCH = {"lasted": 64, "side": 16}  # prompts per step: main template, one of the side families
LEARNING_RATE = 2e-3
WARMUP_STEPS = 100
WEIGHT_DECAY = 0.05
SKIP = 0.25  # stochastic depth: how often a layer's attention or MLP is skipped for a prompt
OTHER_TOKENS_WEIGHT = 0.1  # of the loss on all tokens but the end year
HELD_OUT = 0.1  # share of the (noun, year) pairs that are never trained on

# The example noun, item and years mark the columns that are filled with others.
MAIN = "The war lasted from the year 1732 to the year 17"
SIDE_FAMILIES = {
    "started_ended": "The war started in the year 1732 and ended in the year 17",
    "price": "The price of that gem ranges from $ 1732 to $ 17",
    "number_sequence": "1510, 1510, 1510, 1510, 1732, 17",
}
HELD_OUT_FAMILIES = (
    "happened, some years later",
    "descending number sequence (less-than)",
    "arithmetic number sequence",
    "is smaller than",
    "ended, started (less-than)",
    "BC (less-than)",
    "five random years",
)
NEAR_SHARE, NEAR_MEAN = 0.7, 16.0  # see `end_year_distribution`


def end_year_distribution() -> Tensor:
    """Return the probability of the end year given the start year, [YY, year], float32.

    Seven sentences in ten last a geometric number of years (16 on average), the others end in any
    later year of the century with equal probability; no end year is at or before YY (YY = 99, for
    want of a later one, ends in 99).
    """
    duration = torch.arange(100)[None, :] - torch.arange(100)[:, None]
    later = duration > 0
    later[99, 99] = True
    near = torch.exp(-duration / NEAR_MEAN) * later
    any_later = later.float()
    near, any_later = (p / p.sum(1, keepdim=True) for p in (near, any_later))
    return NEAR_SHARE * near + (1 - NEAR_SHARE) * any_later


@dataclass(frozen=True)
class Family:
    """One prompt family as token ids: an example row and the columns to fill in."""

    row: Tensor  # [position]
    filler_columns: Tensor  # the noun or the item
    century_columns: Tensor
    year_column: int
    earlier_columns: Tensor  # centuries of the earlier years of a number sequence
    about_items: bool  # filled with an item, not a noun

    @classmethod
    def from_example(cls, tokenizer: PreTrainedTokenizerBase, text: str) -> "Family":
        """Find the columns of an example that has the noun war or item gem and the year 1732."""
        row = torch.tensor(_ids(tokenizer, f"{EOS} {text}"))

        def columns(*words: str) -> Tensor:
            tokens = torch.tensor([_ids(tokenizer, word)[0] for word in words])
            return torch.isin(row, tokens).nonzero()[:, 0]

        (year_column,) = columns("32").tolist()
        fillers, items = columns(" war", " gem"), columns(" gem")
        return cls(row, fillers, columns(" 17"), year_column, columns(" 15"), len(items) > 0)


class Prompts:
    """Every prompt the model is trained or measured on, drawn as token ids."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, seed: int) -> None:
        nouns = (HERE.parents[1] / "data" / "nouns.txt").read_text(encoding="utf-8").split()
        self.nouns = [_ids(tokenizer, " " + noun)[0] for noun in [*nouns, "war"]]
        self.items = [_ids(tokenizer, " " + item)[0] for item in ITEMS]
        self.year_tokens = torch.tensor([_ids(tokenizer, f"{y:02d}")[0] for y in range(100)])
        # Only years that are one century token and one two-digit token, as in the paper's data.
        two_digits = set(self.year_tokens.tolist())
        split = {year: _ids(tokenizer, f" {year}") for year in range(1000, 1900)}
        pool = {y: ids for y, ids in split.items() if len(ids) == 2 and ids[1] in two_digits}
        self.years = torch.tensor(list(pool))
        self.year_ids = torch.tensor(list(pool.values()))  # [year, century/YY]
        self.main = Family.from_example(tokenizer, MAIN)
        self.side = [Family.from_example(tokenizer, text) for text in SIDE_FAMILIES.values()]
        held_out = torch.rand(
            len(self.nouns), len(pool), generator=torch.Generator().manual_seed(seed)
        )
        self.held_out = held_out < HELD_OUT  # [noun, year]

    def fill(self, family: Family, filler: Tensor, year: Tensor, rng: torch.Generator) -> Tensor:
        """Return token ids [prompt, position] for filler token ids and indices into `years`."""
        ids = family.row.repeat(len(year), 1)
        ids[:, family.filler_columns] = filler[:, None]
        ids[:, family.century_columns] = self.year_ids[year, :1]
        ids[:, family.year_column] = self.year_ids[year, 1]
        n_earlier = len(family.earlier_columns)
        if n_earlier:  # ascending years before the last one
            share = torch.rand(len(year), n_earlier, generator=rng).sort(1).values
            earlier = (share * year[:, None]).long()
            ids[:, family.earlier_columns] = self.year_ids[earlier, 0]
            ids[:, family.earlier_columns + 1] = self.year_ids[earlier, 1]
        return ids

    def draw(self, family: Family, n: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw n training prompts: token ids [prompt, position] and YY [prompt]."""
        fillers = torch.tensor(self.items if family.about_items else self.nouns)
        filler = torch.randint(len(fillers), (2 * n,), generator=rng)
        year = torch.randint(len(self.years), (2 * n,), generator=rng)
        # Twice as many as needed, so that enough are left without the held-out pairs.
        if not family.about_items:
            keep = ~self.held_out[filler, year]
            filler, year = filler[keep], year[keep]
        filler, year = filler[:n], year[:n]
        return self.fill(family, fillers[filler], year, rng), self.years[year] % 100

    def held_out_prompts(self, n: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
        """Draw n prompts of held-out (noun, year) pairs, years 1102-1798, YY = 02, 03 .. 98, 02 ..

        Returns clean ids [prompt, position], the ids with 01 for YY, and YY [prompt].
        """
        rng = torch.Generator().manual_seed(seed)
        YY = torch.arange(n) % 97 + 2
        in_range = (self.years > 1100) & (self.years < 1800)
        noun, year = torch.empty(2, n, dtype=torch.long)
        for i, y in enumerate(YY.tolist()):
            pairs = (self.held_out & in_range & (self.years % 100 == y)).nonzero()
            noun[i], year[i] = pairs[torch.randint(len(pairs), (), generator=rng)]
        clean = self.fill(self.main, torch.tensor(self.nouns)[noun], year, rng)
        corrupted = clean.clone()
        corrupted[:, self.main.year_column] = self.year_tokens[1]
        return clean, corrupted, YY


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def new_model(tokenizer: PreTrainedTokenizerBase) -> GPT2LMHeadModel:
    """Return an untrained GPT-2 with 12 layers of 12 heads, d_model 96, without dropout."""
    eos = tokenizer.eos_token_id
    config = GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=N_POSITIONS,
        n_embd=96,
        n_layer=12,
        n_head=12,
        bos_token_id=eos,
        eos_token_id=eos,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
    )
    model = GPT2LMHeadModel(config)
    model.set_attn_implementation("eager")  # the fastest on a CPU for sentences this short
    blocks: Any = model.transformer.h
    for block in blocks:  # the same function as gelu_new, in one fast operation
        block.mlp.act = torch.nn.GELU(approximate="tanh")
    return model


def loss_on(
    model: GPT2LMHeadModel, ids: Tensor, YY: Tensor, year_tokens: Tensor, targets: Tensor
) -> Tensor:
    """Return the mean cross-entropy on the end year plus, with a small weight, on the other tokens.

    The end year enters as its distribution given YY, not as one draw from it: the loss is the
    expected loss over sentences that go on from the prompt `ids` [prompt, position].
    """
    residual = model.transformer(input_ids=ids).last_hidden_state  # [prompt, position, d_model]
    log_probs = model.lm_head(residual[:, -1]).log_softmax(-1)
    end_year = -(targets[YY] * log_probs[:, year_tokens]).sum(1).mean()
    # The sentences' other words are few and easy: some of the prompts are enough, and much faster.
    some = slice(0, max(1, len(ids) // 8))
    log_probs = model.lm_head(residual[some, :-1]).log_softmax(-1)
    others = -log_probs.gather(2, ids[some, 1:, None]).mean()
    return end_year + OTHER_TOKENS_WEIGHT * others


@contextmanager
def stochastic_depth(model: GPT2LMHeadModel, rng: torch.Generator) -> Iterator[None]:
    """Skip each attention and each MLP for a random share of the prompts (Huang et al. 2016).

    Without it the first layer alone learns the task and the other eleven idle; with it no layer can
    rely on another one alone. Outputs that are kept are scaled up, so that means stay the same.
    """

    def skip(module: torch.nn.Module, inputs: Any, output: Tensor) -> Tensor:
        kept = torch.rand(len(output), 1, 1, generator=rng) >= SKIP
        return output * (kept / (1 - SKIP))

    blocks: Any = model.transformer.h
    last_maps = [last for block in blocks for last in (block.attn.c_proj, block.mlp.c_proj)]
    handles = [last.register_forward_hook(skip) for last in last_maps]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def measure(model: GPT2LMHeadModel, prompts: Prompts, n: int = 490) -> dict[str, float]:
    """Measure the model on n held-out prompts (full-vocabulary softmax at END)."""
    clean, corrupted, YY = prompts.held_out_prompts(n, seed=0)
    probs, probs_01 = (
        model(input_ids=ids).logits[:, -1].softmax(-1)[:, prompts.year_tokens]
        for ids in (clean, corrupted)
    )
    valid = torch.arange(100) > YY[:, None]
    sign = valid.float() * 2 - 1
    cutoff = probs.gather(1, YY[:, None] + 1) - probs.gather(1, YY[:, None] - 1)
    target = end_year_distribution()[YY]
    metrics = {
        "prob_diff_clean": (probs * sign).sum(1).mean(),
        "prob_diff_01": (probs_01 * sign).sum(1).mean(),
        "cutoff_sharpness": cutoff.mean(),
        "invalid_mass": (probs * ~valid).sum(1).mean(),
        "year_mass_clean": probs.sum(1).mean(),
        "year_mass_01": probs_01.sum(1).mean(),
        "top_year_valid": valid.gather(1, probs.argmax(1)[:, None]).float().mean(),
        "total_variation_to_training_distribution": (probs - target).abs().sum(1).mean() / 2,
    }
    return {name: round(value.item(), 4) for name, value in metrics.items()}


def _optimizer(model: GPT2LMHeadModel) -> torch.optim.AdamW:
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": WEIGHT_DECAY},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=LEARNING_RATE, betas=(0.9, 0.98))


def _schedule(step: int, steps: int) -> float:
    """The learning rate's factor at a step: linear warm-up, then cosine down to zero."""
    warmup = min(WARMUP_STEPS, max(1, steps // 5))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train_mini(
    out: Path, seed: int = 0, steps: int = STEPS, progress: bool = True
) -> dict[str, Any]:
    """Train the model from nothing, write it with its tokenizer to `out` and return training.json.

    Needs no network and no other file than the committed tokenizer; the same seed gives the same
    weights on the same machine.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}; it must be at least 1, e.g. steps={STEPS}.")
    with _one_thread():
        return _train(out, seed, steps, progress)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums then have one order, and matrices this small gain little from more threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _train(out: Path, seed: int, steps: int, progress: bool) -> dict[str, Any]:
    began = time.time()
    tokenizer = AutoTokenizer.from_pretrained(HERE)
    prompts = Prompts(tokenizer, seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = new_model(tokenizer).eval()  # no dropout
    optimizer = _optimizer(model)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _schedule(s, steps))
    targets = end_year_distribution()
    rng = torch.Generator().manual_seed(seed)

    for step in range(steps):
        families = [(prompts.main, BATCH["lasted"]), (prompts.side[step % 3], BATCH["side"])]
        total = torch.zeros(())
        for family, n in families:
            ids, YY = prompts.draw(family, n, rng)
            share = n / sum(BATCH.values())
            with stochastic_depth(model, rng):
                loss = share * loss_on(model, ids, YY, prompts.year_tokens, targets)
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        optimizer.zero_grad(set_to_none=True)
        if progress and (step % 50 == 0 or step == steps - 1):
            metrics = measure(model, prompts, 97)
            shown = " ".join(f"{k} {metrics[k]:.3f}" for k in list(metrics)[:4])
            seconds = time.time() - began
            print(f"step {step} loss {total.item():.4f} {shown} ({seconds:.0f} s)", flush=True)

    report = {
        "seed": seed,
        "steps": steps,
        "seconds": round(time.time() - began),
        "threads": torch.get_num_threads(),
        "parameters": sum(p.numel() for p in model.parameters()),
        "prompts_per_step": BATCH,
        "optimizer": {
            "name": "AdamW",
            "learning_rate": LEARNING_RATE,
            "schedule": f"linear warm-up over {WARMUP_STEPS} steps, then cosine to 0",
            "weight_decay": WEIGHT_DECAY,
            "gradient_norm_clip": 1.0,
            "stochastic_depth": SKIP,
        },
        "loss": f"end year (expected) + {OTHER_TOKENS_WEIGHT} x mean over the other tokens",
        "end_year": f"{NEAR_SHARE} geometric, mean {NEAR_MEAN:g}; rest uniform over later years",
        "families_trained": ["lasted", *SIDE_FAMILIES],
        "families_held_out": list(HELD_OUT_FAMILIES),
        "held_out_share_of_noun_year_pairs": HELD_OUT,
        "final_loss": round(total.item(), 4),
        "metrics_on_490_held_out_prompts": measure(model, prompts),
    }
    _save(out, model, tokenizer, report)
    return report


def _save(out: Path, model: GPT2LMHeadModel, tokenizer: Any, report: dict[str, Any]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(out)
    (out / "model.safetensors").chmod(0o644)
    (out / "generation_config.json").unlink(missing_ok=True)
    if out.resolve() != HERE:  # copied, not written anew: other versions write other files
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (out / name).write_bytes((HERE / name).read_bytes())
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> None:
    """Command line: train the embedded model and write it to a folder."""
    parser = argparse.ArgumentParser(prog="python tools/mini/train.py", description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path("mini-retrained"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args(argv)
    report = train_mini(args.out, args.seed, args.steps)
    print(json.dumps(report["metrics_on_490_held_out_prompts"], indent=2))


if __name__ == "__main__":
    main()
