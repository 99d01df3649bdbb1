"""Multi-head, multi-query and grouped-query attention: one family, told apart by the number of key/value heads."""
