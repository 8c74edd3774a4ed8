"""Search a supernet that is trained already, with the latency table of a device: no training, a minute.

python examples/search_supernet.py
"""

from pathlib import Path

import hwnas

HERE = Path(__file__).parent
TABLE = HERE.parent / "latency_tables" / "amd-epyc-1-thread-digits.json"


def main(evaluations: int = 60, table: Path = TABLE) -> hwnas.ParetoFront:
    net = hwnas.load_supernet(HERE / "supernets" / "digits")
    train, validation = (hwnas.load_dataset("cluttered-digits", split=s) for s in ("train", "validation"))
    accuracy = hwnas.AccuracyEvaluator(net, train, validation)  # calibrates and judges each subnet
    latency = hwnas.LatencyTable.load(table)  # of your own device: hwnas.profile(net.space)
    result = hwnas.search(
        net.space,
        objectives=[
            hwnas.Objective("accuracy", "max", evaluate=accuracy, expensive=True),
            hwnas.Objective("latency_ms", "min", evaluate=latency.latency_ms),
        ],
        evaluations=evaluations,
        seed=0,
    )
    return result.front


if __name__ == "__main__":
    front = main()
    print(front.to_frame()[["accuracy", "latency_ms"]].to_string(index=False))
    print(front.best(max_latency_ms=0.04))
