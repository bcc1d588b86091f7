"""Stand-ins for Slurm's commands, for what is only read: they print what was recorded from the real
ones. tests/slurm/ has the real ones."""

import stat

import pytest


@pytest.fixture
def slurm_commands(tmp_path, monkeypatch):
    """``slurm_commands(squeue=(stdout, stderr, code), ...)`` puts these alone on PATH; it returns
    how they have been called so far."""
    folder = tmp_path / "bin"
    folder.mkdir()
    calls = tmp_path / "calls"
    monkeypatch.setenv("PATH", str(folder))

    def put(**answers):
        for name, (out, err, code) in answers.items():
            (tmp_path / f"{name}.out").write_text(out)
            (tmp_path / f"{name}.err").write_text(err)
            script = folder / name
            script.write_text(
                f"#!/bin/sh\n"
                f'echo "{name} $*" >> {calls}\n'
                f"/usr/bin/env | /bin/grep -E '^(S[A-Z]+_|LC_ALL)' >> {calls}.env\n"
                f"/bin/cat {tmp_path}/{name}.out\n/bin/cat {tmp_path}/{name}.err >&2\n"
                f"exit {code}\n"
            )
            script.chmod(script.stat().st_mode | stat.S_IXUSR)
        return calls.read_text().splitlines() if calls.exists() else []

    put.environment = lambda: (tmp_path / "calls.env").read_text()
    return put
