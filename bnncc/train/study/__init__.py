"""Studies: grids of training runs whose trials several processes share, with tables and figures of their results."""
