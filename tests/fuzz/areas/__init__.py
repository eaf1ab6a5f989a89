"""The fuzzed areas: each module here registers one or more, and is found by being here."""
