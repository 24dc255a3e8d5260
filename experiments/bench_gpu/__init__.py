"""What training an SAE and extraction cost on a GPU: `make bench-gpu` writes docs/bench-gpu.md."""
