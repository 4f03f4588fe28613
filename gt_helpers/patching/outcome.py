"""What the engine gives: the effects of a sweep, the answers of an evaluated circuit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jaxtyping import Float, Int
from torch import Tensor

from ..metrics import Strata, bootstrap_ci, cutoff_sharpness, prob_diff
from ..model.components import Shape

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sweep:
    """One path-patching heatmap: every component in turn as the sender into one fixed route.

    ``values`` are patched minus base metric; senders that cannot reach the route are exactly 0.
    Negative means that the component matters (section 3.1).
    """

    receivers: tuple[str, ...]
    via: tuple[str, ...]
    senders: tuple[str, ...]
    values: Float[Tensor, "sender prompt"]
    shape: Shape = field(repr=False)
    strata: Strata | None = field(default=None, repr=False)  # of the prompts, see `bootstrap_ci`

    @property
    def effect(self) -> Float[Tensor, "layer n_heads+1"]:
        """Mean effects as the paper's heatmap; the last column holds the MLPs."""
        return self.values[:-1].mean(-1).reshape(self.shape.n_layers, self.shape.n_heads + 1)

    @property
    def embed(self) -> float:
        """Mean effect of the embedding at the senders' position."""
        return float(self.values[-1].mean())

    def to_frame(self, level: float = 0.95) -> pd.DataFrame:
        """One row per sender, strongest first: component, effect and its bootstrap interval."""
        import pandas as pd

        mean, low, high = bootstrap_ci(self.values, level, self.strata)
        frame = pd.DataFrame({"component": self.senders, "effect": mean, "low": low, "high": high})
        return frame.sort_values(
            "effect", key=abs, ascending=False, kind="stable", ignore_index=True
        )


@dataclass(frozen=True)
class Evaluation:
    """What the model answers when the chosen edges carry the patch run."""

    name: str
    log_probs: Float[Tensor, "prompt year"]  # under the full-vocabulary softmax at END
    YY: Int[Tensor, " prompt"]

    @property
    def probs(self) -> Float[Tensor, "prompt year"]:
        """Probabilities of the year tokens at END."""
        return self.log_probs.exp()

    @property
    def prob_diff(self) -> Float[Tensor, " prompt"]:
        """Probability difference."""
        return prob_diff(self.probs, self.YY)

    @property
    def cutoff_sharpness(self) -> Float[Tensor, " prompt"]:
        """Cutoff sharpness."""
        return cutoff_sharpness(self.probs, self.YY)
