"""ard: find, name and test the concepts inside audio language models (AR&D, ICASSP 2026)."""
