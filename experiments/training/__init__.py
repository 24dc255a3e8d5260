"""What training an SAE gives, beyond an SAE of the same form that was never trained.

``python -m experiments.training run --grid demo --activations runs/demo/activations --layer 3 --evaluation
runs/demo/activations-eval --embeddings runs/demo/embeddings-embedded.safetensors --work work/demo`` trains the settings
of a grid by the project's own training, each beside untrained controls, and measures both by the same code. What is
finished is in the work folder, so that a killed command goes on. ``python -m experiments.training table work/demo
work/real`` writes docs/training.json and docs/training.md.

The control is an untrained SAE: random unit directions, the encoder the decoder's transpose, TopK with the same K, and
the trained SAE's b_dec. Labels are used for the truth only: names are majority labels of the representative clips of
one half of the clips, and their F1 is measured on the other half.
"""
