"""Runs the reliability tests, the long ones too, and writes what they counted into README.md.

    python tests/reliability/campaign.py                         all of them, hours
    python tests/reliability/campaign.py test_kills.py --kills 20

What a test records (pytest's `record_property`) is a row of its file's table; those of other files stay.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

import hwnas
from hwnas.pipeline.folder import environment
from hwnas.store import write_text

HERE = Path(__file__).parent
TITLE = "## The last full run\n"


def ran(file: Path, counts: dict[str, int]) -> str:
    """Run the tests of a file; what README.md says of them."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", str(file), "-m", "not gpu", f"--junitxml={report}"]
        settings = {f"HWNAS_{name.upper()}": str(count) for name, count in counts.items()}
        subprocess.run(command, cwd=HERE.parents[1], env={**os.environ, **settings}, check=False)
        (suite,) = ElementTree.parse(report).getroot()
    tests, failures, errors, skipped = (
        int(suite.attrib[name]) for name in ("tests", "failures", "errors", "skipped")
    )
    failed = failures + errors
    on = environment()
    said = [
        f"### {file.name}\n",
        f"{tests - failed - skipped} passed, {skipped} skipped, {failed} failed "
        f"in {float(suite.attrib['time']):.0f} s; {datetime.date.today()}, hwnas {hwnas.__version__} "
        f"({(on['git_commit'] or 'no commit')[:7]}), {on['cpu']}, {on['cores']} cores, load {on['load']:g}\n",
    ]
    rows = [
        (case.attrib["name"], found.attrib["name"], found.attrib["value"])
        for case in suite.iter("testcase")
        for found in case.iter("property")
    ]
    if rows:
        said += ["| test | what | count |", "|---|---|---|"]
        said += [f"| {readable(test)} | {what} | {count} |" for test, what, count in rows] + [""]
    said += [
        f"- skipped: {case.attrib['name']}: {why}\n" for case in suite.iter("testcase") for why in skips(case)
    ]
    return "\n".join(said) + "\n"


def readable(test: str) -> str:
    return test.removeprefix("test_").replace("_", " ")


def skips(case: ElementTree.Element) -> list[str]:
    return [skipped.attrib["message"] for skipped in case.iter("skipped")]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", nargs="*", default=sorted(path.name for path in HERE.glob("test_*.py")))
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--mutations", type=int, default=1000, help="of each artefact")
    parser.add_argument("--fills", type=int, default=30, help="how often a small disk is full")
    parser.add_argument("--stored", type=int, default=1_000_000, help="evaluations in the large store")
    options = parser.parse_args()
    counts = {name: getattr(options, name) for name in ("kills", "mutations", "fills", "stored")}
    for file in options.files:
        section = ran(HERE / file, counts)
        head, _, tail = (HERE / "README.md").read_text().partition(TITLE)
        sections = {text.split(maxsplit=2)[1]: text for text in re.split(r"(?m)^(?=### )", tail)[1:]}
        sections[file] = section
        write_text(
            HERE / "README.md", head + TITLE + "\n" + "".join(sections[name] for name in sorted(sections))
        )


if __name__ == "__main__":
    main()
