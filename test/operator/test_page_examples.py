"""The first Python example of a page of docs/ runs as it is printed."""

import re
from pathlib import Path

import pytest
import torch

PAGES = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("page", ["cbed", "micro_scan", "structures", "atoms"])
def test_the_first_example_runs_as_printed(page, capsys, tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    code = re.search(r"^```python\n(.*?)^```", (PAGES / f"{page}.md").read_text(), re.S | re.M).group(1)
    exec(compile(code, f"docs/{page}.md", "exec"), {"__name__": "example"})
    assert not list(tmp_path.iterdir())
