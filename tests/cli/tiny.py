"""The flags of a model that trains in a moment, for every test that types commands."""

_LINE = (
    "--n-layer 1 --n-head 2 --n-embd 16 --block-size 16 --batch-size 2 --max-steps 2 --eval-windows 2 "
    "--tracker journal --device cpu --dtype float32"
)
TINY = _LINE.split()
