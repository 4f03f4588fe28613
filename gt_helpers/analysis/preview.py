"""Preview: sweeps without the full unembedding, their error measured beside the result.

Nearly all of a sweep is the unembedding of senders x prompts vectors into the whole vocabulary, of
which the metric needs the 100 years, and the softmax's normaliser the rest, which holds about a
thousandth of the probability. Here the years are exact, and the rest's log-sum-exp is followed to
first order from the base run: one more column per prompt, the rest's mean unembedding vector.
For widgets and scans; the scorecard and the report are exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.transformer import Transformer
from ..patching.engine import PathPatching, _Chunk

_SAMPLE = 64  # cells of every chunk that are computed exactly as well
TOLERANCE = 1e-3  # of log-probabilities, so about the relative error of every probability


class Preview(PathPatching):
    """Path patching whose softmax is normalised to first order around the base run.

    In every chunk some cells are computed exactly as well: those that moved farthest, and some at
    even distances. ``error`` is the largest difference of log-probabilities among the ``checked``
    cells; a chunk in which it exceeds `TOLERANCE` is computed exactly (``exact`` counts its cells).
    """

    error = 0.0
    checked = 0
    exact = 0
    _anchors: dict[tuple[str, int, int], tuple[Tensor, Tensor, Tensor]] | None = None

    @classmethod
    def of(cls, patching: PathPatching) -> Preview:
        """A preview of the same prompts, base and cached runs, without progress bars."""
        quick = cls(patching.model, patching.dataset, patching.base)
        quick._cache = patching._cache
        return quick

    def forget(self) -> None:
        """Start the counts anew."""
        self.error, self.checked, self.exact = 0.0, 0, 0

    def note(self) -> str:
        """How far off what was computed so far is, in one sentence."""
        if not self.checked:
            return "Computed exactly: there are few cells."
        exact = f" {self.exact} cells were too far off and are exact." if self.exact else ""
        return (
            f"Preview: of {self.checked} cells that were computed exactly as well, the largest "
            f"relative error of a probability is {100 * self.error:.3f} %.{exact}"
        )

    def _log_probs(self, chunk: _Chunk, change: Tensor | None) -> Tensor:
        stream = chunk.base.at_layer(self.model.n_layers, self._index("END"))
        normed = self._normed(stream, change)
        n_cells = normed.shape[0] * normed.shape[1]
        if change is None or n_cells <= 2 * _SAMPLE:
            return self.model.log_probs_of(normed, self.dataset.year_tokens)
        found = self._first_order(chunk, stream, normed)
        sample = _sample((normed - self._normed(stream, None)).norm(dim=-1).flatten())
        rows, guess = normed.flatten(0, 1)[sample], found.flatten(0, 1)[sample]
        truth = self.model.log_probs_of(rows, self.dataset.year_tokens)
        # The years' logits are exact, so that all years of a cell have the same error.
        error = float((guess - truth)[:, 0].abs().max())
        self.checked += len(sample)
        if error > TOLERANCE:
            self.exact += n_cells
            return self.model.log_probs_of(normed, self.dataset.year_tokens)
        self.error = max(self.error, error)
        return found

    def _first_order(self, chunk: _Chunk, stream: Tensor, normed: Tensor) -> Tensor:
        anchors = self._anchors = {} if self._anchors is None else self._anchors
        key = (self.base, chunk.prompts.start, chunk.prompts.stop)
        if key not in anchors:
            base = self._normed(stream, None)[0]
            anchors[key] = (base, *_rest(self.model, base, self.dataset.year_tokens))
        base, size, direction = anchors[key]
        tokens = self.dataset.year_tokens.to(self.model.device)
        years = normed @ self.model.W_U[:, tokens] + self.model.b_U[tokens]
        rest = size + ((normed - base) * direction).sum(-1)
        return years - torch.logaddexp(years.logsumexp(-1), rest)[..., None]


def _rest(model: Transformer, normed: Tensor, years: Tensor) -> tuple[Tensor, Tensor]:
    """Of the tokens that are no years: log-sum-exp [prompt], mean unembedding [prompt, d_model].

    The mean is weighted by probability: it is the log-sum-exp's gradient.
    """
    sizes, directions = [], []
    for rows in normed.split(64):
        logits = rows @ model.W_U + model.b_U
        logits[:, years.to(model.device)] = -torch.inf
        sizes.append(logits.logsumexp(-1))
        directions.append(logits.softmax(-1) @ model.W_U.T)
    return torch.cat(sizes), torch.cat(directions)


def _sample(distance: Tensor) -> Tensor:
    """Indices of the cells that moved farthest, and of as many others at even distances."""
    half = _SAMPLE // 2
    spread = torch.linspace(0, len(distance) - 1, half, device=distance.device).round().long()
    return torch.cat([distance.topk(half).indices, spread]).unique()
