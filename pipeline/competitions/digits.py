"""The built-in competition: scikit-learn's 1,797 scanned digits (Alpaydin and Kaynak 1998), 100 of them labelled."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd


def make(folder: Path, labelled: int = 100, seed: int = 0) -> None:
    """Write the digits as grey 8x8 PNG in competition layout, with a solution (30 % Public, 70 % Private)."""
    import cv2
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    names = np.array([f"{n:04d}" for n in np.random.default_rng(seed).permutation(len(images))])
    rows = np.arange(len(images))
    train, test = train_test_split(rows, train_size=labelled, stratify=digits.target, random_state=seed)
    for split, part in (("train", np.sort(train)), ("test", np.sort(test))):
        (folder / f"{split}_images").mkdir(parents=True, exist_ok=True)
        for row in part:
            cv2.imwrite(str(folder / f"{split}_images" / f"{names[row]}.png"), images[row])
    table = pd.DataFrame({"id": names, "label": digits.target})
    table.iloc[np.sort(train)].to_csv(folder / "train.csv", index=False)
    hidden = table.iloc[np.sort(test)]
    hidden.assign(label=0).to_csv(folder / "sample_submission.csv", index=False)
    public = np.random.default_rng(seed + 1).random(len(hidden)) < 0.3
    hidden.assign(Usage=np.where(public, "Public", "Private")).to_csv(folder / "solution.csv", index=False)
