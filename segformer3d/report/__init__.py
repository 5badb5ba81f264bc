"""Reports that people read: a small document model, its HTML and Markdown, and what an evaluation has to say."""
