"""Help of every command: a line of what it does, an example, named values, at 80 columns."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from typing import Any

import h5py
import pytest
from paths import ROOT as ROOT_FOLDER

from phase2hpc.cli.command_line import command_line
from phase2hpc.cli.main import app
from phase2hpc.config.run_config import build_config

ROOT = command_line(app)


def commands() -> Iterator[tuple[str, ...]]:
    for name, command in ROOT.commands.items():
        below = getattr(command, "commands", None)
        yield from [(name,)] if below is None else [(name, sub) for sub in below]


def built(path: tuple[str, ...]) -> Any:
    """The command at this path, with its parameters."""
    group, context = ROOT, ROOT.make_context("phase2hpc", list(path), resilient_parsing=True)
    for word in path:
        group = group.commands[word]
        context = group.make_context(word, [], parent=context, resilient_parsing=True)
    return context


@pytest.fixture(autouse=True)
def at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERMINAL_WIDTH", "80")


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_every_command(path, command) -> None:
    code, out, err = command(*path, "-h")
    assert (code, err) == (0, "") and out == command(*path, "--help")[1]
    assert max(map(len, out.splitlines())) <= 80
    # Arguments as RUN, SOURCE... and [SOURCE...], in every version of typer.
    usage = re.search(r"^ *Usage: \S+ (.*(?:\n [^ ].*)*)", out, re.M)
    assert usage and not re.search(r"[{}]|\.\.\.\S*\.\.\.|\]\.\.\.", usage[1]), usage
    # No type in place of a value's name, no markup as it stands.
    assert not re.search(r"<\w+>|\bTEXT\b|`", out), out
    examples = re.findall(r"^ Example: (.*(?:\n [^ ].*)*)", out, re.M)
    assert examples, f"the docstring of {' '.join(path)} lacks 'Example: phase2hpc ...'"
    for example in examples:
        words = shlex.split(" ".join(example.split()))
        assert words[: len(path) + 1] == ["phase2hpc", *path]
        # Raises for an option that is not there.
        inner = built(path)
        inner.command.make_context(path[-1], words[len(path) + 1 :], parent=inner.parent)


@pytest.mark.parametrize("path", list(commands()), ids=" ".join)
def test_values_have_names_and_options_a_meaning(path) -> None:
    for parameter in built(path).command.params:
        flag = getattr(parameter, "is_flag", False)
        assert flag or parameter.metavar, f"{path}: no metavar for {parameter.name}"
        assert parameter.help, f"{path}: no help for {parameter.name}"


def test_groups_of_commands(command) -> None:
    out = command("-h")[1]
    assert out == command("--help")[1] and max(map(len, out.splitlines())) <= 80
    for panel in ("Data", "Training", "Jobs", "Results"):
        assert f"─ {panel} ─" in out
    for name in ROOT.commands:
        assert re.search(rf"^│ {name} ", out, re.M)
    assert command("-V") == command("--version")


TABLES = ("prepare", "levels", "status", "doctor", "predict", "evaluate", "store info",
          "store verify", "store merge", "runs list", "runs show", "runs compare",
          "runs prune")  # fmt: skip


@pytest.mark.parametrize("name", TABLES)
def test_what_prints_a_table_has_json_with_documented_fields(name) -> None:
    path = tuple(name.split())
    assert "--json" in {flag for p in built(path).command.params for flag in p.opts}
    assert f"### `{name}`" in (ROOT_FOLDER / "docs" / "command-line.md").read_text()


def documented(name: str) -> set[str]:
    """Names in backticks under the heading of this command."""
    page = (ROOT_FOLDER / "docs" / "command-line.md").read_text()
    section = page.partition(f"### `{name}`\n")[2].partition("\n#")[0]
    return set(re.findall(r"`(\w+)`", section))


def test_fields_of_levels(command) -> None:
    found = json.loads(command("levels", "--settings", "--json")[1])
    assert found.keys() == {"levels", "settings"}
    for records in found.values():
        assert all(record.keys() <= documented("levels") for record in records)
    decay = {(r["algorithms"][0], level): value for r in found["settings"]
             if r["name"] == "weight_decay" for level, value in r["values"].items()}  # fmt: skip
    for (algorithm, level), value in decay.items():
        assert value == build_config(algorithm, level, ["band_gap"]).training.weight_decay
    assert len({level for _, level in decay}) == 5


def test_fields_of_a_store(command, tiny) -> None:
    code, out, _ = command("store", "info", tiny.store, "--json")
    found = json.loads(out)
    assert code == 0 and found.keys() <= documented("store info")
    assert found["crystals"] == 150 and found["path"] == str(tiny.store)


def test_fields_of_prepare_verify_and_merge(command, tiny, tmp_path) -> None:
    records = [json.dumps(record) + "\n" for record in tiny.records]
    for name, part in (("a", records[::2]), ("b", records[1::2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(part))
        code, out, _ = command("prepare", tmp_path / f"{name}.jsonl", "--store",
                               tmp_path / f"{name}.h5", "--json")  # fmt: skip
        found = json.loads(out)
        assert code == 0 and found.keys() <= documented("prepare") and found["kept"] == 75
    both = tmp_path / "both.h5"
    code, out, _ = command("store", "merge", tmp_path / "a.h5", tmp_path / "b.h5", "--store", both,
                           "--json")  # fmt: skip
    merged = json.loads(out)
    assert code == 0 and merged.keys() <= documented("store merge") and merged["crystals"] == 150
    code, out, _ = command("store", "verify", both, "--json")
    found = json.loads(out)
    assert code == 0 and found.keys() <= documented("store verify")
    assert found["ok"] and found["content_hash"] == merged["content_hash"]
    data = bytearray(both.read_bytes())
    with h5py.File(both) as file:
        data[file["atomic_number"].id.get_chunk_info(0).byte_offset + 8] ^= 0xFF
    both.write_bytes(data)
    code, out, _ = command("store", "verify", both, "--json")
    found = json.loads(out)
    assert code == 1 and not found["ok"] and found["problems"]
    code, _, err = command("prepare", tiny.source, "--shards", 2, "--json")
    assert code == 2 and "not with --shards" in err
