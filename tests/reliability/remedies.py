"""The commands and options that messages of hwnas suggest, each with the test that follows them.

    python -m tests.reliability.remedies

lists every message with its place in the source and its test. `test_remedies.py` fails for a message that
suggests a command without an entry in `REMEDIES`, and for an entry without a message or without a test.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "run|profile|train|search|export|verify|report|front|finetune|predict|benchmark|list|doctor|table|bench"
)
# What makes a text a suggestion: a command, an option, a Python call, or something to install.
SUGGESTION = re.compile(
    rf"\bhwnas ({COMMANDS})\b|\bhwnas\.\w+\(|(?<![-\w])--[a-z][a-z-]*\b(?!:)|pip install|\bpython3 "
    r"|Set that to|torchrun|ray start|\bsudo\b|Store\.\w+\(|again=True|executor='|TMPDIR"
)
# A text that names a field of an experiment, and says what to do with it.
FIELD = re.compile(r"\b(training|latency|search|export|data|space)\.[a-z_]+")
ADVICE = re.compile(r"\b(set|use|lower|raise|give|leave|change|ask for|needs|bounded by)\b")
EXPRESSION = re.compile(r"\{[^{}]*\}")
# Functions, and methods of an `Invocation`, that build a command line.
BUILDERS = ("command_line", "command", "finish", "remake", "elsewhere", "extend")
# Modules whose texts are parts of commands, figures and pages, not messages.
LEFT_OUT = ("hwnas/pipeline/invocation.py", "hwnas/report/", "hwnas/export/card.py")
# Calls with strings that are no messages: help of the command line, and regular expressions.
NO_MESSAGES = ("Option", "Argument", "Typer", "_stage_command", "compile")


@dataclass(frozen=True)
class Message:
    """A text in the source of hwnas that suggests what to do."""

    file: str  # relative to the root of the repository
    line: int
    text: str  # values are {expressions}


@dataclass(frozen=True)
class Remedy:
    """An entry of the registry."""

    file: str  # relative to hwnas/
    text: str  # part of the message
    test: str = ""  # tests/FILE.py::TEST that follows the remedy
    why_not: str = ""  # reason why no test can follow it


TESTS = "tests/reliability/test_remedies.py::test_"
OPTION = f"{TESTS}an_option_is_corrected"
NETWORK = "needs a package registry"
SETTING = f"{TESTS}a_setting_is_corrected"
REMEDIES = (
    Remedy("choosing.py", "'--restart', 'search'", f"{TESTS}a_budget_that_no_model_kept_is_raised"),
    Remedy("cli/job.py", "'python3', bundle.name", "tests/test_boards.py::test_a_board_without_a_network"),
    Remedy(
        "cli/job.py", "hwnas table build results.json", "tests/test_boards.py::test_a_board_without_a_network"
    ),
    Remedy("cli/job.py", "--evaluations takes a number", OPTION),
    Remedy("cli/job.py", "--evaluations is a number of at most 9 digits", OPTION),
    Remedy("cli/job.py", "give that folder, no --table", OPTION),
    Remedy("cli/job.py", "--table and --run-dir go together", OPTION),
    Remedy("cli/job.py", "invocation.extend", f"{TESTS}an_interrupted_extension_continues"),
    Remedy("cli/job.py", "invocation.command('verify'", f"{TESTS}the_next_command_is_named"),
    Remedy("cli/job.py", "command_line('hwnas', 'export'", f"{TESTS}the_next_command_is_named"),
    Remedy("cli/models.py", "command_line('hwnas', 'export', run)", f"{TESTS}the_next_command_is_named"),
    Remedy(
        "cli/models.py",
        "command_line('hwnas', 'verify', run)",
        f"{TESTS}a_finetuned_model_is_measured_and_made_again",
    ),
    Remedy(
        "cli/models.py",
        "command_line('hwnas', 'front', run)",
        f"{TESTS}a_finetuned_model_is_measured_and_made_again",
    ),
    Remedy("cli/models.py", "--learning-rate is", OPTION),
    Remedy(
        "cli/models.py",
        "see hwnas doctor, or give more --rounds",
        why_not="the noise of a machine is no test's to change; tests/test_cli.py::test_doctor runs doctor",
    ),
    Remedy(
        "cli/tables.py",
        "add --allow-noisy",
        "tests/test_boards.py::test_noisy_results_make_a_table_only_if_that_is_allowed",
    ),
    Remedy("config.py", "--set takes key.sub=value", OPTION),
    Remedy("config.py", "is not a YAML value", OPTION),
    Remedy("config.py", "is not a section", OPTION),
    Remedy(
        "errors.py",
        "pip install 'hwnas[",
        why_not=f"{NETWORK}; {TESTS}the_extras_that_messages_name_exist checks the names",
    ),
    Remedy("export/folder.py", "'hwnas', 'finetune'", f"{TESTS}a_finetuned_model_is_measured_and_made_again"),
    Remedy("export/folder.py", "'hwnas', 'export'", f"{TESTS}a_damaged_model_is_exported_again"),
    Remedy("export/predict.py", "hwnas predict needs a model", f"{TESTS}a_damaged_model_is_exported_again"),
    Remedy("finetuning.py", "'hwnas', 'finetune'", f"{TESTS}a_finetuned_model_is_measured_and_made_again"),
    Remedy("finetuning.py", "again=True", f"{TESTS}a_finetuned_model_is_measured_and_made_again"),
    Remedy("latency/benchmark.py", "does not fit its shape", OPTION),
    Remedy("latency/benchmark.py", "say its size: --input", OPTION),
    Remedy("latency/benchmark.py", "--input takes", OPTION),
    Remedy(
        "latency/benchmark.py",
        "makes dimension",
        "tests/latency/test_benchmark.py::test_inputs_of_several_types_are_timed",
    ),
    Remedy("latency/doctor.py", "pip install", why_not=NETWORK),
    Remedy("latency/doctor.py", "sudo cpupower", why_not="changes the machine, as its administrator"),
    Remedy("latency/runner.py", "pip install numpy onnxruntime", why_not=f"{NETWORK}, on the board"),
    Remedy("latency/runner.py", "usage: python3", "tests/test_boards.py::test_a_board_without_a_network"),
    Remedy(
        "latency/runner.py",
        "hwnas table build results.json",
        "tests/test_boards.py::test_a_board_without_a_network",
    ),
    Remedy("latency/table.py", "'--reseal'", f"{TESTS}an_edited_table_is_sealed_again"),
    Remedy("networks/supernet.py", "hwnas train CONFIG", f"{TESTS}a_missing_teacher_is_trained"),
    Remedy("networks/supernet.py", "which is gone", f"{TESTS}a_second_device_gets_a_supernet_and_a_folder"),
    Remedy(
        "networks/supernet.py", "is no longer the one", f"{TESTS}a_second_device_gets_a_supernet_and_a_folder"
    ),
    Remedy(
        "pipeline/folder.py",
        "choose another --run-dir",
        f"{TESTS}a_folder_in_use_is_left_to_the_other_process",
    ),
    Remedy("pipeline/job.py", "see hwnas run --help", f"{TESTS}a_folder_that_is_no_run_points_to_the_help"),
    Remedy(
        "pipeline/job.py",
        "give the other device another --run-dir",
        f"{TESTS}a_second_device_gets_a_supernet_and_a_folder",
    ),
    Remedy("pipeline/job.py", "has no supernet yet", f"{TESTS}a_second_device_gets_a_supernet_and_a_folder"),
    Remedy(
        "pipeline/job.py",
        "refers to another supernet",
        f"{TESTS}a_second_device_gets_a_supernet_and_a_folder",
    ),
    Remedy("pipeline/job.py", "choose one of these, or all", OPTION),
    Remedy(
        "pipeline/job.py",
        "torchrun",
        "tests/training/test_parallel.py::test_the_command_trains_in_several_processes",
    ),
    Remedy("pipeline/job.py", "{name} is not finished; run", f"{TESTS}stages_that_are_missing_are_made"),
    Remedy("pipeline/job.py", "which is not finished; run", f"{TESTS}stages_that_are_missing_are_made"),
    Remedy("pipeline/job.py", "would be fewer", f"{TESTS}a_search_with_fewer_evaluations_begins_again"),
    Remedy(
        "pipeline/job.py",
        "invocation.remake(name, self._stages)",
        f"{TESTS}a_damaged_supernet_is_trained_again_by_the_users_file",
    ),
    Remedy("pipeline/job.py", "or continue the search", f"{TESTS}a_search_with_more_evaluations_continues"),
    Remedy(
        "pipeline/job.py",
        "was made with other inputs",
        f"{TESTS}an_edited_experiment_is_trained_elsewhere_or_again",
    ),
    Remedy(
        "pipeline/profile.py",
        "--set latency.allow_noisy=true",
        "tests/test_pipeline.py::test_a_noisy_table_is_kept_only_if_that_is_allowed",
    ),
    Remedy(
        "pipeline/profile.py",
        "verify from here",
        f"{TESTS}models_of_another_device_are_verified_at_its_address",
    ),
    Remedy("pipeline/search.py", "go on from a finished search", f"{TESTS}stages_that_are_missing_are_made"),
    Remedy("predictors/bench.py", "--exclude", OPTION),
    Remedy(
        "searching/executors.py",
        "cannot be sent to a worker",
        f"{TESTS}what_cannot_be_sent_is_evaluated_here",
    ),
    Remedy(
        "searching/executors.py",
        "a worker process cannot start",
        "tests/searching/test_executors.py::test_a_script_searches_in_processes_if_it_is_guarded",
    ),
    Remedy(
        "searching/executors.py",
        "ray start --head",
        why_not="starts a cluster; tests/searching/test_executors.py does so where Ray is installed",
    ),
    Remedy("store.py", "(--run-dir)", f"{TESTS}a_damaged_database_is_deleted_or_left"),
    Remedy("store.py", "TMPDIR", f"{TESTS}a_folder_for_temporary_files_is_named"),
    Remedy(
        "store.py", "add --restart search", f"{TESTS}an_unfinished_search_with_other_settings_is_forgotten"
    ),
    Remedy("searching/loop.py", "hwnas.Store('search.db')", f"{TESTS}a_search_takes_a_store"),
    Remedy("networks/supernet.py", "hwnas.calibrate(", f"{TESTS}statistics_of_a_subnet_are_computed"),
    Remedy("training/data/__init__.py", "go on there: hwnas.run(", f"{TESTS}python_callers_get_python_calls"),
    Remedy("config.py", "latency_ms is bounded by", SETTING),
    Remedy("config.py", "leave out one of the two", SETTING),
    Remedy("config.py", "latency.budgets_ms: give one", SETTING),
    Remedy("config.py", "latency.source: measured needs", SETTING),
    Remedy("pipeline/job.py", "set search.executor: serial", SETTING),
    Remedy("pipeline/profile.py", "set latency.source: table", SETTING),
    Remedy("pipeline/profile.py", "Set that to the table's", SETTING),
    Remedy("pipeline/profile.py", "raise latency.budgets_ms", SETTING),
    Remedy("pipeline/profile.py", "set latency.device: onnxruntime", SETTING),
    Remedy(
        "training/data/stored.py", "lower data.memory_mb", f"{TESTS}images_beyond_the_memory_are_streamed"
    ),
    Remedy(
        "training/data/stored.py",
        "make memory free",
        why_not="a test would have to use up the memory of the machine",
    ),
    Remedy(
        "training/checkpoint.py", "delete it", f"{TESTS}a_checkpoint_of_another_training_is_kept_or_deleted"
    ),
    Remedy("training/loop.py", "use a smaller training.batch_size", SETTING),
    Remedy("training/loop.py", "give at most", SETTING),
    Remedy("training/loop.py", "leave the setting out", f"{TESTS}values_of_given_images_are_stated"),
    Remedy("training/loop.py", "use device: cpu", SETTING),
    Remedy("training/loop.py", "change one", SETTING),
    Remedy("training/loop.py", "leave out training.", SETTING),
    Remedy(
        "training/loop.py",
        "lower training.learning_rate",
        "tests/reliability/test_failures.py::test_a_run_whose_training_diverges_says_so_and_goes_on",
    ),
    Remedy("training/strategies.py", "give more", SETTING),
    Remedy(
        "cli/about.py",
        "--features",
        why_not="an example in the help of the command",
    ),
    Remedy(
        "export/predict.py",
        "keep such an input when you convert the model",
        why_not="the remedy is an option of the converter",
    ),
    Remedy(
        "latency/runner.py",
        "the model loads, but fails when it runs",
        "tests/latency/test_benchmark.py::test_a_model_that_fails_when_it_runs_is_named",
    ),
    Remedy(
        "latency/runner.py",
        "the system does not let this process run on cores",
        why_not="depends on the cores that the system allows",
    ),
    Remedy(
        "latency/runner.py",
        "its cgroup quota is the time of",
        why_not="a test cannot raise the quota of its own cgroup",
    ),
    Remedy(
        "latency/runner.py",
        "its CPU affinity is",
        "tests/latency/test_runner.py::test_the_command_refuses_more_threads_than_its_affinity_allows",
    ),
    Remedy(
        "latency/runner.py",
        "give some of these, or start it with more cores",
        why_not="depends on the cores that the system allows",
    ),
    Remedy(
        "latency/runner.py",
        ", or the slower cores",
        why_not="needs a machine with cores of two kinds",
    ),
    Remedy(
        "predictors/bench.py",
        "leave them out: --drop-miss",
        "tests/predictors/test_bench.py::test_rows_without_a_target_are_named_and_can_be_left_out",
    ),
    Remedy(
        "store.py",
        "Open the store again after Store.close()",
        "tests/test_store.py::test_a_closed_store_and_one_in_memory_are_named",
    ),
    Remedy(
        "training/data/base.py",
        "wrap a torch DataLoader: hwnas.from_loader",
        "tests/test_own_data.py::test_a_loader_in_place_of_a_dataset_is_refused_by_run_and_train",
    ),
    Remedy(
        "training/data/stored.py",
        "leave them out by data.skip_dam",
        "tests/test_own_data.py::test_damaged_images_of_all_splits_are_listed_before_training_and_can_be_left_out",
    ),
    Remedy("verifying.py", "has no exported models yet", f"{TESTS}stages_that_are_missing_are_made"),
)


# ---- the source ----------------------------------------------------------------------------------


def messages() -> list[Message]:
    """Find every text in the source of hwnas that suggests a command, an option or a call.

    Returns:
        The messages in the order of files and lines. Docstrings and the help of the command line are left
        out.
    """
    paths = sorted((ROOT / "hwnas").rglob("*.py"))
    files = {path.relative_to(ROOT).as_posix(): path for path in paths}
    kept = {file: path for file, path in files.items() if not file.startswith(LEFT_OUT)}
    return [message for file, path in kept.items() for message in messages_in(path.read_text(), file)]


def messages_in(source: str, file: str) -> Iterator[Message]:
    """Find the messages in the source of one module.

    Args:
        source: Python source.
        file: Name of the file, for the messages.

    Yields:
        The messages in the order of lines.
    """
    yield from _visit(ast.parse(source), file)


def _visit(node: ast.AST, file: str) -> Iterator[Message]:
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):  # a docstring
        return
    if isinstance(node, ast.Call) and _name(node.func) in NO_MESSAGES:
        return
    text = _text(node) if isinstance(node, ast.expr) else None
    if text is not None:
        assert isinstance(node, ast.expr)
        yield Message(file, node.lineno, text)
        return
    for child in ast.iter_child_nodes(node):
        yield from _visit(child, file)


def _text(node: ast.expr) -> str | None:
    """The text of an expression that suggests something; None for any other."""
    if _builds_command(node):
        return ast.unparse(node)
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        text = node.value
        return text if " " in text and _suggests(text) else None  # a single word is part of a list
    if isinstance(node, ast.JoinedStr):
        parts = [
            v.value if isinstance(v, ast.Constant) else f"{{{ast.unparse(v.value)}}}" for v in node.values
        ]
        text = "".join(map(str, parts))
        builds = any(isinstance(inner, ast.expr) and _builds_command(inner) for inner in ast.walk(node))
        return text if builds or _suggests(text) else None
    return None


def _suggests(text: str) -> bool:
    plain = EXPRESSION.sub("", text)
    return bool(SUGGESTION.search(text) or (FIELD.search(plain) and ADVICE.search(plain)))


def _builds_command(node: ast.expr) -> bool:
    """Whether an expression is a call that builds a command line."""
    if not isinstance(node, ast.Call) or _name(node.func) not in BUILDERS:
        return False
    of_run = isinstance(node.func, ast.Attribute) and "invocation" in ast.unparse(node.func.value)
    return of_run or _name(node.func) == "command_line"


def _name(function: ast.expr) -> str:
    return function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")


def commands_in(message: str) -> list[str]:
    """Find the command lines and Python calls in a message.

    Args:
        message: One that hwnas printed.

    Returns:
        Each command or call, in order.
    """
    found = re.findall(
        rf"(?<=: )((?:cp -r|hwnas (?:{COMMANDS})\b|hwnas\.).*?)(?=; | \(in |, hwnas |\n|$)", message
    )
    return found or re.findall(rf"(hwnas (?:{COMMANDS})\b.*?)(?=; |\n|$)", message)


# ---- the registry --------------------------------------------------------------------------------


def _fits(message: Message, remedy: Remedy) -> bool:
    return message.file == f"hwnas/{remedy.file}" and remedy.text in message.text


def unregistered(found: Iterable[Message], remedies: Iterable[Remedy]) -> list[Message]:
    """List the messages without an entry in the registry."""
    remedies = list(remedies)
    return [message for message in found if not any(_fits(message, remedy) for remedy in remedies)]


def unused(found: Iterable[Message], remedies: Iterable[Remedy]) -> list[Remedy]:
    """List the entries of the registry without a message."""
    found = list(found)
    return [remedy for remedy in remedies if not any(_fits(message, remedy) for message in found)]


def missing_tests(remedies: Iterable[Remedy]) -> list[str]:
    """List the tests that the registry names and that do not exist."""
    return sorted({remedy.test for remedy in remedies if remedy.test and not _exists(remedy.test)})


def _exists(test: str) -> bool:
    file, _, name = test.partition("::")
    return f"def {name}(" in (ROOT / file).read_text()


def main() -> None:
    """Print every remedy, its place in the source, and its test or the reason why it has none."""
    for message in messages():
        print(f"{message.file}:{message.line}: {' '.join(message.text.split())}")
        for remedy in REMEDIES:
            if _fits(message, remedy):
                print(f"    {remedy.test or f'not followed: {remedy.why_not}'}")


if __name__ == "__main__":
    main()
