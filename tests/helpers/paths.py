"""Paths of the checkout that tests read."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests" / "helpers"
SAMPLE = ROOT / "data" / "jarvis_dft3d_15k.jsonl.gz"
EXAMPLES = ROOT / "data" / "examples"
