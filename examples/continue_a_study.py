"""Go on with a study where it stands, and look at its trials with pandas, as in a notebook."""

import sys

import pandas as pd

import kdhpc


def main(name: str, trials: int) -> pd.DataFrame:
    """Raise the budget, and compare the gates of the label edges by the complete trials."""
    study = kdhpc.search(name, trials=trials)
    table = pd.DataFrame(study.trials)
    print(table[["number", "state", "value", "last_epoch", "last_value", "graph_key", "seconds"]].head())
    print(table["state"].value_counts())
    print(table[table["state"] == "complete"].groupby("label_1_gate")["value"].agg(["count", "mean"]))
    print(f"best: {study.best_value:.2f} %, {study.export(draw=False)[0]}")
    return table


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
