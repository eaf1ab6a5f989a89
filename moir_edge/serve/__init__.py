"""A bundle behind OpenAI's chat API: requests, one worker for the device, metrics and a page."""
