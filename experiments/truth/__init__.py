"""What a trainer finds of features that are known, because the data were made of them.

``python -m experiments.truth`` writes docs/truth.json and docs/truth.md. Tokens are sums of known sparse directions, in
the manner of SynthSAEBench (Chanin and Garriga-Alonso 2026, arXiv 2602.14687): Zipf frequencies, parents and children,
correlated pairs, noise, more features than dimensions. Our trainer with its options and the trainers of SAELens,
sparsify and dictionary_learning see the same tokens. An untrained SAE is the floor; the true directions with an encoder
that is trained, and the true codes, are the ceiling.
"""
