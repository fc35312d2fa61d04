from __future__ import annotations

import pytest

import selfinstruct


def test_everything_that_is_public_is_there() -> None:
    for name in selfinstruct.__all__:
        assert getattr(selfinstruct, name) is not None
    assert selfinstruct.generate.__module__ == "selfinstruct.api"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = selfinstruct.nothing
