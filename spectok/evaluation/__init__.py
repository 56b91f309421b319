"""Measuring a codec: metrics, the benchmark over a folder of speech, rivals, and the report.

The `eval` extra installs what this needs. Import the modules themselves; this one stays empty, so that the workers
that compute metrics need not load torch.
"""
