"""The study's second backbone: a LLaVA-class VLM that is trained here on scenes of icons."""
