"""Makes small data sets as tables; run as a program: `tables_seed.py TARGET`."""

from __future__ import annotations

import io
import sys
from pathlib import Path

__all__ = ["main"]


def main(target: Path) -> None:
    """Write the same three rows as Parquet, CSV, JSON lines and in the library's own layout."""
    import datasets
    from PIL import Image

    stream = io.BytesIO()
    Image.linear_gradient("L").resize((20, 10)).save(stream, "PNG")
    picture = {"bytes": stream.getvalue(), "path": "a.png"}
    rows = {
        "image": [picture] * 3,
        "question": ["Which digit?", "What colour is it?", "How many?"],
        "answers": [["seven"], ["red", "red"], ["2"]],
        "question_id": [1, 2, 3],
    }
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "question": datasets.Value("string"),
            "answers": datasets.List(datasets.Value("string")),
            "question_id": datasets.Value("int64"),
        }
    )
    table = datasets.Dataset.from_dict(rows, features=features)
    (target / "parquet").mkdir(parents=True)
    table.to_parquet(target / "parquet" / "train.parquet")
    table.save_to_disk(target / "disk")
    (target / "csv").mkdir()
    lines = [
        "image,question,answers,question_id",
        *(f"a.png,Which digit?,seven,{at}" for at in range(3)),
    ]
    (target / "csv" / "train.csv").write_text("\n".join(lines) + "\n")
    (target / "csv" / "a.png").write_bytes(picture["bytes"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
