"""Charts as SVG: axes, dots, colours that follow the theme, and files that stand alone."""
