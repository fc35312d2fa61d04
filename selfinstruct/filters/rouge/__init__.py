"""ROUGE-L novelty, exact and fast: the engine of ``NoveltyIndex``.

It decides for each text whether its ROUGE-L F1 with any kept text exceeds a threshold, with the results of
``rouge_score`` to the last bit, without comparing it with every kept text. Start with ``index``, the public class; then

- ``token_store``: texts as arrays of token numbers;
- ``prefix_filter``: the few pairs that can exceed the threshold;
- ``lcs``: the longest common subsequence and the F1 of a pair, which decide;
- ``numpy_join`` and ``numba_join`` (with ``numba_kernels``): the two implementations of the search, equal in every
  result.
"""
