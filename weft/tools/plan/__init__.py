"""Plans a layout: which fit, which few are worth measuring, and why the others are not. Counts are explain's."""
