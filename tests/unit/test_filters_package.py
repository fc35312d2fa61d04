import subprocess
import sys

import pytest

import selfinstruct.filters
from selfinstruct.filters import Filter, Verdict

HEAVY = {"numba", "datasketch", "scipy", "datasets", "pyarrow", "pandas", "rouge_score", "nltk", "torch", "pydantic"}


def test_importing_the_filters_loads_nothing_heavy():
    code = "import selfinstruct.filters, sys; print(*{name.split('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_all_lists_the_public_names_in_order():
    names = selfinstruct.filters.__all__
    assert names == sorted(names, key=lambda name: (not name.isupper(), name[0].islower(), name))
    assert len(set(names)) == len(names)
    assert all(hasattr(selfinstruct.filters, name) for name in names)
    assert selfinstruct.filters.Verdict is Verdict
    assert issubclass(selfinstruct.filters.WordCount, Filter)


def test_a_filter_without_a_method_is_refused_when_its_class_is_defined():
    with pytest.raises(TypeError, match=r"Empty implements neither verdict\(text\) nor decide\(texts\)"):
        type("Empty", (Filter,), {})


def test_a_filter_may_decide_on_many_texts_at_once():
    def decide(self, texts):
        return [self.keep(len(text)) for text in texts]

    longest = type("Length", (Filter,), {"name": "length", "decide": decide})()
    assert longest.verdict("abc").score == 3
    assert longest(["a", "b"]) == [True, True]
