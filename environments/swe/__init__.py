"""The environment `swe`: repair a small git repository whose tests fail."""
