"""The paper's prompts (Sec. 2.3)."""

CAPTION_PROMPT = "Generate a detailed caption for the audio clip"
NAME_PROMPT = "Describe the common sound-related concept present among these captions"
