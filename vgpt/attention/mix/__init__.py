"""Different attention in different layers: a pattern of variants, repeated over the depth of the model."""
