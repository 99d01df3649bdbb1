"""Linear attention: a feature map instead of the softmax, and therefore a state of constant size instead of a cache."""
