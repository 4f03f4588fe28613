"""The embedded model: a trained GPT-2 in small, its tokenizer, and the scripts that made both."""
