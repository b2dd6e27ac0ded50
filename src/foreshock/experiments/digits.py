"""scikit-learn's 1,797 handwritten digits of 8 by 8 pixels, as tensors."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

#: Digits there are.
SIZE = 1797


def load_digits(
    seed: int, heldout: int = 360
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The digits, a fifth of them held out.

    Args:
        seed: Of the split.
        heldout: Held-out examples.

    Returns:
        Training and held-out examples in the order of the split, each as pixels ``(n, 64)`` in
        [0, 1] and labels ``(n,)``.

    Raises:
        ImportError: If scikit-learn is not installed.

    Examples:
        >>> train, held = load_digits(0)
        >>> train[0].shape, len(held[1])
        (torch.Size([1437, 64]), 360)
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise ImportError(
            "The digits come with scikit-learn. Type `pip install scikit-learn`."
        ) from error
    pixels, labels = map(np.asarray, datasets.load_digits(return_X_y=True))
    x, y = torch.tensor(pixels / 16.0, dtype=torch.float32), torch.tensor(labels)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, held = order[: SIZE - heldout], order[SIZE - heldout :]
    return (x[train], y[train]), (x[held], y[held])
