"""Using what was found: choosing, trying, comparing and training on models."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Any

import typer

from hwnas.cli.display import GOES_ON, complain, interruptible, not_kept, out, print_json, say
from hwnas.cli.options import AsJson, Cores, Resume, RunFolder, cores_of
from hwnas.cli.render import benchmark_table, dropped_int8, front_table
from hwnas.errors import ConfigError, HwnasError
from hwnas.text import command_line


def front(
    run: RunFolder,
    max_latency_ms: Annotated[
        float | None, typer.Option("--max-latency-ms", metavar="MS", help="Only models that are this fast.")
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option("--min-accuracy", metavar="PERCENT", help="Only models of this validation accuracy."),
    ] = None,
    sort: Annotated[
        str, typer.Option("--sort", metavar="accuracy|latency_ms|macs|…", help="Which comes first.")
    ] = "accuracy",
    as_json: AsJson = False,
) -> None:
    """Show the front of a run to choose from: by measured latency, or before it is verified by the predicted.

    Of a search that is still running it shows the front so far.

    The model marked "knee" is where the front bends: it lies farthest beyond the line between the two ends,
    both scaled to 0 … 1; from there a little more of one costs much of the other.

    Example: `hwnas front runs/digits --max-latency-ms 2 --min-accuracy 80 --sort latency_ms`
    """
    from hwnas.choosing import choose
    from hwnas.pipeline import load_run

    bounds = {"max_latency_ms": max_latency_ms, "min_accuracy": min_accuracy}
    found = choose(load_run(run), {name: v for name, v in bounds.items() if v is not None}, sort)
    if as_json:
        print_json(found)
        return
    out.print(front_table(found["models"]))
    for line in dropped_int8(found["models"]):
        say(line)
    if found["unfinished"] is not None:
        say("The front so far, of {} evaluations of {}".format(*found["unfinished"]))
    finished = found["unfinished"] is None
    measure = f"{command_line('hwnas', 'export', run)} && {command_line('hwnas', 'verify', run)}"
    more = f"; measure it: {measure}" if finished else ""
    more = "" if found["latency"] == "measured" else more
    say(f"Latency: {found['latency']}{more}")
    if found["missed"]:
        say(f"Left out, measured too slow for every budget: {', '.join(found['missed'])}")


def finetune(
    run: RunFolder,
    model: Annotated[str, typer.Option("--model", metavar="ID", help="The model, see hwnas front RUN.")],
    epochs: Annotated[int, typer.Option("--epochs", min=1, help="Epochs of the run's training data.")],
    learning_rate: Annotated[
        float | None,
        typer.Option("--learning-rate", help="Peak; by default a tenth of that of the run's training."),
    ] = None,
    resume: Resume = True,
    restart: Annotated[
        bool, typer.Option("--restart", help="Train anew what is finished, or was made otherwise.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model of the front on, from the weights that it inherits, into a new model beside it.

    It learns from the run's own data, with its augmentation, on labels and on what the supernet's largest
    network says. The result is the model ID-ftEPOCHS, exported, and verified in a verified run; the old one
    stays. The gain on validation is that on the same images, with a 95 % interval.

    Example: `hwnas finetune runs/digits --model 0180237ea8ca --epochs 20`
    """
    from hwnas.finetuning import finetune_model
    from hwnas.pipeline import load_run

    if learning_rate is not None and not 0 < learning_rate < math.inf:
        raise ConfigError(f"--learning-rate is {learning_rate:g}; give a positive number")
    job = load_run(run)
    with interruptible(GOES_ON) as display:
        entry = finetune_model(job, model, epochs, learning_rate, restart, display)
    if as_json:
        print_json({"run": str(run), "model": entry})
        return
    made, accuracy, measured = entry["finetuned"], entry["validation_accuracy"], entry["measured"]
    gain, (low, high) = made["gain"], made["gain_ci"]
    verdict = "better" if low > 0 else "worse" if high < 0 else "no certain difference"
    say(f"{entry['id']}: validation {accuracy:.2f} %, was {accuracy - gain:.2f} %, so {verdict}")
    say(f"Gain: {gain:+.2f} points (95 %: {low:+.2f} to {high:+.2f}); test {entry['test_accuracy']:.2f} %")
    if measured["latency_ms"] is None:
        say(f"Not measured yet: {command_line('hwnas', 'verify', run)}")
    else:
        all_models = command_line("hwnas", "front", run)
        say(f"Latency: {measured['latency_ms']:.4g} ms, {entry['status']}; all models: {all_models}")
    say(f"Model: {job.directory / 'models' / entry['id'] / 'model.onnx'}")


def predict(
    model: Annotated[
        Path, typer.Argument(metavar="MODEL", help="A folder under models/ of a run, or its model.onnx.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.")],
    top: Annotated[int, typer.Option("--top", min=1, help="How many classes to name.")] = 5,
    as_json: AsJson = False,
) -> None:
    """Say what is on images, by an exported model: its most probable classes.

    The file says how images are prepared and what the classes are called; nothing else of the run is needed,
    and no torch. Images that cannot be read are named, and the exit code is then 1.

    Example: `hwnas predict runs/digits/models/0180237ea8ca photo.png --top 3`
    """
    from hwnas.export.predict import Predictor

    predictor = Predictor(model)
    found: list[dict[str, Any]] = []
    wrong = []
    for image in images:
        try:
            found.append({"image": str(image), "top": predictor.top(image, top)})
        except HwnasError as error:
            wrong.append(str(error))
    if as_json:
        print_json({"model": str(model), "predictions": found, "wrong": wrong})
    else:
        for row in found:
            classes = (f"{kind['class']} {100 * kind['probability']:.1f} %" for kind in row["top"])
            say(f"{row['image']}: {', '.join(classes)}")
    for message in wrong:
        complain(message)
    if wrong:
        raise typer.Exit(1)


def benchmark(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL…", help="ONNX files, or folders that hold a model.onnx.")
    ],
    device: Annotated[
        str, typer.Option("--device", help="One of `hwnas list devices`, or ssh://user@host:port.")
    ] = "onnxruntime",
    threads: Annotated[int, typer.Option("--threads", min=1, help="Threads of one inference.")] = 1,
    cores: Cores = None,
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input", metavar="NAME:SHAPE", help="Size of an input that a file leaves open. Repeatable."
        ),
    ] = None,
    rounds: Annotated[
        int, typer.Option("--rounds", min=12, help="Shuffled rounds, shared by six passes.")
    ] = 48,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the order of visits.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Time any ONNX files together, by the protocol of `hwnas verify`, and compare each with the first.

    The files take turns, warm and back to back, in six passes with fresh sessions. Intervals are of 95 % over
    the passes; those of ratios are narrower, since what slows all files down alike cancels. Inputs are random
    values of their declared types; a batch that is left open is 1.

    Example: `hwnas benchmark ours.onnx theirs.onnx --device ssh://pi@192.168.1.7 --threads 4`

    Sizes that a file leaves open: `hwnas benchmark net.onnx --input image:1x3x224x224`
    """
    from hwnas.latency.benchmark import benchmark as time_files
    from hwnas.latency.benchmark import parse_shape
    from hwnas.latency.devices import get_device

    shapes = dict(map(parse_shape, inputs or ()))
    target = get_device(device, threads, cores_of(cores))
    with interruptible(not_kept(device)) as display:
        found = time_files(models, target, shapes, rounds, seed, display("benchmark"))
    if as_json:
        print_json(found)
        return
    out.print(benchmark_table(found))
    for row in found["models"]:
        for note in row["notes"]:
            say(f"{row['file']}: {note}")
        if not row["stable"]:
            say(f"{row['file']}: does not repeat to ±5 %; see hwnas doctor, or give more --rounds")
    for reason in found["noise"]:
        say(f"Disturbed: {reason}")
