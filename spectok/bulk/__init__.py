"""Tokenises large collections of recordings into Parquet files; needs pyarrow, `pip install "spectok[bulk]"`.

    from spectok.bulk.run import tokenize

    tokenize(["recordings/"], "tokens/", model="spectok-16k-800", jobs=4)

docs/bulk.md describes the inputs, the outputs and what happens after an interruption.
"""
