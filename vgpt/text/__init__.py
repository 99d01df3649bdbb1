"""Text and tokenizers: reading corpora, cleaning them, and turning characters into token ids and back."""
