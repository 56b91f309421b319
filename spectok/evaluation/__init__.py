"""Evaluates codecs: metrics, the evaluation over a folder of speech, and its report.

The extra `eval` installs the packages that this needs. Import the modules themselves; this one is empty, so that
processes that compute metrics need not load torch.
"""
