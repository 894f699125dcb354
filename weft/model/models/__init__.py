"""Models: the decoder, and how it is built. No layer asks for a rank."""
