"""Where new rows come from: one module a source, each a function from params to raw rows."""
