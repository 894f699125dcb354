"""weft: an inference server for large language models in which every module has its own parallel layout."""
