"""Read and write checkpoint files.

- `load`: finds a checkpoint, chooses the module that reads its format, makes the model.
- `hugging_face`, `nanogpt`, `tensorflow`: one module for each format.
- `config_file`, `pickles`: JSON and pickles, which several formats share.
- `hub`: downloads from the Hugging Face hub.
- `save`: writes Hugging Face's format.
"""
