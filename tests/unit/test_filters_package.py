import subprocess
import sys

import selfinstruct.filters
from selfinstruct.filters import Filter, Verdict

HEAVY = {"numba", "datasketch", "scipy", "datasets", "pyarrow", "pandas", "rouge_score", "nltk", "torch", "pydantic"}


def test_importing_the_filters_loads_nothing_heavy():
    code = "import selfinstruct.filters, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_everything_public_is_there_and_sorted():
    names = selfinstruct.filters.__all__
    assert len(set(names)) == len(names)
    assert all(hasattr(selfinstruct.filters, name) for name in names)
    assert selfinstruct.filters.Verdict is Verdict
    assert issubclass(selfinstruct.filters.WordCount, Filter)
