"""Read and write checkpoint files.

- `load`: finds a checkpoint, chooses the module that reads its format, makes the model.
- `hugging_face`, `nanogpt`, `llmc`, `tensorflow`: one module for each format.
- `foreign`: recognises files by their first bytes, and names those of other tools.
- `config_file`, `pickles`, `biases`: JSON, pickles and absent biases, which several formats share.
- `hub`: downloads from the Hugging Face hub.
- `save`: writes Hugging Face's format.
"""
