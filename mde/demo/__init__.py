"""A page to try models on one's own pictures: the only room that imports Gradio."""
