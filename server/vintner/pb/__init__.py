"""The wire messages, generated from proto/ by `make proto`; only `pool` is written by hand."""
