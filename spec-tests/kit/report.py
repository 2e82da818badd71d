"""The matrix of cases, runtimes and beds: as a table in the terminal, as JSON, as one HTML page."""

import json
import time
from pathlib import Path

from kit import conformance, host, verdicts

PLACE = host.TOP / "target" / "report"
TEMPLATE = host.TOP / "spec-tests" / "kit" / "page.html"
REQUIREMENTS = host.TOP / "spec-tests" / "data" / "requirements"
# Where a section of the specification can be read.
SPECIFICATION = "https://github.com/opencontainers/runtime-spec/blob/v1.3.0/"
ORDER = ("brig", "runc", "crun", "youki")


def results(beds=()):
    """The kept result of each bed that has one (or of the named ones), in the order of the beds."""
    wanted = [name for name in conformance.BEDS if not beds or name in beds]
    paths = [conformance.RESULTS / f"{name}.json" for name in wanted]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def chapter(section):
    """`config.md` of `config.md#mounts`; what is not of the specification has a chapter of its own."""
    if section.startswith("CVE-"):
        return "published attacks"
    return section.split("#")[0] if ".md" in section else section.split(":")[0]


def matrix(found, known):
    """All of it as plain data: beds, runtimes, cases, and for each case a cell by `RUNTIME BED`."""
    cases, runtimes = {}, {}
    for result in found:
        for entry in result["runtimes"]:
            runtimes.setdefault(entry["name"], {"name": entry["name"], "label": entry["label"],
                                                "version": entry["version"], "reference": verdicts.is_reference(entry)})
            for report in entry["reports"]:
                row = cases.setdefault(report["case"], {
                    "case": report["case"], "section": report["section"], "level": report["level"],
                    "chapter": chapter(report["section"]), "cells": {}})
                row["cells"][f"{entry['name']} {result['bed']}"] = _cell(entry, result["bed"], report, known)
    beds = [{key: result[key] for key in ("bed", "about", "host", "full", "began")} | {
        "runtimes": {entry["name"]: {"seconds": entry["seconds"], "refuses": entry["refuses"],
                                     "partial": entry["partial"]} for entry in result["runtimes"]}}
            for result in found]
    ordered = sorted(runtimes.values(), key=lambda one: (*ORDER, one["name"]).index(one["name"]))
    return {"made": time.time(), "specification": SPECIFICATION, "beds": beds, "runtimes": ordered,
            "cases": list(cases.values()), "requirements": requirements()}


def _cell(entry, bed, report, known):
    kind, text = verdicts.verdict(report)
    cell = {"verdict": kind, "ms": report["milliseconds"]}
    if text:
        cell["text"] = text.strip()
    why = verdicts.explained(entry, bed, report, known) if verdicts.is_reference(entry) else None
    if why and kind == "failed":
        cell["why"] = why["why"]
    return cell


def requirements():
    """The tables of requirements, by file: what the text asks for, and the cases that check it, or the reason why none can."""
    found = {}
    for path in sorted(REQUIREMENTS.glob("*.json")):
        found[path.stem] = json.loads(path.read_text())
    return found


def never_run(data):
    """Cases that ours could run on none of the beds; only meaningful when all beds are there."""
    ours = data["runtimes"][0]["name"]
    if len(data["beds"]) < len(conformance.BEDS):
        return []
    return [row["case"] for row in data["cases"]
            if all(cell["verdict"] == "absent" for key, cell in row["cells"].items() if key.split()[0] == ours)]


def counts(data, runtime, bed, chosen=None):
    """How many cells of a runtime on a bed have passed, failed, and were not possible."""
    told = {"passed": 0, "failed": 0, "absent": 0}
    for row in data["cases"]:
        cell = row["cells"].get(f"{runtime} {bed}")
        if cell and chosen in (None, row["chapter"]):
            told[cell["verdict"]] += 1
    return told


def table(data):
    """The terminal's table: a line for each chapter and bed, a column for each runtime, then what failed."""
    names = [one["name"] for one in data["runtimes"]]
    chapters = list(dict.fromkeys(row["chapter"] for row in data["cases"]))
    width = max([len(one) for one in chapters] + [5])
    head = f"{'':{width}}  {'bed':12}" + "".join(f"{one['label']:>16}" for one in data["runtimes"])
    lines = [head]
    for group in [*chapters, None]:
        for number, bed in enumerate(data["beds"]):
            title = (group or "all") if number == 0 else ""
            cells = [_cell_text(data, name, bed, group) for name in names]
            lines.append(f"{title:{width}}  {bed['bed']:12}" + "".join(f"{cell:>16}" for cell in cells))
    lines += ["", "passed / run; the rest needs what the bed lacks; ~ only what no quicker bed can show"]
    for row in data["cases"]:
        for key, cell in row["cells"].items():
            if cell["verdict"] == "failed":
                runtime, bed = key.split()
                reason = cell.get("why") or cell["text"].splitlines()[0]
                lines.append(f"  {runtime:6} {bed:12} {row['case']} [{row['section']}]: {reason}")
    return "\n".join(lines)


def _cell_text(data, runtime, bed, group):
    entry = bed["runtimes"].get(runtime)
    if entry is None:
        return ""
    if entry["refuses"]:
        return "refuses"
    told = counts(data, runtime, bed["bed"], group)
    ran = told["passed"] + told["failed"]
    return f"{'~' if entry['partial'] else ''}{told['passed']} / {ran}" if ran else "-"


def page(data):
    """The HTML page: the template with the data in it; it loads nothing else."""
    text = json.dumps(data, separators=(",", ":")).replace("</", "<\\/")
    return TEMPLATE.read_text().replace("@DATA@", text)


def write(data, place=PLACE):
    """Writes matrix.json and index.html; returns the page's path."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "matrix.json").write_text(json.dumps(data, indent=1))
    path = Path(place) / "index.html"
    path.write_text(page(data))
    return path
