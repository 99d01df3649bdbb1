"""The kit that proves that an attention variant keeps its contract; `vgpt verify` and the tests run it.

The author of a variant calls it in one line of a test, once the variant is registered:

    from vgpt.conformance import failures

    def test_my_variant_keeps_the_contract():
        assert failures("mine:width=3") == []

`check_variant` returns every check with what was measured, the limit, and what is wrong in one line.
"""

from vgpt.conformance.kit import Result, check_names, check_variant, failures

__all__ = ["Result", "check_names", "check_variant", "failures"]
