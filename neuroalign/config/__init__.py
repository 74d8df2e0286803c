"""The typed configuration: one source for defaults, validation, the JSON schema and the docs.

`load_config` reads YAML, `parse_config` takes a mapping (Snakemake's ``config``); both return a `Config`
and raise `Problems` that name every wrong key at once, with the nearest valid one.
"""

from neuroalign.config.load import Config, config_schema, load_config, parse_config

__all__ = ["Config", "config_schema", "load_config", "parse_config"]
